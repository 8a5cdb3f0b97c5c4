"""The steps of the pipeline: the only place where diffps and cache meet."""

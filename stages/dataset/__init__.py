"""The dataset: read as it lies on disk, checked for what contradicts itself, and told."""

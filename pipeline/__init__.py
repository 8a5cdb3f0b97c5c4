"""The shell around the stages: command line, parameters, progress, signals."""

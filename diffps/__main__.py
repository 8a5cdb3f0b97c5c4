"""`python -m diffps`: the command line."""

from pipeline.cli import main

main()

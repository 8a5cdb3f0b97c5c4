"""One head: what it is trained on, how it is trained into a folder, and what a finished one says of itself."""

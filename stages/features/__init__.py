"""Features, where the method and the store meet: what is read, how it is computed, kept, and given to heads."""

"""Finding one person: the most similar boxes of a gallery, and how far a similarity can be believed."""

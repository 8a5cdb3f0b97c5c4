"""Leaving no trace of an image or a person: whose images they are, what remembers them, and taking them out of it."""

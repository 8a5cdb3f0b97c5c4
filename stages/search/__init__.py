"""Searching people in pictures: the gallery on disk, and the page."""

"""Pictures from tensors and records: pure functions to a Sheet or a Chart, and their rendering as PNG and SVG."""

from diffps.figures.sheets import Bar, Chart, Line, Picture, Row, Sheet, Tile

__all__ = ["Bar", "Chart", "Line", "Picture", "Row", "Sheet", "Tile"]

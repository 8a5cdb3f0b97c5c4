"""Drawn street scenes: a person-search dataset that needs no download. Deterministic by seed."""

from diffps.datasets.streets.layout import StreetsConfig, draw

__all__ = ["StreetsConfig", "draw"]

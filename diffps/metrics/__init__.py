"""Scores of person search on plain NumPy arrays; knows no model and does not import torch."""

from diffps.metrics.detection import DetectionScores, score_detection
from diffps.metrics.search import Positives, SearchScores, score_search

__all__ = ["DetectionScores", "Positives", "SearchScores", "score_detection", "score_search"]

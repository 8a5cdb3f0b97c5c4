"""The small parameters under their earlier name; tests.world has them."""

from tests.world import ROOT, write_params

__all__ = ["ROOT", "write_params"]

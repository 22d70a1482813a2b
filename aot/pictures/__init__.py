"""Pictures of what a reduction did, a file each; what they are drawn with is in :mod:`.canvas`."""

from .canvas import save_png
from .token_map import Fate, LegendEntry, fates, legend, token_map

__all__ = ["Fate", "LegendEntry", "fates", "legend", "save_png", "token_map"]

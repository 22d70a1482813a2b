"""Pictures of what a reduction did, a file each; what they are drawn with is in :mod:`.canvas`."""

from .canvas import save_png
from .explorer import Transport
from .fates import Fate, LegendEntry, fates, legend
from .inspector import Inspection, inspect
from .timeline import timeline
from .token_map import token_map
from .transport_picture import transport_picture

__all__ = [
    "Fate", "Inspection", "LegendEntry", "Transport", "fates", "inspect", "legend", "save_png", "timeline", "token_map",
    "transport_picture",
]  # fmt: skip

"""Pictures of what a reduction did, a file each. :mod:`.canvas` holds what all of them are drawn with."""

from .canvas import save_png
from .explorer import Transport
from .inspector import Inspection, inspect
from .outcomes import CellOutcomes, LegendEntry, Outcome, cell_outcomes, legend
from .timeline import timeline
from .token_map import token_map
from .transport_picture import transport_picture

__all__ = [
    "CellOutcomes", "Inspection", "LegendEntry", "Outcome", "Transport", "cell_outcomes", "inspect", "legend",
    "save_png", "timeline", "token_map", "transport_picture",
]  # fmt: skip

"""A training small enough for a test."""

from __future__ import annotations

from comfyui_aot.aot.training.naming import Naming
from comfyui_aot.aot.training.trainer import Phase, Settings
from comfyui_aot.aot.training.warm_start import WarmStart

TINY = Settings(
    phases=(
        Phase(1, 1e-3, size=196, frames=(1,), radius=(13.0, 18.0), clips=2, layers=5),
        Phase(1, 1e-3, size=196, frames=(4,), radius=(13.0, 18.0), each=1, layers=10, sets=True, balanced=True),
        Phase(1, 1e-3, size=196, frames=(4,), radius=(13.0, 18.0), each=1),
    ),
    warm_start=WarmStart(frames=2),
    naming=Naming(clips=2),
    checkpoint_every=1,
)

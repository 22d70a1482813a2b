"""The training plan of the embedded model in the package."""

from __future__ import annotations

from .trainer import Phase, Settings

_SMALL = {"size": 196, "radius": (13.0, 22.0)}
_WHOLE = {"size": 378, "radius": (15.0, 28.0)}
_NAMING, _SHALLOW = 5, 10
_MANY = 6, 8, 12, 16
_LONG = 16, 24, 32, 48, 64
_LATE = {"each": 6, "moving": 0.85, "cut": 0.7, "sets": True, "balanced": True}

PLAN = Settings(
    phases=(
        # Five layers learn to look names up: in one frame, then in a few.
        Phase(15, 1e-3, frames=(1,), clips=4, layers=_NAMING, **_SMALL),
        Phase(165, 1e-3, frames=(1,), clips=4, layers=_NAMING, **_SMALL),
        Phase(300, 1e-3, frames=(4, 6), clips=2, layers=_NAMING, **_SMALL),
        # Ten layers learn to answer questions: about one frame, about a few small ones, about many of full size.
        Phase(500, 1e-3, frames=(1,), each=3, layers=_SHALLOW, **_SMALL),
        Phase(145, 9.17e-4, frames=(4, 6), each=3, layers=_SHALLOW, **_SMALL),
        Phase(450, 6.6e-4, frames=(4, 6), each=3, layers=_SHALLOW, moving=0.9, **_SMALL),
        Phase(300, 6e-4, frames=(4, 6), each=3, layers=_SHALLOW, moving=0.9, sets=True, **_SMALL),
        Phase(75, 5.8125e-4, frames=_MANY, each=3, layers=_SHALLOW, moving=0.8, sets=True, **_SMALL),
        Phase(200, 5.5e-4, frames=_MANY, each=3, layers=_SHALLOW, moving=0.8, sets=True, balanced=True, **_SMALL),
        Phase(100, 5.1667e-4, frames=(4, 8), each=3, layers=_SHALLOW, moving=0.7, sets=True, balanced=True, **_WHOLE),
        Phase(
            25, 5.0972e-4, frames=(8, 12, 16), each=3, layers=_SHALLOW, moving=0.7, sets=True, balanced=True, **_WHOLE
        ),
        # The other layers learn to put the answer of the first ten into words.
        Phase(250, 3e-4, frames=(4, 6, 8, 12), each=3, moving=0.7, sets=True, balanced=True, **_SMALL),
        # The first ten layers learn to look up among thousands of tokens.
        Phase(60, 2.5e-4, frames=(8, 16), each=3, layers=_SHALLOW, moving=0.7, sets=True, balanced=True, **_WHOLE),
        Phase(12, 2e-5, frames=(4, 8, 16), each=3, moving=0.7, sets=True, balanced=True, **_WHOLE),
        # All of it again, in up to 64 frames: small ones, which are as many tokens as 16 of full size, then whole ones.
        Phase(1, 1e-4, frames=(16,), layers=_SHALLOW, **_LATE, **_SMALL),
        Phase(20, 4e-4, frames=_MANY, layers=_SHALLOW, **_LATE, **_SMALL),
        Phase(200, 4e-4, frames=_LONG, layers=_SHALLOW, **_LATE, **_SMALL),
        Phase(100, 3e-4, frames=(8, 16, 32), layers=_SHALLOW, **_LATE, **_WHOLE),
        Phase(60, 2.5e-4, frames=(8, 16, 32, 64), **_LATE, **_SMALL),
        Phase(60, 1.5e-4, frames=(16, 32), layers=_SHALLOW, **_LATE, **_WHOLE),
        Phase(8, 1e-4, frames=(64,), layers=_SHALLOW, **_LATE, **_WHOLE),
        Phase(20, 2e-5, frames=(8, 16, 32), **_LATE, **_WHOLE),
    )
)

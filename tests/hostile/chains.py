"""Texts of stage chains, run on small tokens."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from hypothesis import strategies as st

from comfyui_aot.aot.stages import stages
from comfyui_aot.aot.stages.chain import PRESETS, is_fixed, parse
from comfyui_aot.aot.stages.options import settings_of
from comfyui_aot.aot.tokens.video_tokens import Extra, Layout, VideoTokens
from comfyui_aot.tests.hostile.token_files import require_sound
from comfyui_aot.tests.hostile.values import NUMBERS, TEXTS, Kind, texts
from comfyui_aot.tests.support.stages import asked

SETTINGS = tuple(f"{name}:{key}" for name, kind in stages().items() for key in settings_of(kind))
figures = (
    st.sampled_from([str(number)[:40] for number in NUMBERS])
    | st.floats(-2, 2).map(str)
    | st.integers(-3, 400).map(str)
    | st.sampled_from(("true", "false", "mean", "pot", "sinkhorn", "log", "cosine"))
    | texts
)


@st.composite
def stage(draw) -> str:
    """A stage with some of its settings."""
    name = draw(st.sampled_from(tuple(stages())))
    known = tuple(settings_of(stages()[name]))
    chosen = draw(st.dictionaries(st.sampled_from(known), figures, max_size=3)) if known else {}
    return name + (":" if chosen else "") + ",".join(f"{key}={value}" for key, value in chosen.items())


cases = st.lists(stage(), min_size=1, max_size=3).map("+".join) | st.lists(stage(), min_size=1).map("+".join) | texts
table = (
    *TEXTS,
    *PRESETS,
    *stages(),
    *(f"{setting}={text}" for setting in SETTINGS for text in ("nan", "-1", "1e999", "")),
    "+".join(["uniform:retention=0.9"] * 300),
    "uniform:" + "retention=0.5," * 3000,
)


@cache
def tokens(layout: Layout) -> VideoTokens:
    """Small tokens with all that an encoder can see."""
    shape = (layout.frames, layout.cells)
    generator = torch.Generator().manual_seed(1)
    encoded = VideoTokens.encoded(
        torch.randn(*shape, 8, generator=generator),
        layout,
        torch.rand(shape, generator=generator),
        torch.rand(shape, generator=generator),
        torch.arange(layout.frames, dtype=torch.float64),
        newline=torch.randn(8, generator=generator),
        extras={
            Extra.LAST: torch.rand(shape, generator=generator),
            Extra.KEYS: torch.randn(*shape, 4, generator=generator),
            Extra.HEAD: torch.rand(shape, generator=generator),
            Extra.GLOBAL: torch.randn(layout.frames, 6, generator=generator),
        },
    )
    return asked(encoded)


LAYOUTS = (Layout(5, (6, 8)), Layout(4, (6, 6), "average", "grid"))


def run(case: str, whole: Path, folder: Path) -> None:
    """Read it, and reduce tokens of one of two layouts with it."""
    is_fixed(case)
    layout = LAYOUTS[len(case) % 2]
    chain = parse(case)
    repr(chain)
    require_sound(chain(tokens(layout)))


def prepare(whole: Path) -> None:
    """The tokens."""
    for layout in LAYOUTS:
        tokens(layout)


KIND = Kind("stage chains", table, cases, prepare, run)

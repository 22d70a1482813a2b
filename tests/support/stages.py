"""Random videos of any layout, and what every stage promises of them."""

import dataclasses
import re

import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.tokens.video_tokens import Extra, Layout, Question, Role, VideoTokens


def video(
    frames=8, grid=(18, 18), dim=6, seed=0, dtype=torch.float32, pooling="bilinear", newline="one_token", extras=False
):
    """A random scene with noise; ``extras``: with everything that an encoder may see beside, and a question."""
    generator = torch.Generator().manual_seed(seed)
    layout = Layout(frames, grid, pooling, newline)
    base = torch.randn(1, layout.cells, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(frames, layout.cells, dim, generator=generator, dtype=torch.float64)
    shallow, deep = torch.rand(2, frames, layout.cells, generator=generator)
    last, head = torch.rand(2, frames, layout.cells, generator=generator)
    beside = {
        Extra.LAST: last,
        Extra.HEAD: head,
        Extra.KEYS: torch.randn(frames, layout.cells, 4, generator=generator),
        Extra.GLOBAL: torch.randn(frames, 5, generator=generator),
        Extra.TOWER: torch.rand(frames, layout.cells, generator=generator),
        Extra.RUNS: torch.arange(1, frames + 1).float().div(3).ceil(),
    }
    tokens = VideoTokens.encoded(
        (base + 0.5 * noise).to(dtype),
        layout,
        shallow,
        deep,
        torch.arange(frames, dtype=torch.float64),
        newline=torch.ones(dim, dtype=dtype),
        extras=beside if extras else {},
    )
    return asked(tokens, seed) if extras else tokens


def asked(tokens, seed=0):
    """Tokens with a random question on them."""
    return dataclasses.replace(tokens, question=question(tokens, seed))


def question(tokens, seed=0):
    """A random question about a video, with everything that may say how relevant its cells and frames are."""
    generator = torch.Generator().manual_seed(100 + seed)
    words = torch.randn(7, tokens.features.shape[1], generator=generator, dtype=torch.float64)
    places = torch.rand(tokens.layout.frames, tokens.layout.cells, generator=generator)
    frames = torch.rand(tokens.layout.frames, generator=generator)
    return Question("What is there?", words.to(tokens.features.dtype), {"clip": places}, {"assistant": frames})


LAYOUTS = (("bilinear", "one_token"), ("average", "grid"), ("bilinear", "grid"), ("none", "none"))


def attempted(stage, tokens):
    """The reduced tokens, or None and why there are none."""
    try:
        return stage(tokens), ""
    except InputError as error:
        return None, str(error)


def budgets(stage, tokens):
    """The fewest and the most tokens the stage can keep of a video, as it says when asked for fewer and for more."""
    said = [attempted(stage.at_tokens(asked), tokens)[1] for asked in (1, 100_000_000)]
    few, many = (re.search(r"give (\d+) to (\d+) tokens", refused) for refused in said)
    return int(few.group(1)) if few else 1, int(many.group(2))


def check_map(tokens, reduced):
    """W is a matrix of means, and the features are what it makes of the source, times what is stated beside it."""
    means = reduced.map.means
    assert all(float(factor.coordinates()[2].min()) >= 0 for factor in means.factors if factor.kept)
    torch.testing.assert_close(means.row_mass(), torch.ones(means.kept, dtype=torch.float64))
    assert float(means.column_mass().sum()) == pytest.approx(means.kept)
    torch.testing.assert_close(reduced.map.apply(tokens.features), reduced.features)


def check_places(reduced):
    """Every token stands on a cell of the language grid, a newline behind its row."""
    height, width = reduced.layout.language_grid
    newline = (reduced.role == Role.NEWLINE).long()
    ends = torch.stack((torch.full_like(newline, reduced.layout.frames), height + 0 * newline, width + newline), 1)
    assert bool(((reduced.place >= 0) & (reduced.place < ends)).all())
    assert bool((reduced.place[newline.bool(), 2] == width).all())
    assert set(reduced.role.tolist()) <= set(Role)

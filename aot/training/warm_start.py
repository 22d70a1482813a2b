"""Where training begins: a projector fitted in closed form; no LLM is run and no gradient is taken.

A token should mean to the LLM what its own word embeddings mean: where there is a red circle, the sum of the
embeddings of " red" and " circle"; elsewhere that of a blank. Frames whose contents are known give the pairs.
``linear_1`` takes seeded random directions of the tower's features. ``linear_2`` is the ridge regression from their
GELU, pooled to the language grid, onto the word embeddings; the model pools after ``linear_2``, but as pooling is
linear and its weights sum to 1 the order does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..evaluation.drawing import Shape, coverage
from ..evaluation.scenes import make_scene
from ..models.progress import Progress, ignore_progress

Embed = Callable[[str], Tensor]
"""From a word that is one token to its input embedding (D,)."""


@dataclass(frozen=True)
class WarmStart:
    """What the projector is fitted on and how.

    ``first_seed`` and ``frames`` name the clips, of which one frame each is taken. ``background`` is the token for a
    cell without a shape. ``full_coverage`` is the part of a cell that a shape must cover to be the whole of its
    meaning, ``shape_weight`` how much a cell with a shape counts beside one without, ``ridge`` the penalty relative
    to the features' power.
    """

    first_seed: int = 900_000
    frames: int = 96
    background: str = " "
    full_coverage: float = 0.5
    shape_weight: float = 10.0
    ridge: float = 1e-2
    seed: int = 0


def fit_projector(
    features: Callable[[Tensor], Tensor],
    pool: Callable[[Tensor], Tensor],
    embed: Embed,
    settings: WarmStart,
    *,
    on_progress: Progress = ignore_progress,
) -> dict[str, Tensor]:
    """The four tensors of a LLaVA-OneVision projector, float32, by their names in it.

    Args:
        features: from frames, uint8 (T, H, W, 3), to what the projector reads, (T, patches, V) float32.
        pool: from (T, patches, D) to the language grid, (T, side * side, D).
        embed: the LLM's word embeddings.
        settings: see :class:`WarmStart`.
        on_progress: called with (frames seen, frames).
    """
    tower_states, contents = [], []
    for i in range(settings.frames):
        scene = make_scene(settings.first_seed + i)
        frame = i % scene.settings.frames
        tower_states.append(features(scene.frames().pixels[frame : frame + 1]))
        contents.append((scene.shapes(frame), scene.settings.size))
        on_progress(i + 1, settings.frames)
    blank = embed(settings.background)
    first = _random_map(torch.cat(tower_states), len(blank), settings.seed)
    pooled = torch.cat([pool(functional.gelu(first(states))) for states in tower_states])
    side = round(pooled.shape[1] ** 0.5)
    cells = [cell_contents(shapes, size, side) for shapes, size in contents]
    counts = torch.cat([torch.where(covered > 0, settings.shape_weight, 1.0) for covered, _ in cells])
    targets = torch.cat([_meaning(covered, words, embed, blank, settings) for covered, words in cells])
    second = _ridge(pooled.flatten(0, 1), targets, counts, settings.ridge)
    return {
        "linear_1.weight": first.weight,
        "linear_1.bias": first.bias,
        "linear_2.weight": second.weight,
        "linear_2.bias": second.bias,
    }


def cell_contents(shapes: Sequence[Shape], size: int, side: int) -> tuple[Tensor, list[tuple[str, str]]]:
    """What each cell of a ``side`` x ``side`` grid over a frame of ``size`` pixels shows, in raster order.

    Returns:
        The part of the cell that its largest shape covers, float32 (side * side,), and that shape's colour and
        kind; two empty words where no shape touches it.
    """
    if not shapes:
        return torch.zeros(side * side), [("", "")] * side**2
    grids = [functional.adaptive_avg_pool2d(torch.from_numpy(coverage(shape, size))[None], side)[0] for shape in shapes]
    covered, which = torch.stack(grids).flatten(1).max(dim=0)
    words = [
        (shapes[i].colour, shapes[i].kind) if part > 0 else ("", "")
        for i, part in zip(which.tolist(), covered.tolist(), strict=True)
    ]
    return covered.float(), words


def _meaning(covered: Tensor, words: list[tuple[str, str]], embed: Embed, blank: Tensor, settings: WarmStart) -> Tensor:
    """The embedding each cell should have: (cells, D)."""
    meant = torch.stack([embed(f" {colour}") + embed(f" {kind}") if colour else blank for colour, kind in words])
    part = (covered / settings.full_coverage).clamp(max=1)[:, None]
    return part * meant + (1 - part) * blank


def _random_map(features: Tensor, width: int, seed: int) -> nn.Linear:
    """A layer that takes seeded random directions of the features, to mean about 0 and variance 1 over them."""
    generator = torch.Generator().manual_seed(seed)
    mean, depth = features.mean((0, 1)), features.shape[-1]
    power = features.var((0, 1)).mean()
    weight = torch.randn(width, depth, generator=generator) / (depth * power).sqrt()
    return _linear(weight, 0.5 * torch.randn(width, generator=generator) - weight @ mean)


def _ridge(features: Tensor, targets: Tensor, counts: Tensor, penalty: float) -> nn.Linear:
    """The weighted ridge regression from (n, D) onto (n, E), solved in float64; the bias is not penalised."""
    x = torch.cat((features, torch.ones(len(features), 1)), dim=1).double()
    weighted = x * counts[:, None]
    gram = weighted.T @ x
    ridge = torch.full((len(gram),), penalty * gram.diagonal().mean(), dtype=torch.float64)
    ridge[-1] = 0
    solution = torch.linalg.solve(gram + ridge.diag(), weighted.T @ targets.double()).float()
    return _linear(solution[:-1].T, solution[-1])


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = (nn.Parameter(t.contiguous(), requires_grad=False) for t in (weight, bias))
    return layer

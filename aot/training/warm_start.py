"""The projector at the start of training, fitted in closed form without the LLM and without gradients.

A visual token should equal word embeddings of the LLM: at a red circle the sum of the embeddings of " red" and
" circle", elsewhere the embedding of a blank. The fit uses drawn frames, whose contents are known. ``linear_1`` takes
seeded random directions of the tower's features. ``linear_2`` is the ridge regression from their GELU, pooled to the
language grid, onto the word embeddings. The model pools after ``linear_2``; the order does not matter, as pooling is
linear and its weights sum to 1.
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
"""Takes a word of one token; returns its input embedding, (D,) floating."""


@dataclass(frozen=True)
class WarmStart:
    """Settings of the projector's fit.

    Args:
        first_seed: seed of the first clip.
        frames: number of clips, of which one frame each is taken.
        background: the word for a cell without a shape.
        full_coverage: part of a cell, 0 to 1, from which on a shape's words alone are its target.
        shape_weight: weight of a cell with a shape, relative to one without.
        ridge: penalty relative to the power of the features.
        seed: of the random directions.
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
    """Fit the projector of a LLaVA-OneVision.

    Args:
        features: takes frames, (T, H, W, 3) uint8; returns the projector's input, (T, patches, V) float32.
        pool: takes (T, patches, D); returns (T, side * side, D) on the language grid.
        embed: the LLM's word embeddings.
        settings: see :class:`WarmStart`.
        on_progress: called with (frames done, frames).

    Returns:
        The projector's four tensors, float32, by name.
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
    """What each cell of a grid over a frame shows, in raster order.

    Args:
        shapes: of the frame.
        size: side of the frame, in pixels.
        side: of the grid, in cells.

    Returns:
        The part of each cell that its largest shape covers, (side * side,) float32, and that shape's colour and
        kind; two empty words if no shape touches the cell.
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
    """The target embedding of each cell, (cells, D)."""
    meant = torch.stack([embed(f" {colour}") + embed(f" {kind}") if colour else blank for colour, kind in words])
    part = (covered / settings.full_coverage).clamp(max=1)[:, None]
    return part * meant + (1 - part) * blank


def _random_map(features: Tensor, width: int, seed: int) -> nn.Linear:
    """A layer of seeded random directions of the features, with outputs of mean about 0 and variance about 1."""
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

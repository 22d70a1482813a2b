"""The embedded model's projector, fitted in closed form: no LLM is run and no gradient is taken.

A token of a picture should mean to the LLM what its own word embeddings mean: where there is a red circle, the
sum of the embeddings of " red" and " circle"; elsewhere that of a blank. Pictures whose contents are known
(:mod:`..evaluation.shapes`) give the pairs. ``linear_1`` takes seeded random directions of the tower's features.
``linear_2`` is the ridge regression from their GELU, pooled to the language grid, onto the word embeddings; the
model pools after ``linear_2``, but as pooling is linear and its weights sum to 1 the order does not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaOnevisionForConditionalGeneration

from ..evaluation import shapes
from .base import Progress, ignore_progress

Embed = Callable[[str], Tensor]
"""From a word that is one token to its input embedding (D,)."""

Normalise = Callable[[np.ndarray], Tensor]
"""From a picture, uint8 (H, W, 3), to the tower's pixel values, float32 (3, H, W)."""


@dataclass(frozen=True)
class FitSettings:
    """What the projector is fitted on and how.

    ``first_seed`` and ``stills`` name the pictures, ``shapes`` is the range of how many shapes each shows.
    ``background`` is the token for a cell without a shape: a blank, with which the LLM named the shapes of unseen
    pictures more often than with "." or " background". ``full_coverage`` is the part of a cell that a shape must
    cover to be the whole of its meaning, ``shape_weight`` how much a cell with a shape counts beside one without,
    ``ridge`` the penalty relative to the features' power.
    """

    first_seed: int = 0
    stills: int = 64
    shapes: tuple[int, int] = (3, 6)
    background: str = " "
    full_coverage: float = 0.5
    shape_weight: float = 10.0
    ridge: float = 1e-2
    seed: int = 0


def fit_projector(
    model: LlavaOnevisionForConditionalGeneration,
    embed: Embed,
    settings: FitSettings,
    normalise: Normalise,
    *,
    on_progress: Progress = ignore_progress,
) -> dict[str, Tensor]:
    """The four tensors of a LLaVA-OneVision projector, float32, by their names in it.

    Args:
        model: gives the vision tower, the pooling and the sizes; it is not changed.
        embed: the LLM's word embeddings.
        settings: see :class:`FitSettings`.
        normalise: from a picture to the tower's pixel values.
        on_progress: called with (pictures seen, pictures).
    """
    stills = [shapes.draw_still(settings.first_seed + i, shapes=settings.shapes) for i in range(settings.stills)]
    features = []
    for still in stills:
        features.append(_tower_features(model, normalise(still.image)))
        on_progress(len(features), len(stills))
    first = _random_map(torch.cat(features), model.config.text_config.hidden_size, settings.seed)
    pooled = torch.cat([model.model.apply_pooling(functional.gelu(first(f))) for f in features])
    cells = [cell_contents(still, round(pooled.shape[1] ** 0.5)) for still in stills]
    shown = torch.cat([covered for covered, _ in cells])
    targets = torch.cat([_meaning(covered, words, embed, settings) for covered, words in cells])
    counts = torch.where(shown > 0, settings.shape_weight, 1.0)
    second = _ridge(pooled.flatten(0, 1), targets, counts, settings.ridge)
    return {
        "linear_1.weight": first.weight,
        "linear_1.bias": first.bias,
        "linear_2.weight": second.weight,
        "linear_2.bias": second.bias,
    }


def cell_contents(still: shapes.Still, side: int) -> tuple[Tensor, list[tuple[str, str]]]:
    """What each cell of a ``side`` x ``side`` grid over the picture shows, in raster order.

    Returns:
        The part of the cell that its largest shape covers, float32 (side * side,), and that shape's colour and
        kind; of a cell without a shape they mean nothing.
    """
    size = len(still.image)
    grids = [
        functional.adaptive_avg_pool2d(torch.from_numpy(shapes.coverage(shape, size))[None], side)[0]
        for shape in still.shapes
    ]
    covered, which = torch.stack(grids).flatten(1).max(dim=0)
    words = [(still.shapes[i].colour, still.shapes[i].kind) for i in which.tolist()]
    return covered.float(), words


def _meaning(covered: Tensor, words: list[tuple[str, str]], embed: Embed, settings: FitSettings) -> Tensor:
    """The embedding each cell should have: (cells, D)."""
    meant = torch.stack([embed(f" {colour}") + embed(f" {kind}") for colour, kind in words])
    part = (covered / settings.full_coverage).clamp(max=1)[:, None]
    return part * meant + (1 - part) * embed(settings.background)


@torch.no_grad()
def _tower_features(model: LlavaOnevisionForConditionalGeneration, pixels: Tensor) -> Tensor:
    """The hidden state the projector reads, without the class token: (1, patches, D) of pixels (3, H, W)."""
    states = model.model.vision_tower(pixels[None], output_hidden_states=True).hidden_states
    return states[model.config.vision_feature_layer][:, 1:]


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

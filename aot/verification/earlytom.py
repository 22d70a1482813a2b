"""EarlyTom's recorded cases: from pixels through a stock SigLIP, with frames merged inside it, to the cells chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from transformers import SiglipVisionConfig, SiglipVisionModel

from ..models.importance import ATTENTION
from ..models.inside import Blocks, block_list, inside
from ..stages.methods.earlytom import SIGLIP_BLOCKS, EarlyTom, EarlyTomCells, Likeness
from ..tokens.frame_merge import FrameMerge
from ..tokens.layout import Layout
from ..tokens.video_tokens import Extra, VideoTokens
from .findings import Case, Findings

MERGING = {"mixing": "mixing", "naive_mixing": "average"}


def check(case: Case, params: dict[str, Any], dtype: torch.dtype, findings: Findings) -> None:
    """The runs after every block, the frames and cells that are left, and their tokens."""
    tower = stock_tower(case, params, dtype)
    watched = Watched(
        EarlyTom(
            similarity=params["tau"],
            layers="/".join(str(layer_at(block, params["layers"])) for block in params["prune_layers"]),
            window=params["max_window"],
            smoothing=params["ema"],
            merging=MERGING[params.get("mode", "mixing")],
        )
    )
    pixels = (case["pixels"].to(dtype) / 255 - 0.5) / 0.5
    layers = params["layers"]
    blocks = Blocks(block_list(tower), layers)
    with torch.no_grad(), inside([watched], blocks, len(pixels)) as done:
        states = tower(pixels, output_hidden_states=True).hidden_states[layers]
    findings.decided(torch.tensor(watched.runs), case["steps"].long())
    findings.decided(torch.tensor(watched.groups), case["groups"].long())
    tokens = encoded(states, done.merge, {Extra.TOWER: done.attention, **done.notes}, params)
    reduced = EarlyTomCells(target=params["retain_ratio"])(tokens)
    row = torch.zeros(len(pixels), dtype=torch.long).index_copy_(
        0, torch.from_numpy(done.merge.place), torch.arange(done.merge.left)
    )
    frame, y, x = reduced.place.T
    findings.decided(torch.stack((row[frame], y * tokens.layout.language_grid[1] + x), 1), case["place"].long())
    recorded = case["recorded_tokens"]
    softmax = torch.float32 if params["softmax"] == "float32" else recorded.dtype
    findings.values(reduced.features[:, :: params["stride"]], recorded, computed=softmax)


@dataclass(frozen=True)
class Watched:
    """The stage, and the runs of frames that it finds.

    Args:
        stage: itself.
        runs: of all its blocks, one after another.
        groups: of the frames left, after the last block.
    """

    stage: EarlyTom
    runs: list[tuple[int, int]] = field(default_factory=list)
    groups: list[tuple[int, int]] = field(default_factory=list)

    name = EarlyTom.name
    title = EarlyTom.title

    def settings(self) -> dict[str, Any]:
        """The stage's."""
        return self.stage.settings()

    def blocks(self, used: int) -> Sequence[int]:
        """The stage's.

        Args:
            used: blocks of the tower whose output reaches the LLM.
        """
        return self.stage.blocks(used)

    def merge(self, states: Tensor) -> FrameMerge:
        """The stage's, with its runs noted.

        Args:
            states: (T, P, D) floating.
        """
        self.runs.extend(self._runs(states))
        return self.stage.merge(states)

    def notes(self, states: Tensor) -> Mapping[str, Tensor]:
        """The stage's, with its runs noted.

        Args:
            states: (T', P, D) floating.
        """
        self.groups.extend(self._runs(states))
        return self.stage.notes(states)

    def _runs(self, states: Tensor) -> list[tuple[int, int]]:
        return self.stage.runs(Likeness.of(states, self.stage.window))


def layer_at(block: int, blocks: int) -> int:
    """The layer of SigLIP so400m that is as deep as a block of a tower.

    Args:
        block: its index.
        blocks: of the tower.
    """
    return round((block + 1) * SIGLIP_BLOCKS / blocks) - 1


def encoded(states: Tensor, merge: FrameMerge, notes: dict[str, Any], params: dict[str, Any]) -> VideoTokens:
    """The tokens of frames left; the projector is the identity.

    Args:
        states: (T', N, D) floating.
        merge: of all frames.
        notes: (T', ...) each, by the names of extras.
        params: of the case.
    """
    layout = Layout(merge.frames, (params["grid"], params["grid"]), params["pooling"], "none")
    received = torch.ones(layout.frames, layout.cells)
    extras = {name: merge.spread(cast(Tensor, value)) for name, value in notes.items()}
    times = torch.arange(layout.frames).double()
    return VideoTokens.encoded(states, layout, received, received, times, extras=extras, merge=merge)


def stock_tower(case: Case, params: dict[str, Any], dtype: torch.dtype) -> SiglipVisionModel:
    """The stock SigLIP with the cases' weights.

    Args:
        case: with position embeddings of its own, perhaps.
        params: of the case.
        dtype: of the weights.
    """
    weights = params["companions"]["tower"]
    hidden = len(weights["embed.b"])
    config = SiglipVisionConfig(
        hidden_size=hidden,
        intermediate_size=len(weights["0.fc1.b"]),
        num_hidden_layers=params["layers"],
        num_attention_heads=params["heads"],
        image_size=params["grid"] * params["patch"],
        patch_size=params["patch"],
        vision_use_head=False,
    )
    with torch.random.fork_rng():
        model = SiglipVisionModel(config).eval().to(dtype)  # pyright: ignore[reportArgumentType] - its decorator hides self
    model.set_attn_implementation(ATTENTION)
    state = {name: weights_of(name, weights, case) for name in model.state_dict()}
    model.load_state_dict({name: value.to(dtype) for name, value in state.items()})
    for name, module in list(model.named_modules()):
        if hasattr(module, "post_layernorm"):  # transformers 4 gives the last hidden states behind it
            cast(Any, model.get_submodule(name)).post_layernorm = torch.nn.Identity()
    return model


PARTS = {
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.out_proj": "o",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}
"""The cases' names of a block's parts, by the stock model's."""


def weights_of(name: str, weights: Case, case: Case) -> Tensor:
    """The cases' tensor by the stock model's name.

    Args:
        name: in the stock model.
        weights: the tower's.
        case: with position embeddings of its own, perhaps.
    """
    kind = name.rpartition(".")[2]
    if "patch_embedding" in name:
        return weights["embed.w" if kind == "weight" else "embed.b"]
    if "position_embedding" in name:
        return case.get("pos", weights["pos"])
    if "post_layernorm" in name:
        return torch.ones_like(weights["embed.b"]) if kind == "weight" else torch.zeros_like(weights["embed.b"])
    _, _, inner = name.partition("layers.")
    block, _, part = inner.partition(".")
    return weights[f"{block}.{PARTS[part.rpartition('.')[0]]}.{kind[0]}"]

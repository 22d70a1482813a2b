"""What the last token of a prompt attends to in a video: how much each frame matters to an LLM that reads the question.

The prompt is read as ever, but for its last token, which is read alone, by attention that gives its weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError
from ..tokens.video_tokens import Role, VideoTokens

if TYPE_CHECKING:
    from .base import VideoLLM

PLAIN = "eager"
"""The attention that gives its weights."""

LATER_PART = 2 / 3
"""Layers from here on are asked: of 24 those from 16 to 23, as DyToK's authors do."""


@torch.no_grad()
def attended_frames(model: VideoLLM, tokens: VideoTokens, question: str) -> Tensor:
    """How much of its attention to the video a prompt's last token gives to a token of each frame, on average.

    Args:
        model: reads all of these tokens, and the question.
        tokens: of this model.
        question: about the video.

    Returns:
        (T,) float32 on the CPU. A softmax over the video's tokens alone, mean over heads, a frame's tokens and layers.

    Raises:
        InputError: no layer of the model attends to all tokens.
    """
    tokens = tokens.to_language_grid()
    inputs = model.prompt_inputs(tokens, question)
    cache, end = model.new_cache(), len(inputs) - 1
    model.forward(inputs.part(0, end), cache)
    with _weights_of_last_layers(model) as weights:
        model.forward(inputs.part(end, end + 1), cache)
    rows = [each[0, :, -1] for each in weights if each.shape[-1] == len(inputs)]
    if not rows:
        raise InputError(
            f"No later layer of {model.name} attends to all tokens, so that it cannot say which frames matter; take "
            "another model as assistant."
        )
    order = model.reading_order(tokens).cpu()
    # A newline of the family's own comes after the last token.
    attention = torch.stack(rows)[:, :, inputs.visual.to(rows[0].device)][..., : len(order)].float().mean(1).cpu()
    seen = tokens.role.cpu()[order] != int(Role.NEWLINE)
    frame, attention = tokens.frame.cpu()[order][seen], attention[:, seen]
    shares = (attention / attention.sum(1, keepdim=True)).mean(0)
    frames = tokens.layout.frames
    sums = torch.zeros(frames).index_add_(0, frame, shares)
    return sums / torch.bincount(frame, minlength=frames).clamp(min=1)


@contextmanager
def _weights_of_last_layers(model: VideoLLM) -> Iterator[list[Tensor]]:
    """The attention weights, (1, heads, n, m) each, of the later layers while the block runs; as before after it."""
    llm, found = model.language_model, []
    layers = [module for name, module in llm.named_modules() if name.rpartition(".")[2] == "self_attn"]

    def keep(module: Any, given: Any, output: Any) -> None:
        if isinstance(output, tuple) and len(output) > 1 and isinstance(output[1], Tensor):
            found.append(output[1])

    before = model.attention
    hooks = [layer.register_forward_hook(keep) for layer in layers[int(len(layers) * LATER_PART) :]]
    try:
        llm.set_attn_implementation(PLAIN)
        yield found
    finally:
        llm.set_attn_implementation(before)
        for hook in hooks:
            hook.remove()

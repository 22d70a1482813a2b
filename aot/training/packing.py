"""Many questions behind one video in one pass, each blind to the others.

The video's tokens are by far the most of a prompt. So all questions about a clip stand one after another behind
them, at the positions each would have alone, and attention lets a question see the video and itself only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

IGNORED = -100
PACKED_ATTENTION = "aot_packed"
"""The name under which :func:`packed_attention` is known to transformers."""


@dataclass(frozen=True)
class Pack:
    """Questions and their answers, n tokens in all, behind a prefix of P.

    Args:
        ids: (n,) long.
        positions: (P + n,) long, the prefix's first.
        mask: (1, 1, n, P + n) bool: what each of the n may attend to.
        targets: (n,) long: the token that should follow where it is part of an answer, else ``IGNORED``.
        first: (questions,) long: where each question ends and the first token of its answer is predicted.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    targets: Tensor
    first: Tensor


def pack(prefix: int, pairs: Sequence[tuple[Tensor, Tensor]]) -> Pack:
    """Questions as (question ids (q,), answer ids (a,) with the end token) behind a prefix of so many tokens.

    A text with an answer of no tokens is read and nothing more.
    """
    ids, positions, targets, owners, first = [], [torch.arange(prefix)], [], [], []
    start = 0
    for owner, (question, answer) in enumerate(pairs):
        read = torch.cat((question, answer[:-1]))
        ids.append(read)
        positions.append(torch.arange(prefix, prefix + len(read)))
        targets.append(torch.cat((torch.full((len(read) - len(answer),), IGNORED), answer)))
        owners.append(torch.full((len(read),), owner))
        first.append(start + len(question) - 1)
        start += len(read)
    owner = torch.cat(owners)
    own = (owner[:, None] == owner[None]).tril()
    mask = torch.cat((torch.ones(len(owner), prefix, dtype=torch.bool), own), 1)
    return Pack(torch.cat(ids), torch.cat(positions), mask[None, None], torch.cat(targets), torch.tensor(first))


class Pointing:
    """How much attention tokens behind the prefix pay to what they should see.

    Args:
        rows: (looks,) long: the tokens, counted from the end of the prefix.
        about: (looks, seen) bool: which of the first ``seen`` tokens each should see, one at least.
        layers: the layers that are watched, in each the heads ``heads``.
    """

    def __init__(self, rows: Tensor, about: Tensor, layers: Sequence[int], heads: Sequence[int]) -> None:
        self.rows, self.about, self.layers, self.heads = rows, about, frozenset(layers), list(heads)
        self._losses: list[Tensor] = []

    def watch(self, layer: int, query: Tensor, key: Tensor, mask: Tensor, scaling: float) -> None:
        """Note a layer's attention.

        Args:
            layer: its index.
            query: (1, heads, n, d) floating, of the tokens after the prefix.
            key: (1, heads, P + n, d) floating.
            mask: (1, 1, n, P + n) bool.
            scaling: of the scores.
        """
        if layer in self.layers and len(self.rows):
            scores = query[0, self.heads][:, self.rows] @ key[0, self.heads].mT * scaling
            scores = scores.masked_fill(~mask[0, 0, self.rows], float("-inf"))
            log_share = scores.log_softmax(-1)[..., : self.about.shape[1]]
            self._losses.append(-log_share.masked_fill(~self.about, float("-inf")).logsumexp(-1).mean())

    @property
    def loss(self) -> Tensor:
        """The mean negative logarithm of the share of attention; 0 where there was nothing to watch."""
        return torch.stack(self._losses).mean() if self._losses else torch.zeros(())


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    pointing: Sequence[Pointing] = (),
    **_: object,
) -> tuple[Tensor, None]:
    """Attention for transformers: causal over the prefix, by the mask of a :class:`Pack` over what is behind it.

    Two calls in place of one, as a causal call does half the work and needs no mask: with thousands of video tokens
    and hundreds of question tokens that is most of it.
    """
    prefix = key.shape[2] - attention_mask.shape[2]
    groups = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, 1) for states in (key, value))
    for each in pointing:
        each.watch(module.layer_idx, query[:, :, prefix:], key, attention_mask, scaling)
    parts = [
        functional.scaled_dot_product_attention(
            query[:, :, :prefix], key[:, :, :prefix], value[:, :, :prefix], is_causal=True, scale=scaling
        ),
        functional.scaled_dot_product_attention(
            query[:, :, prefix:], key, value, attn_mask=attention_mask, scale=scaling
        ),
    ]
    return torch.cat(parts, 2).transpose(1, 2), None


AttentionInterface.register(PACKED_ATTENTION, packed_attention)

"""Many questions about one video in one pass, each blind to the others.

The video's tokens are by far the most of a prompt. So all questions about a clip follow them in one sequence. Each
question has the positions that it would have alone, and attends to the video and to itself only.
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
"""The name of :func:`packed_attention` in transformers."""


@dataclass(frozen=True)
class Pack:
    """Questions and their answers, n tokens in all, after a prefix of P tokens.

    Args:
        ids: (n,) long, token ids.
        positions: (P + n,) long, those of the prefix first.
        mask: (1, 1, n, P + n) bool, true where a token may attend.
        targets: (n,) long, the next token where it belongs to an answer, else ``IGNORED``.
        first: (questions,) long, the last token of each question, which predicts the first token of its answer.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    targets: Tensor
    first: Tensor


def pack(prefix: int, pairs: Sequence[tuple[Tensor, Tensor]]) -> Pack:
    """Put questions and answers into one sequence after a prefix.

    Args:
        prefix: number of its tokens.
        pairs: (question ids (q,) long, answer ids (a,) long with the end token). An answer may have no tokens; its
            text then has no targets.
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
    """The loss of attention that should go to certain tokens.

    Args:
        rows: (looks,) long, the tokens that look, counted from the end of the prefix.
        about: (looks, seen) bool, which of the sequence's first ``seen`` tokens each should look at, one at least.
        layers: indices of the layers to watch.
        heads: indices of the heads to watch in each of these layers.
    """

    def __init__(self, rows: Tensor, about: Tensor, layers: Sequence[int], heads: Sequence[int]) -> None:
        self.rows, self.about, self.layers, self.heads = rows, about, frozenset(layers), list(heads)
        self._losses: list[Tensor] = []

    def watch(self, layer: int, query: Tensor, key: Tensor, mask: Tensor, scaling: float) -> None:
        """Add a layer's attention to the loss.

        Args:
            layer: its index.
            query: (1, heads, n, d) floating, of the tokens after the prefix.
            key: (1, heads, P + n, d) floating.
            mask: (1, 1, n, P + n) bool.
            scaling: factor of the scores.
        """
        if layer in self.layers and len(self.rows):
            scores = query[0, self.heads][:, self.rows] @ key[0, self.heads].mT * scaling
            scores = scores.masked_fill(~mask[0, 0, self.rows], float("-inf"))
            log_share = scores.log_softmax(-1)[..., : self.about.shape[1]]
            self._losses.append(-log_share.masked_fill(~self.about, float("-inf")).logsumexp(-1).mean())

    @property
    def loss(self) -> Tensor:
        """The mean of -log(share of attention on the right tokens), () floating; 0 if nothing was watched."""
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
    """Attention for transformers: causal over the prefix, and by the mask of a :class:`Pack` after it.

    It makes two calls in place of one. A causal call does half the work and needs no mask, and with thousands of
    video tokens and hundreds of question tokens it is most of the work.

    Args:
        module: the attention layer.
        query: (1, heads, P + n, d) floating.
        key: (1, key heads, P + n, d) floating.
        value: (1, key heads, P + n, d) floating.
        attention_mask: (1, 1, n, P + n) bool.
        scaling: factor of the scores; None means 1 / sqrt(d).
        pointing: losses that watch the attention.

    Returns:
        (1, P + n, heads, d) floating, and no attention weights.
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

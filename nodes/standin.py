"""What this pack uses of ComfyUI, under the same names, small and strict: used where there is no ComfyUI.

It follows ComfyUI 0.3.64: a schema field or an input option that this release lacks is a TypeError here too, and a
node class is locked while it executes. Only :mod:`.comfy` imports this file.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, cast

import av
import psutil
import torch
from PIL import Image as PILImage
from tqdm import tqdm

from ..aot.files import make_folder, whole_file
from ..aot.video.container import open_track, require_file

_base: ContextVar[Path | None] = ContextVar("base", default=None)


@contextmanager
def directories(base: Path) -> Iterator[None]:
    """Inside this block the folders `input`, `output`, `temp`, `models` and `user` are those of `base`."""
    token = _base.set(Path(base).resolve())
    try:
        yield
    finally:
        _base.reset(token)


def _folder(*parts: str) -> str:
    return str((_base.get() or Path.cwd()).joinpath(*parts))


class _Folders(type):
    @property
    def models_dir(cls) -> str:
        return _folder("models")


class folder_paths(metaclass=_Folders):
    """ComfyUI's folders, under one base."""

    folder_names_and_paths: ClassVar = frozenset({"VLLM", "LLM", "text_encoders"})

    @staticmethod
    def get_input_directory() -> str:
        return _folder("input")

    @staticmethod
    def get_output_directory() -> str:
        return _folder("output")

    @staticmethod
    def get_temp_directory() -> str:
        return _folder("temp")

    @staticmethod
    def get_user_directory() -> str:
        return _folder("user")

    @staticmethod
    def get_folder_paths(category: str) -> list[str]:
        return [_folder("models", category)]

    @staticmethod
    def add_model_folder_path(category: str, path: str) -> None:
        """Does nothing: there are no other folders."""


class ModelPatcher:
    """A module, the device it computes on and the one it is moved to when unused."""

    def __init__(self, model: torch.nn.Module, load_device: torch.device, offload_device: torch.device):
        self.model, self.load_device, self.offload_device = model, load_device, offload_device

    def detach(self) -> None:
        """Move the module to its offload device."""
        self.model.to(self.offload_device)


class model_management:
    """Devices and loading, without ComfyUI's memory accounting: a loaded model stays where it is."""

    @staticmethod
    def get_torch_device() -> torch.device:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")

    @staticmethod
    def unet_offload_device() -> torch.device:
        return torch.device("cpu")

    @staticmethod
    def load_models_gpu(models: Sequence[ModelPatcher], memory_required: int, force_full_load: bool) -> None:
        for patcher in models:
            patcher.model.to(patcher.load_device)

    current_loaded_models: ClassVar[tuple[Any, ...]] = ()

    @staticmethod
    def free_memory(memory_required: int, device: torch.device, keep_loaded: Sequence[Any]) -> None:
        """Does nothing: no other model needs the memory."""

    @staticmethod
    def get_free_memory(device: torch.device) -> int:
        return psutil.virtual_memory().available if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]

    @staticmethod
    def get_total_memory(device: torch.device) -> int:
        return psutil.virtual_memory().total if device.type == "cpu" else torch.cuda.mem_get_info(device)[1]

    @staticmethod
    def soft_empty_cache() -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @staticmethod
    def throw_exception_if_processing_interrupted() -> None:
        """Does nothing: outside ComfyUI Ctrl+C interrupts."""


class ProgressBar:
    """A progress bar on standard error, if that is a terminal."""

    def __init__(self, total: int) -> None:
        self._bar = tqdm(total=total, leave=False, disable=None)

    def update_absolute(self, value: int, total: int | None = None) -> None:
        if total is not None:
            self._bar.total = total
        self.update(value - self._bar.n)

    def update(self, value: int) -> None:
        self._bar.update(value)
        if self._bar.total is not None and self._bar.n >= self._bar.total:
            self._bar.close()


@dataclass(frozen=True, kw_only=True)
class Input:
    """An input that takes only a link."""

    io_type: ClassVar[str] = "*"
    id: str = field(kw_only=False)
    display_name: str | None = None
    optional: bool = False
    tooltip: str | None = None
    lazy: bool | None = None
    extra_dict: dict[str, Any] = field(default_factory=dict, init=False)

    def get_io_type(self) -> str:
        return self.io_type


@dataclass(frozen=True, kw_only=True)
class WidgetInput(Input):
    """An input with a widget for its value."""

    default: Any = None
    socketless: bool | None = None
    force_input: bool | None = None


@dataclass(frozen=True, kw_only=True)
class _BooleanInput(WidgetInput):
    label_on: str | None = None
    label_off: str | None = None


class NumberDisplay(str, Enum):
    """How a number is drawn."""

    number = "number"
    slider = "slider"


@dataclass(frozen=True, kw_only=True)
class _IntInput(WidgetInput):
    min: int | None = None
    max: int | None = None
    step: int | None = None
    control_after_generate: bool | None = None
    display_mode: NumberDisplay | None = None


@dataclass(frozen=True, kw_only=True)
class _FloatInput(WidgetInput):
    min: float | None = None
    max: float | None = None
    step: float | None = None
    round: float | None = None
    display_mode: NumberDisplay | None = None


@dataclass(frozen=True, kw_only=True)
class _StringInput(WidgetInput):
    multiline: bool = False
    placeholder: str | None = None
    dynamic_prompts: bool | None = None


class UploadType(str, Enum):
    """What the upload button of a combo uploads."""

    image = "image_upload"
    audio = "audio_upload"
    video = "video_upload"
    model = "file_upload"


class FolderType(str, Enum):
    """Which folder has a combo's files."""

    input = "input"
    output = "output"
    temp = "temp"


@dataclass(frozen=True, kw_only=True)
class _ComboInput(WidgetInput):
    options: Sequence[str | int] = field(default=(), kw_only=False)
    control_after_generate: bool | None = None
    upload: UploadType | None = None
    image_folder: FolderType | None = None


@dataclass(frozen=True)
class Output:
    """An output."""

    io_type: ClassVar[str] = "*"
    id: str | None = None
    display_name: str | None = None
    tooltip: str | None = None
    is_output_list: bool = False

    def get_io_type(self) -> str:
        return self.io_type


_Output = Output  # SocketType has an Output of its own.
_Kind = TypeVar("_Kind", bound=Input)


class SocketType(Protocol[_Kind]):
    """A type of socket, as the classes of its inputs and outputs."""

    io_type: str
    Input: type[_Kind]
    Output: type[_Output]


def _type(io_type: str, input_class: type[_Kind]) -> SocketType[_Kind]:
    bound = {"io_type": io_type, "__module__": __name__}
    sockets = {"Input": type("Input", (input_class,), bound), "Output": type("Output", (Output,), bound)}
    return cast("SocketType[_Kind]", type(io_type, (), bound | sockets))


def Custom(io_type: str) -> SocketType[Input]:
    """A socket type of that name, with its `Input` and `Output` classes."""
    return _type(io_type, Input)


class Hidden(str, Enum):
    """What a node may receive beside its inputs."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"


@dataclass(frozen=True)
class HiddenHolder:
    """The hidden values that a node's schema names; None for the others."""

    unique_id: str | None = None
    prompt: Any = None
    extra_pnginfo: Any = None


@dataclass(frozen=True)
class Schema:
    """A node's names, inputs and outputs, with the fields of ComfyUI 0.3.64."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: Sequence[Input] = ()
    outputs: Sequence[Output] = ()
    hidden: Sequence[Hidden] = ()
    description: str = ""
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_api_node: bool = False
    not_idempotent: bool = False
    enable_expand: bool = False

    def validate(self) -> None:
        """Raise ValueError if two sockets share an id: ComfyUI would refuse the node."""
        ids = [socket.id for socket in (*self.inputs, *self.outputs) if socket.id is not None]
        if twice := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"{self.node_id}: ids must be unique among inputs and outputs, not {twice}")


class _Locked(type):
    def __setattr__(cls, name: str, value: Any) -> None:
        raise AttributeError(f"{cls.__name__} is locked while it executes: cannot set {name!r}")


class ComfyNode:
    """The base of all nodes: a class that is never instantiated, with `define_schema` and `execute`."""

    hidden: ClassVar[Any] = None
    """A HiddenHolder while the node executes; None before."""

    @classmethod
    def define_schema(cls) -> Schema:
        raise NotImplementedError

    @classmethod
    def execute(cls, **inputs: Any) -> NodeOutput:
        raise NotImplementedError

    @classmethod
    def validate_inputs(cls, **inputs: Any) -> bool | str:
        raise NotImplementedError

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> Any:
        raise NotImplementedError

    @classmethod
    def check_lazy_status(cls, **inputs: Any) -> list[str]:
        return [name for name, value in inputs.items() if value is None]

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        schema = cls.define_schema()
        schema.validate()
        return schema

    @classmethod
    def PREPARE_CLASS_CLONE(cls, hidden: dict[Hidden, Any]) -> type[ComfyNode]:
        holder = HiddenHolder(**{Hidden(key).name: value for key, value in hidden.items()})
        return _Locked(cls.__name__, (cls,), {"hidden": holder, "__module__": cls.__module__})


class NodeOutput:
    """What a node returns: its outputs in order, what the editor shows, and the graph it expands into."""

    def __init__(self, *args: Any, ui: Any = None, expand: dict[str, Any] | None = None) -> None:
        self.args, self.ui, self.expand = args, ui, expand

    @property
    def result(self) -> tuple | None:
        return self.args or None


class GraphNode:
    """A node of a graph that another expands into."""

    def __init__(self, id: str, class_type: str, inputs: dict[str, Any]) -> None:
        self.id, self.class_type, self.inputs = id, class_type, inputs

    def out(self, index: int) -> list[Any]:
        """The link to one of its outputs."""
        return [self.id, index]


class GraphBuilder:
    """The graph that a node expands into, with ids that no other graph has."""

    def __init__(self) -> None:
        self.prefix, self.nodes = f"{uuid.uuid4().hex[:8]}.", {}

    def node(self, class_type: str, id: str | None = None, **inputs: Any) -> GraphNode:
        """Add a node."""
        made = GraphNode(self.prefix + (id or str(len(self.nodes) + 1)), class_type, inputs)
        self.nodes[made.id] = made
        return made

    def finalize(self) -> dict[str, Any]:
        """The nodes in API format."""
        return {key: {"class_type": node.class_type, "inputs": node.inputs} for key, node in self.nodes.items()}


class PreviewImage:
    """Images (B, H, W, 3), floating, 0 to 1, saved as PNG files in the temp folder."""

    def __init__(self, image: torch.Tensor, animated: bool = False, cls: type[ComfyNode] | None = None):
        folder = Path(folder_paths.get_temp_directory())
        make_folder(folder)
        self.animated = animated
        self.values = []
        prefix = f"ComfyUI_temp_{uuid.uuid4().hex[:8]}"
        for count, pixels in enumerate(image, start=1):
            name = f"{prefix}_{count:05}_.png"
            array = (255 * pixels).clamp(0, 255).to("cpu", torch.uint8).numpy()
            with whole_file(folder / name) as part:
                PILImage.fromarray(array).save(part, format="PNG", compress_level=1)
            self.values.append({"filename": name, "subfolder": "", "type": "temp"})

    def as_dict(self) -> dict[str, Any]:
        return {"images": self.values, "animated": (self.animated,)}


class PreviewVideo:
    """Videos that are saved already, each as its file name, subfolder and type of folder."""

    def __init__(self, values: Sequence[dict[str, str]]) -> None:
        self.values = list(values)

    def as_dict(self) -> dict[str, Any]:
        return {"images": self.values, "animated": (True,)}


class PreviewText:
    """A text for the editor."""

    def __init__(self, value: str) -> None:
        self.value = value

    def as_dict(self) -> dict[str, Any]:
        return {"text": (self.value,)}


class args:
    """ComfyUI's command line."""

    disable_metadata: ClassVar = False


@dataclass(frozen=True)
class VideoComponents:
    """A decoded video: images (T, H, W, 3) float32, 0 to 1, and frames a second."""

    images: torch.Tensor
    frame_rate: Fraction
    audio: None = None


class VideoFromFile:
    """A video file, without a trim and without its sound."""

    def __init__(self, file: str) -> None:
        self._file = file

    def get_stream_source(self) -> str:
        return self._file

    def get_dimensions(self) -> tuple[int, int]:
        with open_track(require_file(self._file), "AUTO") as (_, track):
            return track.width, track.height

    def get_duration(self) -> float:
        with open_track(require_file(self._file), "AUTO") as (container, _):
            return container.duration / av.time_base

    def get_components(self) -> VideoComponents:
        with open_track(require_file(self._file), "AUTO") as (container, track):
            frames = [torch.from_numpy(each.to_ndarray(format="rgb24")) / 255 for each in container.decode(track)]
            return VideoComponents(torch.stack(frames), Fraction(track.average_rate))


class ComfyExtension:
    """What a pack's `comfy_entrypoint` returns."""

    async def on_load(self) -> None:
        """Called once when the pack is loaded."""

    async def get_node_list(self) -> list[type[ComfyNode]]:
        """The pack's node classes."""
        raise NotImplementedError


class io:
    """The names of ComfyUI's module `io` that schemas use."""

    Schema = Schema
    ComfyNode = ComfyNode
    NodeOutput = NodeOutput
    Custom = staticmethod(Custom)
    Hidden = Hidden
    Input = Input
    WidgetInput = WidgetInput
    Output = Output
    UploadType = UploadType
    FolderType = FolderType
    NumberDisplay = NumberDisplay
    Int = _type("INT", _IntInput)
    Float = _type("FLOAT", _FloatInput)
    Boolean = _type("BOOLEAN", _BooleanInput)
    String = _type("STRING", _StringInput)
    Combo = _type("COMBO", _ComboInput)
    Image = _type("IMAGE", Input)
    Video = _type("VIDEO", Input)
    Clip = _type("CLIP", Input)
    AnyType = _type("*", Input)


class InputImpl:
    """The names of ComfyUI's class of videos."""

    VideoFromFile = VideoFromFile


class ui:
    """The names of ComfyUI's module `ui`."""

    PreviewImage = PreviewImage
    PreviewVideo = PreviewVideo
    PreviewText = PreviewText

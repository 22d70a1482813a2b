"""Nodes that save tokens to a file and load them: encode today, reduce and answer another day."""

from __future__ import annotations

from types import MappingProxyType

from ..aot.errors import InputError
from ..aot.streaming import Stream
from ..aot.tokens.storage import load, save
from ..aot.tokens.video_tokens import VideoTokens
from .comfy import io, list_files, output_directory, resolve_file, schema, unused_output
from .models import ready
from .sockets import AOTTokens
from .workflow.requirements import Kind

CATEGORY = "AOT"
SUFFIX = ".aot.safetensors"
"""End of the name of a file of tokens, which tells it from one of weights."""
NOTHING = "(saved tokens appear here)"
"""The option of the widget while there is no file."""


def saved_tokens() -> list[str]:
    """Names of the token files in ComfyUI's output and input folders, newest first."""
    files = list_files("output", SUFFIX) + list_files("input", SUFFIX)
    return [name for name, _ in sorted(files, key=lambda each: -each[1])]


def description(tokens: VideoTokens) -> str:
    """One line about saved or loaded tokens.

    Args:
        tokens: of any stage.
    """
    stages = ", ".join(record.name for record in tokens.history)
    size = sum(tensor.numel() * tensor.element_size() for tensor in (tokens.features, *tokens.extras.values())) / 2**20
    return f"{tokens.tokens_kept} of {tokens.tokens_full} tokens of {tokens.model} ({stages}), {size:.0f} MiB"


class AOTSaveTokens(io.ComfyNode):
    """Tokens to a file in the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTSaveTokens",
            display_name="Save Tokens (AOT)",
            category=CATEGORY,
            description="Write tokens and their token map to a file in ComfyUI's output folder. No file is "
            "overwritten.",
            search_aliases=["cache tokens", "export tokens", "store video tokens"],
            inputs=[
                AOTTokens.Input("tokens", tooltip="Of Encode Video, or of any stage."),
                io.String.Input(
                    "filename_prefix",
                    default="aot_tokens/video",
                    tooltip="Folder and start of the file name, inside ComfyUI's output folder. A number is added.",
                ),
            ],
            outputs=[
                AOTTokens.Output(display_name="tokens", tooltip="The same tokens."),
                io.String.Output(display_name="file", tooltip="The file's name, for Load Tokens."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, tokens: VideoTokens | Stream, filename_prefix: str) -> io.NodeOutput:
        """Write."""
        tokens = ready(tokens)
        with unused_output(filename_prefix, SUFFIX) as path:
            save(tokens, path)
        name = f"{path.relative_to(output_directory().resolve()).as_posix()} [output]"
        return io.NodeOutput(tokens, name, ui={"text": (f"{name}: {description(tokens)}",)})


class AOTLoadTokens(io.ComfyNode):
    """Tokens of a file."""

    NEEDS = MappingProxyType({"file": Kind("tokens", lambda name, inputs: inputs.get("saved") or resolve_file(name))})

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        files = saved_tokens()
        return schema(
            node_id="AOTLoadTokens",
            display_name="Load Tokens (AOT)",
            category=CATEGORY,
            description="Read tokens that Save Tokens wrote, from ComfyUI's output or input folder. No video is "
            "decoded or encoded.",
            search_aliases=["cached tokens", "import tokens", "open video tokens"],
            inputs=[
                io.Combo.Input(
                    "file", options=files or [NOTHING], tooltip="Files of tokens in the output and input folders."
                ),
                io.String.Input(
                    "saved",
                    default="",
                    optional=True,
                    force_input=True,
                    tooltip="A file name from Save Tokens, used in place of the file chosen above.",
                ),
            ],
            outputs=[AOTTokens.Output(display_name="tokens", tooltip="For stages, pictures and Answer.")],
        )

    @classmethod
    def execute(cls, file: str, saved: str = "") -> io.NodeOutput:
        """Read."""
        tokens = load(resolve_file(saved or file))
        return io.NodeOutput(tokens, ui={"text": (description(tokens),)})

    @classmethod
    def validate_inputs(cls, file: str, saved: str = "") -> bool | str:
        """Check before the run that the chosen file is there; a linked name is not known yet."""
        if file is None or saved is None:
            return True
        try:
            resolve_file(saved or file)
        except InputError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str, saved: str = "") -> tuple[int, int]:
        """Changes when the file does. A linked name changes with the node it comes from."""
        if saved is None:
            return 0, 0
        stat = resolve_file(saved or file).stat()
        return stat.st_mtime_ns, stat.st_size


NODES = (AOTSaveTokens, AOTLoadTokens)

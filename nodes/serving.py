"""The node that names a running vLLM server."""

from __future__ import annotations

from ..aot.answering.vllm_server import Connection, read_key
from .comfy import io, schema
from .comfy import key_file as path_of_key
from .models import CATEGORY
from .sockets import AOTServerType


class AOTServer(io.ComfyNode):
    """Where a server is, and what it serves."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTServer",
            display_name="vLLM Server (AOT)",
            category=CATEGORY,
            description="A running vLLM server that answers in place of the local LLM: Answer sends it the reduced "
            "tokens as prompt embeddings. Start it with --enable-prompt-embeds on the LLM that aot export wrote.",
            search_aliases=["vLLM", "OpenAI API", "remote model", "prompt embeddings"],
            inputs=[
                io.String.Input("url", default="http://127.0.0.1:8000", tooltip="Where it listens."),
                io.String.Input(
                    "model", default="", tooltip="The model's name on the server; empty where it serves only one."
                ),
                io.String.Input(
                    "key_file",
                    default="",
                    tooltip="Name of a text file in ComfyUI's user/aot_keys that holds the API key, if the server asks "
                    "for one. The key itself is in no workflow.",
                ),
            ],
            outputs=[AOTServerType.Output(display_name="server", tooltip="For Answer.")],
        )

    @classmethod
    def execute(cls, url: str, model: str, key_file: str) -> io.NodeOutput:
        """Name it; nothing is sent yet."""
        return io.NodeOutput(_server(url, model, key_file))

    @classmethod
    def fingerprint_inputs(cls, url: str, model: str, key_file: str) -> tuple[str, str, str]:
        """The key may change in its file."""
        return url, model, read_key(path_of_key(key_file)) if key_file else ""

    @classmethod
    def validate_inputs(cls, url: str) -> bool | str:
        """Whether the URL is one. ComfyUI reports one cause once for every input named here; a key is read later."""
        try:
            if url is not None:
                _server(url, "", "")
        except ValueError as error:
            return str(error)
        return True


def _server(url: str, model: str, name: str) -> Connection:
    return Connection(url.strip(), model.strip(), read_key(path_of_key(name)) if name else "")


NODES = (AOTServer,)

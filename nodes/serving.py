"""The node that names a running vLLM server."""

from __future__ import annotations

from types import MappingProxyType

from ..aot.answering.server_address import read_key
from ..aot.answering.vllm_server import Connection
from .comfy import io, schema
from .comfy import key_file as path_of_key
from .models import CATEGORY
from .permissions import require_server
from .sockets import AOTServerType
from .workflow.requirements import Kind


class AOTServer(io.ComfyNode):
    """Where a server is, and what it serves."""

    NEEDS = MappingProxyType(
        {
            "url": Kind("server", lambda url, inputs: require_server(url.strip())),
            "key_file": Kind("key", lambda name, inputs: read_key(path_of_key(name), str(inputs.get("url")).strip())),
        }
    )

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
                io.String.Input(
                    "url",
                    default="http://127.0.0.1:8000",
                    tooltip="Where it listens. One that is not this machine has to be in user/aot_servers.txt: a "
                    "workflow alone cannot send what is in a video to anybody.",
                ),
                io.String.Input(
                    "model", default="", tooltip="The model's name on the server; empty where it serves only one."
                ),
                io.String.Input(
                    "key_file",
                    default="",
                    tooltip="Name of a text file in ComfyUI's user/aot_keys, if the server asks for an API key: the "
                    "server's address on its first line, the key on its second. The key itself is in no workflow, and "
                    "goes to that address only.",
                ),
            ],
            outputs=[AOTServerType.Output(display_name="server", tooltip="For Answer.")],
        )

    @classmethod
    def execute(cls, url: str, model: str, key_file: str) -> io.NodeOutput:
        """Name it; nothing is sent yet."""
        return io.NodeOutput(_server(url, model, key_file))

    @classmethod
    def fingerprint_inputs(cls, url: str, model: str, key_file: str) -> tuple[str, str, int, int]:
        """The key may change in its file. It is not told here: ComfyUI keeps this beside the workflow."""
        if not key_file:
            return url, model, 0, 0
        status = path_of_key(key_file).stat()
        return url, model, status.st_mtime_ns, status.st_size

    @classmethod
    def validate_inputs(cls, url: str) -> bool | str:
        """Whether the URL is one, and allowed. ComfyUI reports one cause for every input named here: the key waits."""
        try:
            if url is not None:
                _server(url, "", "")
        except ValueError as error:
            return str(error)
        return True


def _server(url: str, model: str, name: str) -> Connection:
    url = url.strip()
    require_server(url)
    return Connection(url, model.strip(), read_key(path_of_key(name), url) if name else "")


NODES = (AOTServer,)

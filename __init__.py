"""ComfyUI-AOT: anchor optimal transport for video LLMs, as nodes."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """What ComfyUI calls to load the pack. The nodes are imported here, so that the library can do without."""
    from .nodes import AOTExtension

    return AOTExtension()

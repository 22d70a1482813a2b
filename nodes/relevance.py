"""The node that loads a CLIP with both halves, for questions about a video."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ..aot.errors import InputError
from ..aot.models.relevance_model import RelevanceModel, relevance_models_in
from .comfy import io, load_models, model_folders, model_patcher, offload_device, schema, stoppable, torch_device
from .models import CATEGORY
from .sockets import AOTRelevance
from .workflow.requirements import Kind

NOTHING = "no CLIP with both halves in the model folders"

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoadedRelevance:
    """What travels on an AOT_RELEVANCE link: a relevance model under ComfyUI's memory management.

    Args:
        model: a CLIP or a SigLIP.
        patcher: ComfyUI's handle of its weights.
    """

    model: RelevanceModel
    patcher: Any

    def ready(self) -> RelevanceModel:
        """The model, moved to its device if ComfyUI had unloaded it."""
        load_models([self.patcher])
        return self.model


def installed() -> dict[str, Path]:
    """The relevance models in ComfyUI's folders, by the name in the list."""
    models: dict[str, Path] = {}
    for _, folder in model_folders():
        if os.path.isdir(folder):
            for name, path in relevance_models_in(folder, _LOG.warning).items():
                models.setdefault(name, path)
    return models


def located(name: str) -> Path:
    """The folder of a model.

    Args:
        name: in the list.

    Raises:
        InputError: there is no such model.
    """
    models = installed()
    if name not in models:
        raise InputError(
            f"There is no relevance model {name!r}; put the folder of a CLIP or SigLIP with both halves, such as "
            f"clip-vit-large-patch14-336, into models/VLLM. There: {', '.join(models) or 'none'}."
        )
    return models[name]


def _present(name: str, inputs: Mapping[str, Any]) -> None:
    located(name)


class AOTLoadRelevanceModel(io.ComfyNode):
    """A CLIP with both halves, from ComfyUI's model folders."""

    NEEDS = MappingProxyType({"model": Kind("model", _present)})

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return schema(
            node_id="AOTLoadRelevanceModel",
            display_name="Load Relevance Model (AOT)",
            category=CATEGORY,
            description="Load a CLIP or SigLIP with both halves from models/VLLM (also models/LLM and "
            "models/text_encoders), to say how relevant every place of a video is to a question: for Ask About, and "
            "CDPruner as released. Nothing is downloaded.",
            search_aliases=["CLIP", "SigLIP", "relevance", "CDPruner", "CLIP vision", "question"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=[*installed()] or [NOTHING],
                    tooltip="Folders of models, as Hugging Face has them: config.json, model.safetensors, tokenizer "
                    "and preprocessor_config.json.",
                )
            ],
            outputs=[AOTRelevance.Output(display_name="relevance_model", tooltip="For Ask About.")],
        )

    @classmethod
    def execute(cls, model: str) -> io.NodeOutput:
        """Load."""
        folder, rest, target = located(model), offload_device(), torch_device()
        with stoppable(torch.device("cpu")):
            loaded = RelevanceModel.load(folder, name=model, device=rest)
        height, width = loaded.grid
        kind = "as released" if loaded.is_clip else "patches through its pooling head, which is not as released"
        line = f"{model}: {height} x {width} places of {loaded.side} x {loaded.side} pixels, {kind}"
        patcher = model_patcher(loaded.hf_model, target, rest)
        return io.NodeOutput(LoadedRelevance(loaded, patcher), ui={"text": (line,)})

    @classmethod
    def validate_inputs(cls, model: str) -> bool | str:
        """Whether there is such a model."""
        if model is not None:
            try:
                located(model)
            except InputError as error:
                return str(error)
        return True


NODES = (AOTLoadRelevanceModel,)

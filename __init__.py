"""ComfyUI-AOT: anchor optimal transport for video LLMs, as nodes and as a library.

    from comfyui_aot import AnchorOT, ask, load_model, load_video

    model = load_model("embedded")
    tokens = model.encode(load_video("clip.mp4"))
    print(ask(model, AnchorOT(retention=0.25)(tokens), "What happens?").text)

Every name below is imported at its first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .aot.answering.answer import Answer
    from .aot.answering.answerer import Answerer, LocalAnswerer, ask
    from .aot.answering.generation import Generation
    from .aot.answering.session import Session
    from .aot.answering.vllm_server import Connection, VllmServer
    from .aot.comparison.compare import compare
    from .aot.comparison.variants import Variant, expand
    from .aot.errors import InputError
    from .aot.models import load as load_model
    from .aot.models.base import VideoLLM
    from .aot.models.relevance_model import RelevanceModel
    from .aot.stages.base import Budgeted, Reduction, Stage
    from .aot.stages.before_tokens import FrameStage, TowerStage
    from .aot.stages.chain import Chain, parse
    from .aot.stages.inner import InnerStage
    from .aot.stages.methods.anchor_ot.both_phases import AnchorOT
    from .aot.stages.methods.anchor_ot.inter import InterFrame
    from .aot.stages.methods.anchor_ot.intra import IntraFrame
    from .aot.stages.methods.anchor_ot.plus import AnchorOTPlus
    from .aot.stages.methods.cdpruner import CDPruner
    from .aot.stages.methods.controls.cosine import CosineMerge
    from .aot.stages.methods.controls.random_choice import RandomTokens
    from .aot.stages.methods.controls.top_importance import TopImportance
    from .aot.stages.methods.controls.uniform import UniformGrid
    from .aot.stages.methods.dart import DART
    from .aot.stages.methods.dtd import DTD
    from .aot.stages.methods.dycoke import DyCoke
    from .aot.stages.methods.dycoke_inner import DyCokeInner
    from .aot.stages.methods.dytok import DyToK
    from .aot.stages.methods.earlytom import EarlyTom, EarlyTomCells
    from .aot.stages.methods.evs import EVS
    from .aot.stages.methods.fastv import FastV
    from .aot.stages.methods.fastvid import FastVID
    from .aot.stages.methods.flashvid import FlashVID
    from .aot.stages.methods.flashvid_inner import FlashVIDInner
    from .aot.stages.methods.frames.aks import FramesForQuestion
    from .aot.stages.methods.frames.differ import FramesThatDiffer
    from .aot.stages.methods.frames.fewer import FewerFrames
    from .aot.stages.methods.frames.smaller import SmallerFrames
    from .aot.stages.methods.holitom import HoliTom
    from .aot.stages.methods.holitom_inner import HoliTomInner
    from .aot.stages.methods.positions import KeepPositions
    from .aot.stages.methods.prunevid import PruneVid
    from .aot.stages.methods.pyramiddrop import PyramidDrop
    from .aot.stages.methods.semvid import SemVID
    from .aot.stages.methods.tome import TokenMerging
    from .aot.stages.methods.vidcom2 import VidCom2
    from .aot.stages.methods.visionzip import VisionZip
    from .aot.stages.methods.vscan import VScan
    from .aot.stages.options import Setting
    from .aot.streaming import stream
    from .aot.tokens.question import Question
    from .aot.tokens.storage import load as load_tokens
    from .aot.tokens.storage import save as save_tokens
    from .aot.tokens.token_map import TokenMap
    from .aot.tokens.video_tokens import VideoTokens
    from .aot.video.choice import with_scores
    from .aot.video.frames import Frames
    from .aot.video.sampling import Sampling
    from .aot.video.video_source import load_video, open_video

__all__ = [
    "DART",
    "DTD",
    "EVS",
    "AnchorOT",
    "AnchorOTPlus",
    "Answer",
    "Answerer",
    "Budgeted",
    "CDPruner",
    "Chain",
    "Connection",
    "CosineMerge",
    "DyCoke",
    "DyCokeInner",
    "DyToK",
    "EarlyTom",
    "EarlyTomCells",
    "FastV",
    "FastVID",
    "FewerFrames",
    "FlashVID",
    "FlashVIDInner",
    "FrameStage",
    "Frames",
    "FramesForQuestion",
    "FramesThatDiffer",
    "Generation",
    "HoliTom",
    "HoliTomInner",
    "InnerStage",
    "InputError",
    "InterFrame",
    "IntraFrame",
    "KeepPositions",
    "LocalAnswerer",
    "PruneVid",
    "PyramidDrop",
    "Question",
    "RandomTokens",
    "Reduction",
    "RelevanceModel",
    "Sampling",
    "SemVID",
    "Session",
    "Setting",
    "SmallerFrames",
    "Stage",
    "TokenMap",
    "TokenMerging",
    "TopImportance",
    "TowerStage",
    "UniformGrid",
    "VScan",
    "Variant",
    "VidCom2",
    "VideoLLM",
    "VideoTokens",
    "VisionZip",
    "VllmServer",
    "ask",
    "compare",
    "expand",
    "load_model",
    "load_tokens",
    "load_video",
    "open_video",
    "parse",
    "save_tokens",
    "stream",
    "with_scores",
]

WEB_DIRECTORY = "./web"

_METHODS = "aot.stages.methods"
_PUBLIC = {
    "Answer": "aot.answering.answer",
    "Answerer": "aot.answering.answerer",
    "AnchorOT": f"{_METHODS}.anchor_ot.both_phases",
    "AnchorOTPlus": f"{_METHODS}.anchor_ot.plus",
    "Budgeted": "aot.stages.base",
    "CDPruner": f"{_METHODS}.cdpruner",
    "Chain": "aot.stages.chain",
    "Connection": "aot.answering.vllm_server",
    "CosineMerge": f"{_METHODS}.controls.cosine",
    "DART": f"{_METHODS}.dart",
    "DTD": f"{_METHODS}.dtd",
    "DyCoke": f"{_METHODS}.dycoke",
    "DyCokeInner": f"{_METHODS}.dycoke_inner",
    "FastV": f"{_METHODS}.fastv",
    "DyToK": f"{_METHODS}.dytok",
    "EVS": f"{_METHODS}.evs",
    "EarlyTom": f"{_METHODS}.earlytom",
    "EarlyTomCells": f"{_METHODS}.earlytom",
    "FastVID": f"{_METHODS}.fastvid",
    "FewerFrames": f"{_METHODS}.frames.fewer",
    "FlashVID": f"{_METHODS}.flashvid",
    "FlashVIDInner": f"{_METHODS}.flashvid_inner",
    "FrameStage": "aot.stages.before_tokens",
    "Frames": "aot.video.frames",
    "FramesForQuestion": f"{_METHODS}.frames.aks",
    "FramesThatDiffer": f"{_METHODS}.frames.differ",
    "Generation": "aot.answering.generation",
    "HoliTom": f"{_METHODS}.holitom",
    "HoliTomInner": f"{_METHODS}.holitom_inner",
    "InnerStage": "aot.stages.inner",
    "InputError": "aot.errors",
    "InterFrame": f"{_METHODS}.anchor_ot.inter",
    "IntraFrame": f"{_METHODS}.anchor_ot.intra",
    "KeepPositions": f"{_METHODS}.positions",
    "LocalAnswerer": "aot.answering.answerer",
    "PruneVid": f"{_METHODS}.prunevid",
    "PyramidDrop": f"{_METHODS}.pyramiddrop",
    "Question": "aot.tokens.question",
    "RandomTokens": f"{_METHODS}.controls.random_choice",
    "Reduction": "aot.stages.base",
    "RelevanceModel": "aot.models.relevance_model",
    "Sampling": "aot.video.sampling",
    "SemVID": f"{_METHODS}.semvid",
    "Session": "aot.answering.session",
    "Setting": "aot.stages.options",
    "SmallerFrames": f"{_METHODS}.frames.smaller",
    "Stage": "aot.stages.base",
    "TokenMap": "aot.tokens.token_map",
    "TokenMerging": f"{_METHODS}.tome",
    "TopImportance": f"{_METHODS}.controls.top_importance",
    "TowerStage": "aot.stages.before_tokens",
    "UniformGrid": f"{_METHODS}.controls.uniform",
    "VScan": f"{_METHODS}.vscan",
    "VidCom2": f"{_METHODS}.vidcom2",
    "Variant": "aot.comparison.variants",
    "VideoLLM": "aot.models.base",
    "VideoTokens": "aot.tokens.video_tokens",
    "VisionZip": f"{_METHODS}.visionzip",
    "VllmServer": "aot.answering.vllm_server",
    "ask": "aot.answering.answerer",
    "compare": "aot.comparison.compare",
    "expand": "aot.comparison.variants",
    "load_model": "aot.models:load",
    "load_tokens": "aot.tokens.storage:load",
    "load_video": "aot.video.video_source",
    "open_video": "aot.video.video_source",
    "parse": "aot.stages.chain",
    "save_tokens": "aot.tokens.storage:save",
    "stream": "aot.streaming",
    "with_scores": "aot.video.choice",
}
"""Where each name is, and what it is called there where that is something else."""


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, called = _PUBLIC[name].partition(":")
    value = globals()[name] = getattr(import_module(f".{module}", __name__), called or name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


async def comfy_entrypoint():
    """What ComfyUI calls to load the pack. The nodes are imported here, so that the library can do without."""
    from .nodes import AOTExtension

    return AOTExtension()

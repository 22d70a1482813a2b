"""Defines two operators that a torchvision built for CUDA lacks beside a CPU-only torch, so that it can be imported."""

import importlib.util
from pathlib import Path

import torch


def define() -> object:
    """Define the operators unless torchvision's own library does; what is returned must be kept."""
    found = importlib.util.find_spec("torchvision")
    try:
        torch.ops.load_library(str(Path(str(found and found.origin)).with_name("_C.so")))
    except OSError:
        kept = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            kept.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return kept
    return None


KEPT = define()
torch.aot_test_library = KEPT  # pyright: ignore[reportAttributeAccessIssue] - a place that lasts

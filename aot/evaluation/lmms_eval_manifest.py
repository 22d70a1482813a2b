"""What lmms-eval (0.7) reads through the entry point group "lmms_eval.models": that there is a model called aot.

It is read while lmms-eval's own packages are being imported, so nothing here may import them first; the model itself
(`lmms_eval_model`) is imported when a run asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """The one model of this pack, by the name that ``--model`` takes."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("aot", simple_class_path=f"{__package__}.lmms_eval_model.AOT")

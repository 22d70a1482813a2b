"""The entry point of group "lmms_eval.models": it names the model aot to lmms-eval (0.7).

lmms-eval imports this module while its own packages are being imported, so nothing here may import them first. The
model itself (`lmms_eval_model`) is imported when a run uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """The one model of this pack, by the name that ``--model`` takes."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("aot", simple_class_path=f"{__package__}.lmms_eval_model.AOT")

"""What only Gemma 4 has: frames as large as their tokens allow, and layers without keys of their own."""

import pytest
from safetensors.torch import load_file, save_file

from comfyui_aot.aot.models import load
from comfyui_aot.aot.models.gemma4 import fill
from comfyui_aot.tests.support.small_models import is_there, save

needs_class = pytest.mark.skipif(not is_there("gemma4"), reason="this transformers has no gemma4")


@pytest.mark.parametrize(
    ("frame", "most", "expected"),
    [
        ((720, 1280), 70, (288, 528)),
        ((1280, 720), 70, (528, 288)),
        ((144, 176), 280, (720, 864)),
        ((100, 100), 140, (528, 528)),
        ((10, 4000), 70, (48, 3360)),
        ((4000, 10), 280, (13440, 48)),
    ],
)
def test_a_frame_is_as_large_as_its_tokens_allow(frame, most, expected):
    """Expected: transformers 5.23, get_aspect_ratio_preserving_size with patches of 16 pixels, 3 x 3 a token."""
    assert fill(*frame, 48, most) == expected


@needs_class
def test_keys_that_a_checkpoint_has_for_layers_without_any_are_no_fault(tmp_path, embedded_folder):
    save(tmp_path / "small", "gemma4", embedded_folder)
    path = tmp_path / "small" / "model.safetensors"
    tensors = load_file(path)
    name = "model.language_model.layers.{}.self_attn.k_proj.weight"
    assert name.format(5) not in tensors
    save_file({**tensors, name.format(5): tensors[name.format(3)].clone()}, path, {"format": "pt"})
    assert load(tmp_path / "small").language.cached_layers == 4

"""Classes that not every version of transformers has."""

import pytest
import transformers

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models.stock import stock_class


class Family:
    stock = stock_class("LlamaForCausalLM", since="4.28")
    old = stock_class("LlamaForCausalLM", since="99.1")
    missing = stock_class("NoSuchForConditionalGeneration", since="9.9")


def test_a_class_is_transformers_own():
    assert Family.stock is transformers.LlamaForCausalLM
    assert Family().stock is transformers.LlamaForCausalLM


@pytest.mark.parametrize(("attribute", "words"), [("missing", "NoSuch.* of transformers 9.9"), ("old", "Llama.* 99.1")])
def test_a_class_that_lacks_or_is_too_old_is_named_with_the_version_that_has_it(attribute, words):
    with pytest.raises(InputError, match=f"needs {words} or newer, and {transformers.__version__} is installed; run"):
        getattr(Family, attribute)

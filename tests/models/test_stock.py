"""Classes that not every version of transformers has."""

import pytest
import transformers

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models.stock import stock_class


class Family:
    stock = stock_class("LlamaForCausalLM", since="4.28")
    missing = stock_class("NoSuchForConditionalGeneration", since="9.9")


def test_a_class_is_transformers_own():
    assert Family.stock is transformers.LlamaForCausalLM
    assert Family().stock is transformers.LlamaForCausalLM


def test_a_class_that_lacks_is_named_with_the_version_that_has_it():
    with pytest.raises(
        InputError, match=r"needs NoSuchForConditionalGeneration, which transformers has since 9\.9, and"
    ):
        _ = Family.missing

"""The recorded cases of methods that ask, where the folder of recordings lies beside the checkout."""

from pathlib import Path

import pytest

from comfyui_aot.aot.verification import verify

VARIANTS = Path(__file__).parents[3] / "shared" / "variants"


@pytest.mark.skipif(not VARIANTS.is_dir(), reason="no recordings beside the checkout")
@pytest.mark.parametrize("method", ["cdpruner", "dart", "dytok", "semvid"])
def test_every_case_of_a_method_that_asks_passes(method):
    results = list(verify(VARIANTS / method / "golden"))
    assert results
    assert [result for result in results if not result.passed] == []

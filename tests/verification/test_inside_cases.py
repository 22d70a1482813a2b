"""Cases recorded from released code that acts inside an LLM; they lie beside the checkout."""

from pathlib import Path

import pytest

from comfyui_aot.aot.verification import verify

VARIANTS = Path(__file__).parents[3] / "shared" / "variants"
CASES = {"fastv": 6, "pyramiddrop": 4, "holitom_inner": 6, "flashvid_inner": 6, "dycoke_stage2": 5}


@pytest.mark.parametrize("method", CASES)
def test_every_recorded_case_passes_in_both_precisions(method):
    folder = VARIANTS / method / "golden"
    if not folder.is_dir():
        pytest.skip(f"no recorded cases of {method} beside the checkout")
    results = list(verify(folder))
    assert len(results) == 2 * CASES[method]
    assert [each.case for each in results if not each.passed] == []

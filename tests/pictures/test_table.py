"""Tables as pictures."""

import torch

from comfyui_aot.aot.pictures.canvas import NO_CHARACTER
from comfyui_aot.aot.pictures.table import table


def test_a_cell_draws_letters_beyond_ascii():
    drawn, boxed = (table(["answer"], [[f"caf{letter}"]], width=320) for letter in ("\u00f1", NO_CHARACTER))
    assert not torch.equal(drawn, boxed)
    other = table(["answer"], [["caf\u00df"]], width=320)
    assert not torch.equal(drawn, other)

"""PyramidDrop: tokens are dropped in several steps, each time by what the layer to come would attend to.

Source: PyramidDrop (CVPR 2025, arXiv 2410.17247), and its authors' code at inference. That cuts a prompt to 2048 tokens
and does not run on LLMs whose heads share keys; ours does neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ...errors import InputError
from ..inner import Cut, InnerStage
from ..options import Setting


@dataclass(frozen=True)
class PyramidDrop(InnerStage):
    """Keep ever fewer tokens the deeper the LLM: those that the prompt's last token attends to most."""

    name = "pyramiddrop"
    title = "PyramidDrop"
    node_id = "AOTPyramidDrop"
    source = "PyramidDrop (CVPR 2025, arXiv 2410.17247)"
    looks_ahead = True
    renumbers = True
    counts_newline = True

    layers: str = Setting(
        "",
        "Layers of the LLM before which tokens become fewer, as 8/16/24; empty takes the quarters of its depth, which "
        "these are of 32.",
    ).field()
    ratios: str = Setting(
        "0.5/0.25/0.125", "Share of all the video's tokens that stay from each of those layers on."
    ).field()

    def __post_init__(self) -> None:
        super().__post_init__()
        layers, ratios = self._layers, self._ratios
        if any(each < 1 for each in layers) or any(a >= b for a, b in pairwise(layers)):
            raise InputError(f"{self.title}: layers is {self.layers!r}; give rising numbers from 1 on, as 8/16/24.")
        if not all(0 <= each <= 1 for each in ratios) or any(a < b for a, b in pairwise(ratios)):
            raise InputError(f"{self.title}: ratios is {self.ratios!r}; give falling shares of 1, as 0.5/0.25/0.125.")
        if layers and len(layers) != len(ratios):
            raise InputError(
                f"{self.title}: {len(layers)} layers and {len(ratios)} ratios; give a ratio for each layer."
            )

    @property
    def _layers(self) -> list[int]:
        try:
            return [int(each) for each in self.layers.split("/") if self.layers]
        except ValueError as error:
            raise InputError(
                f"{self.title}: layers is {self.layers!r}; give whole numbers with / between, as 8/16/24."
            ) from error

    @property
    def _ratios(self) -> list[float]:
        try:
            return [float(each) for each in self.ratios.split("/")]
        except ValueError as error:
            raise InputError(
                f"{self.title}: ratios is {self.ratios!r}; give shares with / between, as 0.5/0.25/0.125."
            ) from error

    def cuts(self, tokens: int, layers: int) -> tuple[Cut, ...]:
        """One before each of the layers.

        Args:
            tokens: of the video.
            layers: of the LLM.

        Raises:
            InputError: the LLM has too few layers.
        """
        parts = len(self._ratios) + 1
        before = self._layers or [layers * number // parts for number in range(1, parts)]
        if before[0] < 1:
            raise InputError(
                f"{self.title}: {len(self._ratios)} ratios are too many for an LLM of {layers} layers; give at most "
                f"{layers - 1}."
            )
        self.require_depth(before[-1], layers)
        return tuple(Cut(layer, int(tokens * ratio)) for layer, ratio in zip(before, self._ratios, strict=True))

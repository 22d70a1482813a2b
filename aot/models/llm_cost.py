"""The cost of visual tokens in an LLM: prefill operations and key-value cache."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LanguageShape:
    """The sizes of an LLM that determine its cost.

    Args:
        layers: their number.
        hidden: width d of the hidden states.
        mlp: width m of the MLP.
        kv_heads: number of key-value heads.
        head_dim: width of a head.
        context: longest sequence the LLM was made for, in tokens.
    """

    layers: int
    hidden: int
    mlp: int
    kv_heads: int
    head_dim: int
    context: int

    def prefill_flops(self, tokens: int) -> float:
        """``layers (4 n d^2 + 2 n^2 d + 2 n d m)``: the estimate token-reduction papers print.

        Source: FastV and its successors, AOT among them; 40.7e12 for Qwen2-7B and n = 6272.
        """
        n, d = tokens, self.hidden
        return float(self.layers * (4 * n * d**2 + 2 * n**2 * d + 2 * n * d * self.mlp))

    def kv_cache_bytes(self, tokens: int, bytes_per_value: int) -> int:
        """Bytes of the keys and values of all layers: ``2 layers kv_heads head_dim tokens bytes_per_value``."""
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens * bytes_per_value


QWEN2_7B = LanguageShape(layers=28, hidden=3584, mlp=18944, kv_heads=4, head_dim=128, context=32768)
"""The LLM of LLaVA-OneVision-7B and LLaVA-Video-7B."""

"""The cost of visual tokens in an LLM: prefill operations and key-value cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
        caching: number of layers with keys and values of their own; None means all.
    """

    layers: int
    hidden: int
    mlp: int
    kv_heads: int
    head_dim: int
    context: int
    caching: int | None = None

    @property
    def cached_layers(self) -> int:
        """The number of layers with keys and values of their own."""
        return self.layers if self.caching is None else self.caching

    @classmethod
    def of(cls, config: Any) -> LanguageShape:
        """The sizes in an LLM's config; where its layers differ, those of the first.

        Args:
            config: of the LLM.
        """
        layers, kinds = config.num_hidden_layers, list(getattr(config, "layer_types", None) or [])
        first = (getattr(config, "per_layer_config", None) or [config])[0]
        return cls(
            layers=layers,
            hidden=config.hidden_size,
            mlp=mlp_width(config),
            kv_heads=first.num_key_value_heads,
            head_dim=getattr(first, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            context=config.max_position_embeddings,
            caching=layers - (getattr(config, "num_kv_shared_layers", None) or 0) - kinds.count("linear_attention"),
        )

    def prefill_flops(self, tokens: int) -> float:
        """``layers (4 n d^2 + 2 n^2 d + 2 n d m)``: the estimate token-reduction papers print.

        Source: FastV and its successors, AOT among them; 40.7e12 for Qwen2-7B and n = 6272.
        """
        n, d = tokens, self.hidden
        return float(self.layers * (4 * n * d**2 + 2 * n**2 * d + 2 * n * d * self.mlp))

    def kv_cache_bytes(self, tokens: int, bytes_per_value: int) -> int:
        """Bytes of keys and values: ``2 layers kv_heads head_dim tokens bytes_per_value``, of layers with their own."""
        return 2 * self.cached_layers * self.kv_heads * self.head_dim * tokens * bytes_per_value


def mlp_width(config: Any) -> int:
    """The width of the MLP that a token goes through in a layer: where there are experts, of those that it is sent to.

    Args:
        config: of an LLM.
    """
    experts, width = getattr(config, "num_experts_per_tok", None), getattr(config, "moe_intermediate_size", None)
    if not experts or not width:
        return config.intermediate_size
    shared = (
        getattr(config, "shared_expert_intermediate_size", 0) or (getattr(config, "n_shared_experts", 0) or 0) * width
    )
    return experts * width + shared


QWEN2_7B = LanguageShape(layers=28, hidden=3584, mlp=18944, kv_heads=4, head_dim=128, context=32768)
"""The LLM of LLaVA-OneVision-7B and LLaVA-Video-7B."""

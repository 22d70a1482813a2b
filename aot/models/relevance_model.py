"""Both halves of a CLIP: how relevant every place of a video is to a question, in the space that both halves share.

CDPruner as released asks a CLIP: the second-to-last hidden state of its vision half, brought into the joint space by
the layer norm and the projection that were trained for whole pictures, against its text half's view of the question.
SigLIP has no such projection: each patch goes through its pooling head alone, which is this project's substitute.

Source: CDPruner (NeurIPS 2025, arXiv 2506.10967), as released by its authors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, PreTrainedModel, SiglipModel

from ..errors import InputError
from ..files import read_json
from ..tokens.layout import Layout
from ..video.frame_source import FrameSource
from .fingerprint import digest_of_weights
from .folder import load_tokenizer, video_settings
from .found import config_of, folders_in
from .loading import stock_model
from .pixels import CLIP_MEAN, CLIP_STD, normalise, resize, upload
from .progress import Progress, ignore_progress

KINDS: Mapping[str, type[PreTrainedModel]] = MappingProxyType({"clip": CLIPModel, "siglip": SiglipModel})
"""The stock classes by the model_type of a config.json."""

AT_ONCE = 8
"""Pictures of one pass."""

PATCHES_AT_ONCE = 4096
"""Patches that go through a pooling head together."""

PADDING = 0
"""The id after a question's last, as released; no token before it sees it."""


class RelevanceModel:
    """A CLIP or a SigLIP with both halves.

    Args:
        hf_model: a stock ``CLIPModel`` or ``SiglipModel``.
        tokenizer: of its text half.
        name: in results and errors.
        mean: of the pixels.
        std: of the pixels.
    """

    def __init__(
        self,
        hf_model: PreTrainedModel,
        tokenizer: Any,
        name: str,
        *,
        mean: tuple[float, ...] = CLIP_MEAN,
        std: tuple[float, ...] = CLIP_STD,
    ) -> None:
        self.hf_model, self.name = hf_model, name
        self._tokenizer, self._mean, self._std = tokenizer, mean, std

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        name: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> RelevanceModel:
        """Load from a folder in Hugging Face's layout; safetensors only, nothing is downloaded or executed.

        Args:
            folder: with config.json, model.safetensors, the tokenizer and the settings of the image processor.
            name: in results and errors; None takes the folder's.
            dtype: of the weights; what is compared is float32 in any case.
            device: where to put them.

        Raises:
            InputError: no such model, or one that lacks a half.
        """
        folder = Path(folder)
        name = name or folder.name
        stock = kind_of(folder, name)
        model = stock_model(
            stock, folder, name, dtype=dtype, device=device, attention="sdpa", quantization="none", weights=True
        )
        settings = video_settings(folder, name)
        mean, std = settings.get("image_mean") or CLIP_MEAN, settings.get("image_std") or CLIP_STD
        return cls(model, load_tokenizer(folder, name), name, mean=tuple(mean), std=tuple(std))

    @property
    def is_clip(self) -> bool:
        """Whether places are in the joint space as released; SigLIP's are by a substitute."""
        return isinstance(self.hf_model, CLIPModel)

    @property
    def device(self) -> torch.device:
        """The device that the weights are on."""
        return next(self.hf_model.parameters()).device

    @property
    def side(self) -> int:
        """Side of the pictures that it sees, in pixels."""
        return int(cast(Any, self.hf_model.config).vision_config.image_size)

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of its patches."""
        side = self.side // int(cast(Any, self.hf_model.config).vision_config.patch_size)
        return side, side

    @property
    def fingerprint(self) -> str:
        """A digest of its weights and of the colours it is given."""
        return digest_of_weights(self.hf_model.state_dict().values(), (self._mean, self._std))

    @torch.no_grad()
    def words(self, question: str) -> Tensor:
        """(M, C) float32: what the text half makes of a question, of length 1.

        A CLIP reads as many ids at once as it has positions, 77 mostly. Of a longer question every such part is a row,
        as released: the first has no end then, and is the same whatever is asked. SigLIP reads the beginning.

        Args:
            question: bare.
        """
        model = cast(Any, self.hf_model)
        most = model.config.text_config.max_position_embeddings
        if self.is_clip:
            ids = torch.tensor(self._tokenizer(question).input_ids)
            parts = functional.pad(ids, (0, -len(ids) % most if len(ids) > most else 0), value=PADDING)
            parts = parts.reshape(-1, most if len(ids) > most else len(ids)).to(self.device)
            pooled = model.text_model(input_ids=parts).pooler_output
            return functional.normalize(pooled.float() @ model.text_projection.weight.float().T, dim=-1)
        fitted = self._tokenizer(question, padding="max_length", truncation=True, max_length=most, return_tensors="pt")
        pooled = model.text_model(input_ids=fitted.input_ids.to(self.device)).pooler_output
        return functional.normalize(pooled.float(), dim=-1)

    @torch.no_grad()
    def patches(self, pictures: Tensor) -> Tensor:
        """(P, h w, C) float32: every patch of some pictures in the joint space, of length 1.

        Args:
            pictures: (P, H, W, 3) uint8. All of a picture is seen, brought to a square.
        """
        model = cast(Any, self.hf_model)
        pixels = normalise(resize(upload(pictures, self.device), (self.side, self.side)), self._mean, self._std)
        tower, dtype = model.vision_model, next(model.parameters()).dtype
        if self.is_clip:
            states = tower(pixel_values=pixels.to(self.device, dtype), output_hidden_states=True).hidden_states[-2]
            joint = tower.post_layernorm(states[:, 1:]).float() @ model.visual_projection.weight.float().T
        else:
            states = tower(pixel_values=pixels.to(self.device, dtype)).last_hidden_state
            alone = states.flatten(0, 1)[:, None].split(PATCHES_AT_ONCE)
            joint = torch.cat([tower.head(each).float() for each in alone]).reshape(*states.shape[:2], -1)
        return functional.normalize(joint, dim=-1)

    def places(
        self, frames: FrameSource, question: str, layout: Layout, *, on_progress: Progress = ignore_progress
    ) -> Tensor:
        """How relevant every cell of a video's grid is to a question: its mean cosine with the question.

        Patches are cells where both grids are the same. Any other grid is interpolated, bilinearly and, where it
        becomes smaller, with antialiasing. Pictures that the encoder takes together have the mean of theirs.

        Args:
            frames: that the video's tokens are of, decoded or still to be decoded.
            question: bare.
            layout: of the tokens.
            on_progress: called with (done, total) frames.

        Returns:
            (T, N) float32, on the CPU.

        Raises:
            InputError: other frames than the tokens'.
        """
        together = -(-frames.count // layout.frames)
        if frames.count < layout.frames or -(-frames.count // together) != layout.frames:
            raise InputError(
                f"{self.name} is to look at {frames.count} frames, and the tokens are of {layout.frames}; give it the "
                "frames that were encoded."
            )
        words = self.words(question)
        seen: list[Tensor] = []
        done = 0
        for part in frames.parts(AT_ONCE):
            seen.append((self.patches(part.pixels) @ words.mean(0)).cpu())
            done += len(seen[-1])
            on_progress(min(done, frames.count), frames.count)
        cosines = torch.cat(seen)
        if layout.grid != self.grid:
            maps = cosines.reshape(-1, 1, *self.grid)
            maps = functional.interpolate(maps, size=layout.grid, mode="bilinear", antialias=True)
            cosines = maps.flatten(1)
        if together == 1:
            return cosines
        return torch.stack([each.mean(0) for each in cosines.split(together)])


def relevance_models_in(root: Path, on_skipped: Callable[[str], None] = lambda reason: None) -> dict[str, Path]:
    """Folders under ``root``, links followed, with a CLIP or a SigLIP of both halves, by relative path.

    Args:
        root: the folder to look into.
        on_skipped: called with a line about each folder that cannot be read, or whose config.json cannot.

    Raises:
        InputError: no folder can have that name.
    """
    models: dict[str, Path] = {}
    for folder, files in folders_in(root, on_skipped):
        if folder == root or "config.json" not in files:
            continue
        config = config_of(folder, on_skipped)
        if config is not None and config.get("model_type") in KINDS:
            models[folder.relative_to(root).as_posix()] = folder
    return dict(sorted(models.items()))


def kind_of(folder: Path, name: str) -> type[PreTrainedModel]:
    """The stock class of a folder's model.

    Args:
        folder: in Hugging Face's layout.
        name: of the model in the error.

    Raises:
        InputError: it is neither a CLIP nor a SigLIP with both halves.
    """
    try:
        config = read_json(folder / "config.json", "The model's config", keys=("model_type",))
    except InputError as error:
        raise InputError(
            f"No model in {folder}: a readable config.json with a model_type is missing; give the folder of a CLIP in "
            "Hugging Face's layout."
        ) from error
    stock = KINDS.get(str(config["model_type"]))
    if stock is None:
        raise InputError(
            f"{name} is of family {str(config['model_type'])[:40]!r}, which does not say how relevant places are; give "
            "a clip or a siglip with both halves, clip-vit-large-patch14-336 for instance."
        )
    return stock

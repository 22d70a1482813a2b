"""The embedded model as training sees it: the tower frozen, a projector and LoRA that learn.

The stock classes do all the work; what is here joins their parts as ``LlavaOnevisionForConditionalGeneration`` does,
for frames of any size (the stock class knows one) and with all of a clip's questions in one pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaOnevisionForConditionalGeneration

from ..evaluation.scenes import Scene
from ..evaluation.shapes_set import Asked
from ..layout import Layout
from ..models.embedded import normalise, untrained
from ..models.embedded_weights import TrainedWeights
from ..models.llava_onevision import LlavaOnevision
from .packing import IGNORED, PACKED_ATTENTION, Pack, Pointing, pack
from .pointing import Grounding, Look, cells, mentions
from .warm_start import WarmStart, fit_projector

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_ADAPTER = "default"
_FRAMES_AT_ONCE = 8


@dataclass(frozen=True)
class Result:
    """What a clip's questions came to.

    Args:
        loss: of the answers' tokens.
        pointing: of where the tokens looked that name shapes, and those that answer; see :class:`Pointing`.
        right: for each question, whether its first answer token was right.
    """

    loss: Tensor
    pointing: Tensor
    right: list[bool]


class Learner(nn.Module):
    """The model with what learns in it.

    Args:
        rank, alpha: of LoRA, on every linear layer of the LLM; what it adds is scaled by alpha / rank.
        device: where it learns; on a GPU the LLM runs in bfloat16, what learns stays float32.
    """

    def __init__(self, *, rank: int = 8, alpha: float = 16.0, device: torch.device | str = "cpu") -> None:
        super().__init__()
        model, tokenizer = untrained()
        self._tokenizer = tokenizer
        self._adapter = LlavaOnevision(model, tokenizer, "embedded")
        self.device = torch.device(device)
        model.requires_grad_(False)
        inject_adapter_in_model(
            LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(LINEAR_LAYERS)), model.model.language_model
        )
        model.model.multi_modal_projector.requires_grad_(True)
        model.model.language_model.set_attn_implementation(PACKED_ATTENTION)
        self.model: LlavaOnevisionForConditionalGeneration = model.to(self.device)

    def warm_start(self, settings: WarmStart) -> None:
        """Fit the projector in closed form."""
        words = self.model.get_input_embeddings().weight.detach().cpu()

        def embed(word: str) -> Tensor:
            (token,) = self._tokenizer(word, add_special_tokens=False).input_ids
            return words[token]

        projector = fit_projector(lambda pixels: self.tower(pixels).cpu(), _pool, embed, settings)
        self.model.model.multi_modal_projector.load_state_dict(projector)

    @torch.no_grad()
    def tower(self, pixels: Tensor) -> Tensor:
        """What the projector reads of frames, uint8 (T, H, W, 3): (T, patches, V)."""
        states = []
        for part in pixels.split(_FRAMES_AT_ONCE):
            values = normalise(part).to(self.device)
            hidden = self.model.model.vision_tower(
                values, output_hidden_states=True, interpolate_pos_encoding=True
            ).hidden_states
            states.append(hidden[self.model.config.vision_feature_layer][:, 1:])
        return torch.cat(states)

    def forward(self, scene: Scene, asked: Sequence[Asked], grounding: Grounding) -> Result:
        """Ask all questions about one clip."""
        model = self.model.model
        visual = _pool(model.multi_modal_projector(self.tower(scene.frames().pixels)))
        embed = self.model.get_input_embeddings()
        prompts = [self._adapter.prompt(question.words) for question in asked]
        before = prompts[0].before.to(self.device)
        prefix = torch.cat((embed(before), visual.flatten(0, 1), model.image_newline[None]))
        packed = pack(len(prefix), [(p.after, self._answer(q.answer)) for p, q in zip(prompts, asked, strict=True)])
        naming, answering = self._looks(scene, asked, [prompt.after for prompt in prompts], packed)
        side = round(visual.shape[1] ** 0.5)
        pointing = [
            self._pointing(scene, looks, layers, grounding.heads, side, len(before))
            for looks, layers in ((naming, grounding.naming), (answering, grounding.answering))
        ]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            hidden = model.language_model(
                inputs_embeds=torch.cat((prefix, embed(packed.ids.to(self.device))))[None],
                position_ids=packed.positions[None].to(self.device),
                attention_mask=packed.mask.to(self.device),
                use_cache=False,
                pointing=pointing,
            ).last_hidden_state[0, len(prefix) :]
        asked_for = packed.targets != IGNORED
        logits = self.model.lm_head(hidden[asked_for.to(self.device)]).float()
        targets = packed.targets[asked_for].to(self.device)
        chosen = torch.full_like(packed.targets, IGNORED)
        chosen[asked_for] = logits.detach().argmax(-1).cpu()
        right = (chosen == packed.targets)[packed.first].tolist()
        return Result(functional.cross_entropy(logits, targets), sum(each.loss for each in pointing), right)

    def weights(self, info: dict[str, object]) -> TrainedWeights:
        """What has been learnt so far."""
        projector = {n: t.detach().cpu() for n, t in self.model.model.multi_modal_projector.state_dict().items()}
        lora = {}
        for name, layer in self.model.model.language_model.named_modules():
            if hasattr(layer, "lora_A") and _ADAPTER in layer.lora_A:
                down, up = (getattr(layer, part)[_ADAPTER].weight.detach().cpu() for part in ("lora_A", "lora_B"))
                lora[name] = (down, up * layer.scaling[_ADAPTER])
        return TrainedWeights(projector, lora, info)

    def _looks(
        self, scene: Scene, asked: Sequence[Asked], texts: Sequence[Tensor], packed: Pack
    ) -> tuple[list[Look], list[Look]]:
        """The tokens of a pack that name shapes, and those that answer, each with the actors it should see."""
        naming, answering = [], []
        for question, ids, last in zip(asked, texts, packed.first.tolist(), strict=True):
            pieces = [self._tokenizer.decode([token]) for token in ids.tolist()]
            ends = list(itertools.accumulate(map(len, pieces)))
            offsets = [(end - len(piece), end) for end, piece in zip(ends, pieces, strict=True)]
            start = last + 1 - len(ids)
            found = mentions("".join(pieces), offsets, scene)
            naming += [Look(start + look.token, look.actors) for look in found]
            if question.about:
                answering.append(Look(last, question.about))
        return naming, answering

    def _pointing(
        self, scene: Scene, looks: Sequence[Look], layers: Sequence[int], heads: Sequence[int], side: int, before: int
    ) -> Pointing:
        rows = torch.tensor([look.token for look in looks], dtype=torch.long, device=self.device)
        shown = [functional.pad(cells(scene, look.actors, side), (before, 1)) for look in looks]
        about = torch.stack(shown).to(self.device) if shown else torch.zeros(0, 1, dtype=torch.bool)
        return Pointing(rows, about, layers, heads)

    def _answer(self, words: str) -> Tensor:
        ids = self._tokenizer(words, add_special_tokens=False).input_ids
        return torch.tensor([*ids, self._tokenizer.eos_token_id])


def _pool(states: Tensor) -> Tensor:
    """(T, side * side, D) to the language grid, as LLaVA-OneVision pools."""
    side = round(states.shape[1] ** 0.5)
    return Layout(len(states), (side, side), "bilinear", "one_token").pool(states)

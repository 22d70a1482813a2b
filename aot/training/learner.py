"""The embedded model in training: the vision tower is frozen, the projector and LoRA learn.

The stock classes do all the work. This module joins their parts as ``LlavaOnevisionForConditionalGeneration`` does,
but for frames of any size (the stock class takes one size) and with all of a clip's questions in one pass.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaOnevisionForConditionalGeneration

from ..evaluation.scenes import Scene
from ..evaluation.shapes_set import FAMILIES, SceneQuestion
from ..models.embedded.assemble import normalise, untrained
from ..models.embedded.weights import TrainedWeights
from ..models.llava_onevision import LlavaOnevision
from ..tokens.layout import Layout
from .attributes import Attributes, Clock, Colours, attributes
from .naming import Naming, cell_codes, fit_codes, slow_dimensions, text_codes
from .packing import IGNORED, PACKED_ATTENTION, Pack, Pointing, pack
from .pointing import SPANS, Grounding, Look, cells, mentions
from .warm_start import WarmStart, fit_projector

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_ADAPTER = "default"
_FRAMES_AT_ONCE = 8


@dataclass(frozen=True)
class Ranks:
    """LoRA's ranks. The first layers get higher ones: they look things up in the video, the others put them into words.

    Args:
        first: ranks of the attention's and of the MLP's matrices in the first layers.
        others: the same in the other layers.
        layers: number of first layers.
        alpha: the update is scaled by alpha / sqrt(rank), so that all ranks learn alike (Kalajdzievski, "A Rank
            Stabilization Scaling Factor for Fine-Tuning with LoRA", 2023).
    """

    first: tuple[int, int] = (32, 8)
    others: tuple[int, int] = (8, 4)
    layers: int = 10
    alpha: float = 6.0

    def config(self) -> LoraConfig:
        """PEFT's configuration, for every linear layer of the LLM."""
        early = "|".join(map(str, range(self.layers)))
        ranks = {
            rf"layers\.({early})\.self_attn\.\w+": self.first[0],
            rf"layers\.({early})\.mlp\.\w+": self.first[1],
            r"layers\.\d+\.mlp\.\w+": self.others[1],
        }
        return LoraConfig(
            r=self.others[0],
            lora_alpha=self.alpha,
            rank_pattern=ranks,
            use_rslora=True,
            target_modules=list(LINEAR_LAYERS),
        )


@dataclass(frozen=True)
class Result:
    """The losses of a clip's questions, each () floating, and how many answers are right.

    Args:
        loss: cross-entropy of the answers' tokens at the model's output; 0 where its last layer did not run.
        early: cross-entropy of the answers' first tokens after ``answered_after`` layers; 0 where those did not run.
        pointing: loss of the attention of tokens that name shapes and of tokens that answer; see :class:`Pointing`.
        time: loss of the readout of the video tokens' time; see :class:`.Clock`.
        knowledge: loss of the readout of attributes from tokens that name one shape; see :class:`.Attributes`.
        colours: loss of the readout of colours from all tokens that name shapes; see :class:`.Colours`.
        right: for each question with an answer, whether its first token is right at the last layer that ran.
        known: share of right readouts of each attribute, 0 to 1.
    """

    loss: Tensor
    early: Tensor
    pointing: Tensor
    time: Tensor
    knowledge: Tensor
    colours: Tensor
    right: list[bool]
    known: list[float]

    def total(self, grounding: Grounding) -> Tensor:
        """The weighted sum of the losses, () floating.

        Args:
            grounding: the weight of each loss.
        """
        return (
            self.loss
            + grounding.early * self.early
            + grounding.pointing * self.pointing
            + grounding.time * self.time
            + grounding.knowledge * self.knowledge
            + grounding.colours * self.colours
        )


class Learner(nn.Module):
    """The model with its trainable parameters.

    Args:
        ranks: of LoRA; None takes the default ones.
        device: to train on. On a GPU the LLM runs in bfloat16; trainable parameters stay float32.
    """

    def __init__(self, ranks: Ranks | None = None, *, device: torch.device | str = "cpu") -> None:
        super().__init__()
        model, tokenizer = untrained()
        self._tokenizer = tokenizer
        self._adapter = LlavaOnevision(model, tokenizer, "embedded")
        self.device = torch.device(device)
        model.requires_grad_(False)
        inject_adapter_in_model((ranks or Ranks()).config(), model.model.language_model)
        model.model.multi_modal_projector.requires_grad_(True)
        model.model.language_model.set_attn_implementation(PACKED_ATTENTION)
        self.model: LlavaOnevisionForConditionalGeneration = model.to(self.device)
        width = model.config.text_config.hidden_size
        self.attributes, self.clock, self.colours = (
            readout(width).to(self.device) for readout in (Attributes, Clock, Colours)
        )
        words = sorted({word for family in FAMILIES.values() for word in family.answers})
        self._answer_ids = torch.tensor([tokenizer(w, add_special_tokens=False).input_ids[0] for w in words])
        table = model.lm_head.weight.detach()[self._answer_ids]
        self._table = functional.normalize(table, dim=1).to(self.device)

    def warm_start(self, settings: WarmStart) -> None:
        """Fit the projector in closed form.

        Args:
            settings: see :class:`.WarmStart`.
        """
        words = self.model.get_input_embeddings().weight.detach().cpu()

        def embed(word: str) -> Tensor:
            (token,) = self._tokenizer(word, add_special_tokens=False).input_ids
            return words[token]

        projector = fit_projector(lambda pixels: self.tower(pixels).cpu(), _pool, embed, settings)
        self.model.model.multi_modal_projector.load_state_dict(projector)

    @torch.no_grad()
    def set_naming(self, scenes: Sequence[Scene], texts: Sequence[str], grounding: Grounding, settings: Naming) -> None:
        """Make names attend to what they name, layer by layer; see :mod:`.naming`.

        Args:
            scenes: stills.
            texts: one for each still, with the names of its shapes.
            grounding: the layers and heads.
            settings: of the codes.
        """
        prefixes = [self._prefix(scene)[:2] for scene in scenes]
        for layer in grounding.naming:
            query_rows, key_rows = [], []
            for scene, text, (prefix, side) in zip(scenes, texts, prefixes, strict=True):
                ids = self._adapter.prompt(text).after
                states = self._states(prefix, ids, layer)
                names = text_codes(self._pieces(ids))
                codes, plain = cell_codes(scene, side, settings.least)
                start = len(prefix)
                query_rows.append((states[start:], names, names.any(1)))
                # A name is a key too. Its code is zero, so that other names do not attend to it.
                around = start - 1 - len(codes), 1 + len(ids)
                keys, known = functional.pad(codes, (0, 0, *around)), functional.pad(plain, around, value=True)
                weighty = torch.cat((keys[:start].any(1), names.any(1)))
                key_rows.append((states[known], keys[known], weighty[known]))
            self._set_heads(layer, grounding.heads, *(_joined(rows) for rows in (query_rows, key_rows)), settings)

    def _states(self, prefix: Tensor, ids: Tensor, layer: int) -> Tensor:
        """The input of a layer's attention, (P + n, D) float32 on the CPU, for a prefix and the text after it."""
        states: dict[int, Tensor] = {}
        with self._noting(states, (layer,), layer):
            self._run(prefix, pack(len(prefix), [(ids, self._answer(""))]), [])
        return self.model.model.language_model.layers[layer].input_layernorm(states[layer][0]).float().cpu()

    def _pieces(self, ids: Tensor) -> list[str]:
        return [self._tokenizer.decode([token]) for token in ids.tolist()]

    def _set_heads(
        self,
        layer: int,
        heads: Sequence[int],
        query_rows: Sequence[Tensor],
        key_rows: Sequence[Tensor],
        settings: Naming,
    ) -> None:
        config = self.model.config.text_config
        dims = config.hidden_size // config.num_attention_heads
        groups = config.num_attention_heads // config.num_key_value_heads
        product = settings.strength * dims**0.5
        attention = self.model.model.language_model.layers[layer].self_attn
        for matrix, rows, gain, numbers in (
            (attention.q_proj, query_rows, (product / settings.key) ** 0.5, heads),
            (attention.k_proj, key_rows, (product * settings.key) ** 0.5, [head // groups for head in heads]),
        ):
            fitted = fit_codes(*rows, settings)
            down, up = matrix.lora_A[_ADAPTER].weight, matrix.lora_B[_ADAPTER].weight
            names = len(fitted)
            down[:names] = gain**0.5 * fitted.to(down)
            for head in numbers:
                up[slow_dimensions(head, dims, names), torch.arange(names)] = gain**0.5 / matrix.scaling[_ADAPTER]

    @torch.no_grad()
    def tower(self, pixels: Tensor) -> Tensor:
        """The vision tower's hidden states that the projector takes.

        Args:
            pixels: (T, H, W, 3) uint8.

        Returns:
            (T, patches, V) floating.
        """
        states = []
        for part in pixels.split(_FRAMES_AT_ONCE):
            values = normalise(part).to(self.device)
            hidden = self.model.model.vision_tower(
                values, output_hidden_states=True, interpolate_pos_encoding=True
            ).hidden_states
            states.append(hidden[self.model.config.vision_feature_layer][:, 1:])
        return torch.cat(states)

    def forward(
        self,
        scene: Scene,
        questions: Sequence[SceneQuestion],
        grounding: Grounding,
        *,
        layers: int | None = None,
        sets: bool = False,
        weights: Tensor | None = None,
    ) -> Result:
        """Run all questions about one clip in one pass.

        Args:
            scene: the clip.
            questions: about the clip. A text without an answer has no loss of an answer.
            grounding: layers, heads and weights of the losses.
            layers: number of the LLM's layers to run; None runs all.
            sets: whether the names of absent shapes count too, and the loss of :class:`.Colours`.
            weights: (answered,) float32, of the questions with an answer; None weighs all alike.
        """
        layers = layers or len(self.model.model.language_model.layers)
        prefix, side, before = self._prefix(scene)
        prompts = [self._adapter.prompt(question.words) for question in questions]
        packed = pack(len(prefix), [(p.after, self._answer(q.answer)) for p, q in zip(prompts, questions, strict=True)])
        looks = self._looks(scene, questions, [prompt.after for prompt in prompts], packed, absent=sets)
        pointing = self._pointing(scene, looks, grounding, side, before, packed)
        states = {}
        noted = (grounding.timed_after, grounding.known_after, grounding.answered_after)
        with self._noting(states, noted, layers):
            self._run(prefix, packed, [each for group in pointing for each in group])
        timed = states.get(grounding.timed_after)
        zero = torch.zeros((), device=self.device)
        time = zero if timed is None else self.clock(timed[0, before : len(prefix) - 1].float())
        states = {after: state[0, len(prefix) :] for after, state in states.items()}
        answered = torch.tensor([bool(question.answer) for question in questions])
        weights = torch.ones(int(answered.sum())) if weights is None else weights
        loss, early, right = self._answers(states, packed, answered, weights, grounding.answered_after)
        after = states.get(grounding.known_after)
        knowledge, known = self._knowledge(scene, looks.naming, after)
        colours = zero
        if sets and after is not None and looks.naming:
            named = after[[look.token for look in looks.naming]].float()
            colours = self.colours(named, [look.actors for look in looks.naming])
        # A layer that did not run has no loss.
        pointed = sum((each.loss / len(group) for group in pointing for each in group), zero)
        return Result(loss, early, pointed, time, knowledge, colours, right, known)

    def weights(self, info: dict[str, object]) -> TrainedWeights:
        """The weights learnt so far.

        Args:
            info: for the file's metadata, JSON-ready.
        """
        projector = {n: t.detach().cpu() for n, t in self.model.model.multi_modal_projector.state_dict().items()}
        lora = {}
        for name, layer in self.model.model.language_model.named_modules():
            if hasattr(layer, "lora_A") and _ADAPTER in layer.lora_A:
                down, up = (getattr(layer, part)[_ADAPTER].weight.detach().cpu() for part in ("lora_A", "lora_B"))
                lora[name] = (down, up * layer.scaling[_ADAPTER])
        return TrainedWeights(projector, lora, info)

    def _prefix(self, scene: Scene) -> tuple[Tensor, int, int]:
        """The prompt's embeddings up to the video's end (P, D), the language grid's side, and the video's start."""
        model = self.model.model
        visual = _pool(model.multi_modal_projector(self.tower(scene.frames().pixels)))
        before = self._adapter.prompt("?").before[0].to(self.device)
        prefix = torch.cat((self.model.get_input_embeddings()(before), visual.flatten(0, 1), model.image_newline[None]))
        return prefix, round(visual.shape[1] ** 0.5), len(before)

    def _run(self, prefix: Tensor, packed: Pack, pointing: Sequence[Pointing]) -> None:
        words = self.model.get_input_embeddings()(packed.ids.to(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            self.model.model.language_model(
                inputs_embeds=torch.cat((prefix, words))[None],
                position_ids=packed.positions[None].to(self.device),
                attention_mask=packed.mask.to(self.device),
                use_cache=False,
                pointing=pointing,
            )

    @contextlib.contextmanager
    def _noting(self, states: dict[int, Tensor], noted: Sequence[int], layers: int) -> Iterator[None]:
        """Run the first ``layers`` layers only, and put hidden states into ``states`` by the number of layers run.

        They are kept after each number in ``noted``, and with all layers also after the last norm.
        """
        language = self.model.model.language_model
        whole = language.config.num_hidden_layers

        def note(after: int) -> Callable[..., None]:
            return lambda _module, _inputs, state: states.__setitem__(after, state)

        hooks = [language.layers[n - 1].register_forward_hook(note(n)) for n in noted if n <= layers]
        if layers == whole:
            hooks.append(language.norm.register_forward_hook(note(whole)))
        language.config.num_hidden_layers = layers
        try:
            yield
        finally:
            language.config.num_hidden_layers = whole
            for hook in hooks:
                hook.remove()

    def _answers(
        self, states: Mapping[int, Tensor], packed: Pack, answered: Tensor, weights: Tensor, early_after: int
    ) -> tuple[Tensor, Tensor, list[bool]]:
        """The answers' losses at the output and at the early readout, and which first tokens are right."""
        zero = torch.zeros((), device=self.device)
        loss = early = zero
        right = [False] * int(answered.sum())
        if not right:
            return loss, early, right
        first = packed.first[answered]
        first_targets = packed.targets[first]
        if early_after in states:
            scores = functional.layer_norm(states[early_after][first.to(self.device)].float(), (self._table.shape[1],))
            scores = scores @ self._table.T
            classes = (first_targets[:, None] == self._answer_ids[None]).long().argmax(1).to(self.device)
            early = _weighted(functional.cross_entropy(scores, classes, reduction="none"), weights)
            right = (scores.argmax(1) == classes).tolist()
        last = len(self.model.model.language_model.layers)
        if last in states:
            in_answer = packed.targets != IGNORED
            logits = self.model.lm_head(states[last][in_answer.to(self.device)]).float()
            losses = functional.cross_entropy(logits, packed.targets[in_answer].to(self.device), reduction="none")
            owners = torch.searchsorted(first, in_answer.nonzero()[:, 0], right=True) - 1
            loss = _weighted(losses, weights[owners])
            chosen = torch.full_like(packed.targets, IGNORED)
            chosen[in_answer] = logits.detach().argmax(-1).cpu()
            right = (chosen[first] == first_targets).tolist()
        return loss, early, right

    def _knowledge(self, scene: Scene, naming: Sequence[Look], states: Tensor | None) -> tuple[Tensor, list[float]]:
        single = [look for look in naming if len(look.actors) == 1]
        if states is None or not single:
            return torch.zeros((), device=self.device), []
        loss, known = self.attributes(
            states[[look.token for look in single]].float(), [attributes(scene, look.actors[0]) for look in single]
        )
        return loss, known.tolist()

    def _looks(
        self, scene: Scene, questions: Sequence[SceneQuestion], texts: Sequence[Tensor], packed: Pack, *, absent: bool
    ) -> _Looks:
        """The tokens that should look somewhere; names of absent shapes only with ``absent``."""
        naming, reading, answering = [], [], []
        for question, ids, last in zip(questions, texts, packed.first.tolist(), strict=True):
            pieces = self._pieces(ids)
            ends = list(itertools.accumulate(map(len, pieces)))
            offsets = [(end - len(piece), end) for end, piece in zip(ends, pieces, strict=True)]
            start = last + 1 - len(ids)
            mentioned = mentions("".join(pieces), offsets, scene, question.about)
            named = [Look(start + look.token, look.actors) for look in mentioned if look.actors or absent]
            naming += named
            if question.answer and named:
                right = [look for look in named if {a.colour for a in look.actors} == {question.answer}]
                reading.append((last, [look.token for look in right or named]))
            if question.answer and (question.about or absent):
                right_actors = tuple(actor for actor in question.about if actor.colour == question.answer)
                answering.append(Look(last, right_actors or question.about))
        return _Looks(naming, reading, answering)

    def _pointing(
        self, scene: Scene, looks: _Looks, grounding: Grounding, side: int, before: int, packed: Pack
    ) -> list[list[Pointing]]:
        """The attention to watch, in groups: naming (a span for each head), reading, answering."""
        texts = len(packed.ids)
        prefix = len(packed.positions) - texts

        def seen(looks: Sequence[Look], span: str) -> list[tuple[int, Tensor]]:
            pairs = []
            for look in looks:
                marked = functional.pad(cells(scene, look.actors, side, span), (before, 1))
                marked[0] = not look.actors
                pairs.append((look.token, marked))
            return pairs

        def read(tokens: Sequence[int]) -> Tensor:
            marked = torch.zeros(prefix + texts, dtype=torch.bool)
            marked[[prefix + token for token in tokens]] = True
            return marked

        def pointing(layers: Sequence[int], heads: Sequence[int], pairs: list[tuple[int, Tensor]]) -> Pointing:
            rows = torch.tensor([row for row, _ in pairs], device=self.device)
            return Pointing(rows, torch.stack([marked for _, marked in pairs]).to(self.device), layers, heads)

        groups = [
            [(grounding.naming, (h,), seen(looks.naming, s)) for h, s in zip(grounding.heads, SPANS, strict=True)]
        ]
        groups.append([(grounding.reading, grounding.heads, [(row, read(tokens)) for row, tokens in looks.reading])])
        groups.append([(grounding.answering, grounding.heads, seen(looks.answering, "all"))])
        return [[pointing(*each) for each in group if each[2]] for group in groups]

    def _answer(self, words: str) -> Tensor:
        if not words:
            return torch.zeros(0, dtype=torch.long)
        ids = self._tokenizer(words, add_special_tokens=False).input_ids
        return torch.tensor([*ids, self._tokenizer.eos_token_id])


@dataclass(frozen=True)
class _Looks:
    """The tokens of a pack that should look somewhere.

    Args:
        naming: tokens that name shapes, with those shapes.
        reading: tokens that answer, each with the tokens of its question that it should look at.
        answering: tokens that answer, with the shapes that they should look at.
    """

    naming: list[Look]
    reading: list[tuple[int, list[int]]]
    answering: list[Look]


def _weighted(losses: Tensor, weights: Tensor) -> Tensor:
    return (losses * weights.to(losses)).sum() / weights.sum()


def _joined(parts: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.cat(each) for each in zip(*parts, strict=True)]


def _pool(states: Tensor) -> Tensor:
    """(T, side * side, D) to the language grid, pooled as LLaVA-OneVision pools."""
    side = round(states.shape[1] ** 0.5)
    return Layout(len(states), (side, side), "bilinear", "one_token").pool(states)

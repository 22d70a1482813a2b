"""From a question to the LLM's input: the part of an adapter that writes a prompt, and embeds it around a video."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..stages.carried import keeps_positions
from ..text import shown
from ..tokens.video_tokens import VideoTokens
from .adapter import Adapter
from .chat_template import render
from .folder import in_one_line
from .prompt import OPENS, Inputs, Prefix, Prompt, Turn, chat_messages, insert_video, require_one_place


class ChatPrompt(Adapter):
    """Lays out a chat around a video's tokens. A family says which text is around them, and their positions."""

    def video_text(self, tokens: VideoTokens | None) -> str:
        """The text in the video's place: a slot for each group of visual tokens; one slot if ``tokens`` is None."""
        return self.placeholder

    def video_question(self, tokens: VideoTokens | None, question: str) -> str:
        """The first question, with the facts about the video that the family puts in front of it."""
        return question

    def prompt(
        self, question: str, tokens: VideoTokens | None = None, *, system: str = "", turns: Sequence[Turn] = ()
    ) -> Prompt:
        """The model's chat prompt: the video, earlier turns about it, then the question.

        Args:
            question: the last one, to be answered next.
            tokens: of the video, which some families mention in the text; None for a prompt without a video.
            system: the system prompt; "" means the model's own.
            turns: earlier questions and their answers.

        Raises:
            InputError: a question is empty or holds the placeholder itself.
        """
        text = self._rendered(chat_messages(question, turns, system, lambda first: self.video_question(tokens, first)))
        slot = self.slot or self.placeholder
        require_one_place(text, self.placeholder, slot)
        pieces = self._around_video(text, self.video_text(tokens)).split(slot)
        *before, after = (torch.tensor(self._ids(piece), dtype=torch.long) for piece in pieces)
        return Prompt(tuple(before), after)

    @cached_property
    def opens_thoughts(self) -> bool:
        """Whether a prompt ends inside the model's thoughts, so that what it writes begins with them."""
        return self._rendered(chat_messages("?", (), "", lambda first: first)).rstrip().endswith(OPENS)

    def _rendered(self, messages: Sequence[tuple[str, str]]) -> str:
        """Messages, (role, text) each, as the chat template writes them, up to where an answer begins.

        Raises:
            InputError: the template does too much, has mistakes, or refuses the messages.
        """
        try:
            template = self._tokenizer.get_chat_template(self._chat_template)
            return render(template, self._conversation(messages), self._tokenizer.special_tokens_map, self.name)
        except InputError:
            raise
        except Exception as error:  # whatever a template makes of the messages
            raise InputError(
                f"The chat template of {self.name} cannot write this prompt ({in_one_line(error)}); leave out the "
                "system prompt if you gave one, or put the template that the model's makers publish into its folder."
            ) from error

    def _conversation(self, messages: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Messages, (role, text) each, as the chat template takes them, the video before the first question."""
        return insert_video(messages)

    def _around_video(self, text: str, video: str) -> str:
        """The rendered prompt with ``video`` in the video's place."""
        return text.replace(self.placeholder, video)

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def prefix(self, tokens: VideoTokens | None, prompt: Prompt) -> Prefix:
        """Embed the prompt up to the end of the video, with the video's tokens in their places.

        Args:
            tokens: of the video; None leaves their places empty.
            prompt: from :meth:`prompt`.

        Raises:
            InputError: the tokens have another model's width.
        """
        words = [self.embed(ids) for ids in prompt.before]
        image_features = [words[0][:0]] * len(words)
        groups: list[Tensor] = []
        levels: tuple[Tensor, ...] = ()
        if tokens is not None:
            self._require_own(tokens)
            tokens = tokens.to_language_grid()
            groups = self._groups(tokens)
            image_features = [self._image_features(tokens, group).to(words[0]) for group in groups]
            levels = tuple(level[torch.cat(groups).to(level.device)].to(words[0]) for level in tokens.levels)
        pieces = [piece for pair in zip(words, image_features, strict=True) for piece in pair]
        visual = torch.cat([torch.full((len(piece),), bool(i % 2)) for i, piece in enumerate(pieces)])
        position_ids, next_position, answer_position = self._positions(tokens, prompt, groups, len(visual))
        visual = visual.to(self.device)
        ids = torch.zeros(len(visual), dtype=torch.long, device=self.device)
        ids[~visual] = torch.cat(prompt.before).to(self.device)
        inputs = Inputs(torch.cat(pieces), position_ids.to(self.device), visual, levels, ids)
        return Prefix(inputs, next_position, answer_position)

    def repeatable(self, tokens: VideoTokens | None, prompt: Prompt) -> Tensor:
        """The token ids of a prompt that a repetition penalty counts as there before: its words, and the placeholder.

        The stock class' ``generate`` counts its ``input_ids``, where the placeholder takes the place of every visual
        token. How many those are makes no difference.

        Args:
            tokens: of the video; None for a prompt without a video.
            prompt: from :meth:`prompt`.

        Returns:
            (n,) long.
        """
        placeholder = [] if tokens is None else self._ids(self.slot or self.placeholder)
        return torch.cat((*prompt.before, prompt.after, torch.tensor(placeholder, dtype=torch.long)))

    def _groups(self, tokens: VideoTokens) -> list[Tensor]:
        """Indices of the tokens in each place of the prompt: one group of all, or one for each frame."""
        if not self.frames_apart:
            return [torch.arange(len(tokens.place))]
        frame = tokens.frame.cpu()
        return [(frame == t).nonzero().flatten() for t in range(tokens.layout.frames)]

    def reading_order(self, tokens: VideoTokens) -> Tensor:
        """Tokens in the order in which the prompt holds them; a newline of the family's own comes after the last.

        Args:
            tokens: of the video.

        Returns:
            (K,) long.
        """
        return torch.cat(self._groups(tokens.to_language_grid()))

    def _image_features(self, tokens: VideoTokens, group: Tensor) -> Tensor:
        """(n, D): the embeddings in one place of the prompt."""
        return tokens.features[group.to(tokens.features.device)]

    def _positions(
        self, tokens: VideoTokens | None, prompt: Prompt, groups: Sequence[Tensor], length: int
    ) -> tuple[Tensor, int, int]:
        """Positions (A, length) of a prefix, of the token after it, and the first that an answer can have.

        Tokens are counted, or, where a stage says so, picked from the count of the full video's.
        """
        if tokens is None or not keeps_positions(tokens):
            return torch.arange(length)[None], length, length
        layout, place = tokens.layout, tokens.place.cpu()
        height, width = layout.language_grid
        width += layout.newline == "grid"
        newline = length - sum(map(len, (*prompt.before, *groups)))  # of the family's own, after all frames
        position_ids, start = [], 0
        for number, (before, group) in enumerate(zip(prompt.before, groups, strict=True)):
            first = start + len(before)
            frame, y, x = place[group].T
            within = ((0 if self.frames_apart else frame * height) + y) * width + x
            position_ids += [torch.arange(start, first), first + within]
            frames = 1 if self.frames_apart else layout.frames
            start = first + (frames * height * width if number < layout.frames else 0)
        position_ids.append(torch.arange(start, start + newline))
        return torch.cat(position_ids)[None], start + newline, start + newline

    def text_inputs(self, ids: Tensor, positions: Tensor) -> Inputs:
        """Embed text.

        Args:
            ids: (n,) long, token ids.
            positions: (n,) long, rotary positions.
        """
        ids = ids.to(self.device)
        position_ids = positions.to(self.device)[None].expand(self.axes, -1)
        return Inputs(self.embed(ids), position_ids, torch.zeros_like(ids, dtype=torch.bool), ids=ids)

    def embed(self, ids: Tensor) -> Tensor:
        """Embed token ids.

        Args:
            ids: (n,) long.

        Returns:
            (n, D) in the model's dtype.
        """
        return self.hf_model.get_input_embeddings()(ids.to(self.device))

    def prompt_inputs(
        self, tokens: VideoTokens | None, question: str, *, system: str = "", turns: Sequence[Turn] = ()
    ) -> Inputs:
        """Embed a complete prompt, with the video's tokens in their places.

        Args:
            tokens: of the video; None for a prompt without a video.
            question: the last one, to be answered next.
            system: the system prompt; "" means the model's own.
            turns: earlier questions and their answers.
        """
        prompt = self.prompt(question, tokens, system=system, turns=turns)
        prefix = self.prefix(tokens, prompt)
        positions = torch.arange(prefix.next_position, prefix.next_position + len(prompt.after))
        return prefix.inputs.then(self.text_inputs(prompt.after, positions))

    def decode(self, ids: list[int]) -> str:
        """Token ids to text, without special tokens and control characters."""
        return shown(self._tokenizer.decode(ids, skip_special_tokens=True))

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer's files."""
        self._tokenizer.save_pretrained(folder)

    def _require_own(self, tokens: VideoTokens) -> None:
        if tokens.features.shape[1] != self.language.hidden:
            raise InputError(
                f"These tokens are {tokens.features.shape[1]} wide (encoded by {tokens.model or 'another model'}) and "
                f"{self.name} reads {self.language.hidden}; encode the video with the model that answers."
            )

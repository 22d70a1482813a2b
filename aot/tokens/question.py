"""The question that a video is reduced for, as data that travels with its tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

CLIP = "clip"
"""The name of what CLIP's own text and vision halves say of places: the mean cosine of a cell with the question."""

ASSISTANT = "assistant"
"""The name of what an LLM's last prompt token attends to, of frames."""


@dataclass(frozen=True, repr=False)
class Question:
    """A question, and what a model makes of it. Stages that choose tokens by the question read it; others do not.

    Args:
        text: as it was put, without instructions around it.
        words: (L, D) floating, the LLM's input embeddings of its tokens.
        places: (T, N) floating each, how relevant every cell of the encoder's grid is, by the name of what says so.
        frames: (T,) floating each, how relevant every frame is, by the name of what says so.
        seconds: that went into saying so, beside a look at embeddings.
    """

    text: str
    words: Tensor
    places: Mapping[str, Tensor] = field(default_factory=dict)
    frames: Mapping[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0

    def __repr__(self) -> str:
        return f"Question({self.text!r}, {len(self.words)} tokens)"

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, the words first."""
        places = {f"places.{name}": self.places[name] for name in sorted(self.places)}
        frames = {f"frames.{name}": self.frames[name] for name in sorted(self.frames)}
        return {"words": self.words, **places, **frames}

    @classmethod
    def from_tensors(cls, text: str, tensors: Mapping[str, Tensor], seconds: float = 0.0) -> Question:
        """The way back from :attr:`tensors`.

        Args:
            text: of the question.
            tensors: what that returned.
            seconds: that went into them.
        """
        groups = {
            group: {name.partition(".")[2]: each for name, each in tensors.items() if name.startswith(f"{group}.")}
            for group in ("places", "frames")
        }
        return cls(text, tensors["words"], **groups, seconds=seconds)

    def to(self, device: torch.device | str) -> Question:
        """This question with its tensors on a device."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return Question.from_tensors(self.text, moved, self.seconds)

    def cut(self, first: int, last: int) -> Question:
        """The question about frames ``first`` up to ``last``."""
        part = slice(first, last)
        return dataclasses.replace(
            self,
            places={name: each[part] for name, each in self.places.items()},
            frames={name: each[part] for name, each in self.frames.items()},
        )

    def pick(self, frames: Sequence[int]) -> Question:
        """The question about some of the frames.

        Args:
            frames: their indices.
        """
        chosen = list(frames)
        return dataclasses.replace(
            self,
            places={name: each[chosen] for name, each in self.places.items()},
            frames={name: each[chosen] for name, each in self.frames.items()},
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Question]) -> Question:
        """One question about runs of frames that follow each other, as one about all of them."""
        first = parts[0]
        return dataclasses.replace(
            first,
            places={name: torch.cat([part.places[name] for part in parts]) for name in first.places},
            frames={name: torch.cat([part.frames[name] for part in parts]) for name in first.frames},
        )

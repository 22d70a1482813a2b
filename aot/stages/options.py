"""Settings of stages: what each means, its default and what is allowed, and the ones that many stages have."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError

METADATA = "setting"
"""Where the metadata of a stage's field has its :class:`Setting`."""


@dataclass(frozen=True)
class Setting:
    """What one setting of a stage means, and which values it takes.

    Args:
        default: a number, a text or a truth value; values are of its type, whole numbers also where it is a float.
        help: what the setting does, for the node's tooltip and ``aot stages``.
        low: smallest value; None where there is none.
        high: largest value; None where there is none.
        step: of the widget; None for the widget's own.
        choices: the texts that are allowed, or what gives them once all stages are known; empty where any is.
        advanced: whether few will want to change it.
    """

    default: Any
    help: str
    _: dataclasses.KW_ONLY
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] | Callable[[], tuple[str, ...]] = ()
    advanced: bool = False

    @property
    def allowed(self) -> tuple[str, ...]:
        """The texts that are allowed; none where any is."""
        return self.choices() if callable(self.choices) else self.choices

    def field(self, **changes: Any) -> Any:
        """The dataclass field of a stage that has this setting.

        Args:
            **changes: what differs in this stage, by the names above.
        """
        setting = dataclasses.replace(self, **changes)
        return dataclasses.field(default=setting.default, metadata={METADATA: setting})

    def check(self, title: str, name: str, value: Any) -> None:
        """Refuse a value that is not allowed.

        Args:
            title: the stage's, for the error.
            name: the setting's, for the error.
            value: what it is set to.

        Raises:
            InputError: the value is of another type, none of the choices, or out of bounds.
        """
        if self.allowed:
            if value not in self.allowed:
                raise InputError(f"{title}: {name} is {value!r}; give one of {', '.join(self.allowed)}.")
            return
        if not self._is_of_type(value):
            raise InputError(f"{title}: {name} is {value!r}; give a {type(self.default).__name__}.")
        if (self.low is not None and not value >= self.low) or (self.high is not None and not value <= self.high):
            bounds = f"from {self.low:g} to {self.high:g}" if self.high is not None else f"of {self.low:g} or more"
            raise InputError(f"{title}: {name} is {value:g}; give a value {bounds}.")

    def _is_of_type(self, value: Any) -> bool:
        if isinstance(self.default, (bool, str)):
            return isinstance(value, type(self.default))
        numbers = int if isinstance(self.default, int) else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool)

    def parse(self, stage: str, name: str, text: str) -> Any:
        """The value that a text on the command line means.

        Args:
            stage: the stage's name, for the error.
            name: the setting's, for the error.
            text: what follows the equals sign.

        Raises:
            InputError: the text is no value of the setting's type.
        """
        if isinstance(self.default, bool):
            if text.lower() not in ("true", "false"):
                raise InputError(f"Stage {stage}: {name} is {text!r}; write true or false.")
            return text.lower() == "true"
        if isinstance(self.default, str):
            return text
        try:
            return type(self.default)(text)
        except ValueError as error:
            kind = "whole number" if isinstance(self.default, int) else "number"
            raise InputError(f"Stage {stage}: {name} is {text!r}; write a {kind}.") from error


def settings_of(stage: Any) -> Mapping[str, Setting]:
    """The settings of a stage or of its class by name, in the order of its fields."""
    return {item.name: item.metadata[METADATA] for item in dataclasses.fields(stage)}


RETENTION = Setting(0.25, "Share of the video's language grid to keep, met to the token.", low=0, high=1, step=0.01)

OPTIONAL_RETENTION = dataclasses.replace(
    RETENTION, default=0.0, help=f"{RETENTION.help} 0 keeps what the other settings give."
)
"""The retention of a stage whose other settings say what it keeps unless one is set."""

NO_RELEVANCE = "none"
"""The relevance of a stage that asks, without the question: its control."""

RELEVANCE = Setting(
    "words",
    "What says how relevant a token is: words, the LLM's input embeddings of the question; none leaves the question "
    "out, as a control beside it.",
    choices=("words", NO_RELEVANCE),
)

KEEP_TOKENS = Setting(
    0, "Tokens of the whole video to keep, met exactly. 0 goes by the retention.", low=0, high=100_000_000
)

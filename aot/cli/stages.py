"""``aot stages``: the reduction stages, their settings and the presets."""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
from types import MappingProxyType
from typing import Any

from ..errors import InputError
from .command import Result

_WHERE = MappingProxyType({"FRAMES": "on frames", "TOWER": "inside the vision tower", "LLM": "inside the LLM"})
"""Places, in words."""


def add(parser: argparse.ArgumentParser) -> None:
    """Add which stage."""
    parser.add_argument("name", nargs="?", help="only this stage")


def run(options: argparse.Namespace) -> Result:
    """Print every stage with its settings, or the one that is named."""
    from ..stages import Place, every_stage
    from ..stages.chain import published
    from ..stages.options import settings_of

    known = every_stage()
    if options.name not in (None, *known):
        raise InputError(f"No stage is called {options.name!r}; there are {', '.join(known)}.")
    chosen = {options.name: known[options.name]} if options.name else known
    presets = chosen[options.name].presets if options.name else published()
    listed = []
    for name, kind in chosen.items():
        resolved = {key: dataclasses.replace(each, choices=each.allowed) for key, each in settings_of(kind).items()}
        settings = [
            {"name": key, **{k: v for k, v in dataclasses.asdict(setting).items() if v is not None}}
            for key, setting in resolved.items()
        ]
        listed.append(
            {
                "name": name,
                "title": kind.title,
                "node": kind.node_id,
                "source": kind.source,
                "settings": settings,
                "asks": kind.asks,
                "acts": kind.acts.name.lower(),
            }
        )
        summary = (kind.__doc__ or "").splitlines()[0]
        print(f"{name}: {kind.title} ({kind.source})\n    {summary}")
        if kind.acts is not Place.TOKENS:
            print(f"    It acts {_WHERE[kind.acts.name]}.")
        if kind.asks:
            print("    It asks: what it keeps depends on the question.")
        for setting in settings:
            lines = textwrap.wrap(setting["help"], 90, initial_indent=" " * 8, subsequent_indent=" " * 8)
            print(f"    {setting['name']}={setting['default']}{_allowed(setting)}", *lines, sep="\n")
    if presets:
        print("Presets:")
    for name, chain in presets.items():
        print(f"    {name}: {chain}")
    return {"stages": listed, "presets": dict(presets)}, 0


def _allowed(setting: dict[str, Any]) -> str:
    """What a setting may be, in brackets."""
    if setting["choices"]:
        return f"  ({', '.join(setting['choices'])})"
    if "low" in setting:
        return f"  ({setting['low']:g} to {setting['high']:g})"
    return "  (true, false)" if isinstance(setting["default"], bool) else ""

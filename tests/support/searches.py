"""How many examples a search tries: few in `make test`, ten times as many in `make test-versions`."""

from __future__ import annotations

from hypothesis import settings

LONG = "long"
USUAL = 100
"""Hypothesis' own default, which the usual profile has."""

settings.register_profile(LONG, max_examples=10 * USUAL)


def examples(count: int) -> int:
    """`count`, or as many times that as the profile has of the usual number."""
    return max(1, count * settings.default.max_examples // USUAL)

"""Questions in two groups by a control: those that smaller frames get wrong, which a method can show itself at.

Source: VTC-Bench (ACL 2026, arXiv 2510.07143).
"""

from __future__ import annotations

import numpy as np


def hard_and_easy(full: np.ndarray, control: np.ndarray, answered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The questions right with all tokens and wrong with the control, and those right with both.

    Args:
        full: (n,) bool, whether all tokens gave the right answer.
        control: (n,) bool, whether the control did.
        answered: (n,) bool, whether the control gave an answer; questions without one are in neither group.

    Returns:
        Indices, (k,) int64 each.
    """
    return np.flatnonzero(full & ~control & answered), np.flatnonzero(full & control & answered)


def accuracy(group: np.ndarray, right: np.ndarray, answered: np.ndarray) -> float:
    """A method's share of right answers in a group, from 0 to 1; one that is missing counts as wrong.

    Args:
        group: (k,) int64, indices of the questions.
        right: (n,) bool, whether the method's answer is right.
        answered: (n,) bool, whether it gave one.
    """
    return float((right & answered)[group].mean()) if len(group) else 0.0

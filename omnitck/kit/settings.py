"""What the environment says of a suite's deadlines, under any runner: it takes the place of what the suite declares."""

import os
from typing import Any

from omnitck.kit.text import UsageError

__all__ = ["deadline_of", "patience_of"]


def patience_of(suite: Any) -> float:
    """What multiplies every deadline of *suite*, a class or a test. Raises UsageError."""
    return _number("OMNITCK_PATIENCE") or float(suite.patience)


def deadline_of(suite: Any, rule: Any) -> float:
    """Seconds of work for *rule* under *suite*, its patience included. Raises UsageError."""
    return float(_number("OMNITCK_DEADLINE") or suite.deadline or rule.deadline) * patience_of(suite)


def _number(variable: str) -> float | None:
    text = os.environ.get(variable)
    if not text:
        return None

    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise UsageError(f"{variable} is {text!r}: give a number above 0.")

    return number

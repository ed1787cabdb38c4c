"""One outcome of an audit, out of those that it has for each rule that it watched."""

from collections.abc import Sequence
from dataclasses import replace

from omnitck.kit.outcomes import Outcome, Status

__all__ = ["sum_up"]


def sum_up(watched: Sequence[Outcome]) -> Outcome:
    """What became of the audit to which all of *watched* belong, of which there is at least one."""
    spoke = [each for each in watched if each.outcome is not Status.PASSED]
    if not spoke:
        return replace(watched[0], during="", message="")

    first = min(spoke, key=lambda each: (each.outcome is not Status.FAILED, each.outcome is not Status.ERROR))
    counted = f"first during {first.during}, {len(spoke)} of {len(watched)} rules"
    return replace(first, during="", message=f"{first.message}\n  seen      {counted}")

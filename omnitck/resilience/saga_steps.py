"""Steps of a saga that note what happens to them, and what a correct order of that is."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio.lowlevel

from omnitck.shared.models import SagaContext, SagaStep

__all__ = ["DO", "UNDO", "Played", "Script", "StepFailed", "continues", "in_order", "shown"]

DO, UNDO = "do", "undo"

Move = tuple[str, int]
"""A step that is done or undone, by its number from 0."""
Interlude = Callable[[SagaContext], Awaitable[object]]


class StepFailed(Exception):  # noqa: N818  what an application raises
    """A step could not be done."""


@dataclass(slots=True)
class Played:
    """A step that was begun."""

    move: Move
    saga_id: str
    key: str
    payload: Mapping[str, Any]
    ended: bool = False
    """Whether it has returned or raised; what was cut off has not."""


@dataclass
class Script:
    """*count* steps, with what happens in the middle of some: an interlude may look, raise, or wait for ever."""

    count: int = 3
    interludes: dict[Move, Interlude] = field(default_factory=dict)
    without: Collection[int] = ()
    """The steps that have no compensation."""
    played: list[Played] = field(default_factory=list)

    @property
    def steps(self) -> list[SagaStep]:
        """The steps, made anew each time, as by a process that was started again."""
        return [
            SagaStep(
                f"step {number}",
                partial(self._play, (DO, number)),
                None if number in self.without else partial(self._play, (UNDO, number)),
            )
            for number in range(self.count)
        ]

    async def _play(self, move: Move, context: SagaContext) -> object:
        played = Played(move, context.saga_id, context.idempotency_key, context.payload)
        self.played.append(played)
        await anyio.lowlevel.checkpoint()
        interlude = self.interludes.get(move)
        try:
            if interlude is not None:
                await interlude(context)
                await anyio.lowlevel.checkpoint()
        except Exception:
            played.ended = True
            raise
        played.ended = True
        return f"{move} is done"

    def fail(self, move: Move, *, times: int | None = None, error: type[Exception] = StepFailed) -> None:
        """Let *move* raise *error*, the first so many *times*, or always."""
        left = [times]

        async def raise_it(context: SagaContext) -> None:
            if left[0] is None or left[0] > 0:
                left[0] = None if left[0] is None else left[0] - 1
                raise error(f"{move} cannot be done")

        self.interludes[move] = raise_it

    def of(self, saga_id: str) -> list[Move]:
        """What was begun of one saga, in order."""
        return [each.move for each in self.played if each.saga_id == saga_id]


def in_order(count: int, *, failed: int | None = None, undone: bool = False, without: Collection[int] = ()) -> list[Move]:
    """What is begun of *count* steps, of which one has *failed*; it is *undone* itself, if its outcome is not known."""
    if failed is None:
        return [(DO, number) for number in range(count)]

    last = failed if undone else failed - 1
    return [
        *((DO, number) for number in range(failed + 1)),
        *((UNDO, number) for number in range(last, -1, -1) if number not in without),
    ]


def continues(script: Script, saga_id: str, begun: int, orders: Iterable[Sequence[Move]]) -> bool:
    """Whether one of *orders* was followed by a saga that was interrupted once, when so many steps had *begun*.

    What the interruption has cut off is begun again, or undone. What had ended, and may not have been stored, may be begun again.
    """
    played = [each for each in script.played if each.saga_id == saga_id]
    whole = [each.move for each in played]
    before, after = whole[:begun], whole[begun:]
    cut_off = begun > 0 and not played[begun - 1].ended
    again = [*before, *after[1:]] if before and before[-1:] == after[:1] else None
    for order in map(list, orders):
        if again == order:
            return True
        undoes = cut_off and before[-1][0] == DO and after[:1] == [(UNDO, before[-1][1])]
        if whole == order and (not cut_off or undoes):
            return True
    return False


def shown(moves: Iterable[Move]) -> str:
    """*moves* in words."""
    return ", ".join(f"{direction} {number}" for direction, number in moves) or "nothing"

"""What an operation may come to that was cancelled: the cancellation, or the result that it had by then.

Whether a result was there cannot be seen, but one that is made up can: it is not what the operation comes to undisturbed, or what
the operation does is not done. So it is called twice more, under fresh names. The two calls are alike but for the names, and for
what a provider makes up each time: versions, ids, times. Where they differ, only types are compared.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any, TypeVar

from omnitck.instruments.cancellation import MOST_STEPS, Interrupted, cancel_at
from omnitck.kit.concurrency import Call, attempt
from omnitck.kit.definition import Operation
from omnitck.kit.text import describe, describe_error
from omnitck.kit.trial import Plain, Trial
from omnitck.shared.exceptions import TCKError, UnavailableError

__all__ = ["CancelledTrial"]

P = TypeVar("P")

LOST = "look for `except BaseException`, a bare `except:` or `asyncio.shield`" + (
    "; or for `asyncio.wait_for`, which in Python 3.11 loses a cancellation that comes as what it waits for ends: "
    "`asyncio.timeout` loses none"
    if sys.version_info < (3, 12)
    else ""
)
"""The usual causes of a cancellation that does not arrive."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What a call came to, without the names in it."""

    result: object
    left: object
    """What was there afterwards under its name."""


@dataclass(frozen=True, slots=True)
class Begun:
    """An operation under a fresh name, arranged and yet to be called."""

    name: str
    since: int
    """How many names the rule had made before."""
    call: Call[object]


class CancelledTrial(Trial[P]):
    """The words of rules about cancelled operations."""

    def check_ends(self, operation: Operation, interrupted: Interrupted) -> None:
        """Fail the rule unless *operation*, which was cancelled, ended with that, or with what it may have had by then."""
        ended, error = interrupted.ended, interrupted.error
        if ended == "running":
            observed = f"it was still running after {self.cancel_seconds:g} s"
        elif error is not None:
            observed = "" if isinstance(error, TCKError) else f"it raised {describe_error(error)}"
        else:
            observed = f"it went on waiting, and returned {describe(interrupted.value)}" if interrupted.waited else ""
        self.check(
            ended == "cancelled" or not observed,
            given=_given(operation, interrupted.step),
            expected="the cancellation",
            observed=Plain(observed),
            hint=LOST,
        )

    async def check_results(self, operation: Operation, client: Any) -> None:
        """Fail the rule if *operation*, cancelled wherever it waits, makes up what it returns, or has not done what it does."""
        held = await self._tells_more(operation, client)
        one, other = await self._effect(operation, client, held=held), await self._effect(operation, client, held=held)
        for step in range(MOST_STEPS):
            begun = await self._begin(operation, client, held=held)
            interrupted = await cancel_at(begun.call, step, within=self.cancel_seconds)
            if not interrupted.delivered:
                return

            self.check_ends(operation, interrupted)
            if interrupted.ended == "returned":
                effect = await self._seen(operation, client, begun, interrupted.value)
                self.check(
                    _agrees(effect.result, one.result, other.result),
                    given=_given(operation, step),
                    expected=f"the cancellation, or what it returns undisturbed: {self._shown(one.result, begun)}",
                    observed=Plain(f"it returned {self._shown(effect.result, begun)}"),
                    hint=LOST,
                )
                self.check(
                    _agrees(effect.left, one.left, other.left),
                    given=f"{_given(operation, step)}, which returned as if it were done: what is then there",
                    expected=f"what it leaves undisturbed: {self._shown(one.left, begun)}",
                    observed=Plain(self._shown(effect.left, begun)),
                    hint=LOST,
                )

    async def _tells_more(self, operation: Operation, client: Any) -> bool:
        """Whether a call of *operation* tells more under a name that holds something than under a fresh one.

        There it changes nothing: to read, or to delete, what is absent looks like a default. It has to succeed, of course.
        """
        if self.cells is None or not self.can("own_write"):
            return False

        begun = await self._begin(operation, client, held=False)
        before = await self._left(operation, client, begun.name)
        await begun.call()
        if await self._left(operation, client, begun.name) != before:
            return False

        tried = await attempt(partial(self._effect, operation, client, held=True))
        if isinstance(tried.error, TCKError) and not isinstance(tried.error, UnavailableError):
            return False
        tried.result()
        return True

    async def _effect(self, operation: Operation, client: Any, *, held: bool) -> Effect:
        """What *operation* comes to on a fresh name, or on one at which something is *held*."""
        begun = await self._begin(operation, client, held=held)
        return await self._seen(operation, client, begun, await begun.call())

    async def _begin(self, operation: Operation, client: Any, *, held: bool) -> Begun:
        since, name = self.session.names, self.key()
        if held:
            await self.cells.write(client, name, self.token())
        return Begun(name, since, await self.arranged(operation, client, name))

    async def _seen(self, operation: Operation, client: Any, begun: Begun, result: object) -> Effect:
        """The *result* of a call that has *begun*, and what it left."""
        left = await self._left(operation, client, begun.name)
        names = re.compile(re.escape(self.namespace) + r"-(\d+)")

        def neutral(text: str) -> str:
            # By its place among the names of this call: each call makes them in the same order.
            return names.sub(lambda found: f"#{number}" if (number := int(found[1]) - begun.since) > 0 else found[0], text)

        return Effect(_changed(result, neutral), _changed(left, neutral))

    def _shown(self, value: object, begun: Begun) -> str:
        """*value*, of an `Effect`, with the names of the call that has *begun*."""
        return describe(
            _changed(value, partial(re.sub, r"#(\d+)", lambda found: f"{self.namespace}-{begun.since + int(found[1])}"))
        )

    async def _left(self, operation: Operation, client: Any, name: str) -> object:
        """What *operation* has left under *name*, as far as *client* itself writes there."""
        look = operation.look
        if look is not None:
            tried = await attempt(lambda: look(client, name))
            return tried.value if tried.error is None else type(tried.error).__name__
        if self.cells is None or not self.can("own_write"):
            return None
        return await self.cells.state(client, name, self.declared)


def _given(operation: Operation, step: int) -> str:
    return f"{operation.name}, cancelled at its wait number {step + 1}"


def _changed(value: Any, change: Callable[[str], str]) -> object:
    """*value* with each text in it changed; records are dictionaries."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, bytes):
        return change(value.decode("latin-1")).encode("latin-1")
    if isinstance(value, dict):
        return {change(key) if isinstance(key, str) else key: _changed(each, change) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_changed(each, change) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _changed(getattr(value, each.name), change) for each in fields(value)}
    return value


def _agrees(value: object, one: object, other: object) -> bool:
    """Whether *value* is what *one* and *other* are, or of their type where these two differ."""
    if type(value) is not type(one):
        return type(value) is type(other)
    if isinstance(value, dict) and isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return value.keys() == one.keys() and all(_agrees(each, one[key], other[key]) for key, each in value.items())
    if isinstance(value, list) and isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return len(value) == len(one) and all(map(_agrees, value, one, other))
    return bool(one != other or value == one)

"""What concurrent clients did to one key, on one clock."""

import enum
import time
from dataclasses import dataclass, replace
from typing import Final

from omnitck.kit.concurrency import Call

__all__ = ["REFUSED", "UNKNOWN", "Marker", "Op", "Recorder"]


class Marker(enum.Enum):
    """What stands in the place of a result that is no value."""

    REFUSED = "refused"
    UNKNOWN = "unknown"

    def __repr__(self) -> str:
        return self.name


REFUSED: Final = Marker.REFUSED
"""The operation was refused: it has certainly not happened. A refused comparison also says that the value differed."""
UNKNOWN: Final = Marker.UNKNOWN
"""The operation is open: it may have happened, may happen yet, or may never happen."""

_ARGUMENTS: Final = {
    "get": 0,
    "set": 1,
    "delete": 0,
    "compare_and_set": 2,
    "compare_and_delete": 1,
}


@dataclass(frozen=True, slots=True)
class Op:
    """One operation on a register whose value is a string, or None while it is absent.

    A comparison names the *value* that it expects, not a version: workloads write unique values, so that a version
    stands for the value it was read with. An expected None means "only if absent".

    Raises `ValueError` if the pieces contradict each other.
    """

    client: int
    kind: str
    """`get`, `set`, `delete`, `compare_and_set` or `compare_and_delete`."""
    args: tuple[object, ...]
    """`()`, `(value,)`, `()`, `(expected, value)` or `(expected,)`, in the order of the kinds above."""
    call: int
    """When it was called, in nanoseconds of `time.monotonic_ns`."""
    ret: int | None
    """When it returned; None if it is open."""
    result: object
    """What a `get` returned; `REFUSED`; `UNKNOWN` if open. Of an update anything else, None included, means success."""

    def __post_init__(self) -> None:
        if self.kind not in _ARGUMENTS:
            raise ValueError(f"unknown kind of operation {self.kind!r}: known are {', '.join(_ARGUMENTS)}.")
        if len(self.args) != _ARGUMENTS[self.kind]:
            raise ValueError(f"{self.kind} takes {_ARGUMENTS[self.kind]} arguments, not {len(self.args)}.")
        if not all(isinstance(value, str) for value in self._written()):
            raise ValueError(f"{self.kind} must write a str.")
        if not all(value is None or isinstance(value, str) for value in self.args):
            raise ValueError(f"{self.kind} must expect a str, or None for absent.")
        if (self.ret is None) != (self.result is UNKNOWN):
            raise ValueError("an open operation has no time of return and the result UNKNOWN; every other has both.")
        if self.ret is not None and self.ret < self.call:
            raise ValueError(f"the operation returned {self.call - self.ret} ns before it was called.")
        if self.result is False and self.kind.startswith("compare"):
            raise ValueError(f"{self.kind} has the result False: record a refusal as REFUSED.")

    def _written(self) -> tuple[object, ...]:
        return self.args[-1:] if self.kind in ("set", "compare_and_set") else ()


class Recorder:
    """The history of one key, told by clients that share one event loop. The key must be absent when it begins."""

    def __init__(self) -> None:
        self._ops: list[Op] = []

    @property
    def ops(self) -> tuple[Op, ...]:
        """Every operation called until now, in the order of the calls; one that has not returned yet is open."""
        return tuple(self._ops)

    async def record(
        self,
        client: int,
        kind: str,
        args: tuple[object, ...],
        call: Call[object],
        refusals: tuple[type[BaseException], ...] = (),
    ) -> object:
        """Await *call* and note when it began, when it ended, and what it said.

        Returns the result, or `REFUSED` if one of *refusals* was raised. Anything else that is raised, cancellation
        included, leaves the operation open and propagates. Raises `ValueError` if *kind* and *args* are no operation,
        without calling, or if the result is none.
        """
        # Noted before the call: a write in flight may already be seen by others, and must then not be missing.
        index = len(self._ops)
        self._ops.append(Op(client, kind, args, time.monotonic_ns(), None, UNKNOWN))
        try:
            result = await call()
        except refusals:
            result = REFUSED

        self._ops[index] = replace(self._ops[index], ret=time.monotonic_ns(), result=result)
        return result

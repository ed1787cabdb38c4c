"""What code of a provider is doing: stacks without what runs a rule."""

import asyncio
import itertools
import os
import sys
import threading
import traceback
import unittest
from collections.abc import Iterable, Mapping
from typing import Any

import anyio

__all__ = ["calls", "provider_calls", "stacks"]


def stacks(thread: int, loops: Mapping[int, asyncio.AbstractEventLoop]) -> str:
    """What the provider does in *thread*, the newest call first: the call that it is in, or else those that wait in its loop."""
    frame = sys._current_frames().get(thread or threading.main_thread().ident or 0)
    chains = [provider_calls(reversed(traceback.extract_stack(frame)))] if frame else []
    loop = loops.get(thread)
    if loop is not None:
        chains += [list(reversed(_awaiting(task))) for task in asyncio.all_tasks(loop)]
    return "\n".join(calls(chain) for chain in [each for each in chains if any(map(_is_foreign, each))][:3])


def calls(frames: Iterable[traceback.FrameSummary]) -> str:
    """The newest of *frames*, which has the newest first, a line each."""
    return "\n".join(
        f"{os.path.basename(each.filename)} line {each.lineno} in {each.name}: {each.line}"
        for each in itertools.islice(frames, 10)
    )


def provider_calls(frames: Iterable[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """Of *frames*, the newest first, those before what runs a rule."""
    return list(itertools.takewhile(lambda each: not each.filename.startswith(_MACHINERY), frames))


_LIBRARY = os.path.dirname(os.__file__) + os.sep
_MACHINERY = tuple(
    os.path.dirname(str(each)) + os.sep for each in (__file__, asyncio.__file__, anyio.__file__, unittest.__file__)
)


def _is_foreign(frame: traceback.FrameSummary) -> bool:
    """Whether *frame* belongs neither to what runs a rule nor to the standard library."""
    name = frame.filename
    in_library = name.startswith((_LIBRARY, "<frozen")) and "site-packages" not in name
    return not in_library and not name.startswith(_MACHINERY)


def _awaiting(task: "asyncio.Task[Any]") -> list[traceback.FrameSummary]:
    """The frames of a task that waits, from the outermost to the one that waits."""
    frames: list[traceback.FrameSummary] = []
    coroutine: Any = task.get_coro()
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            frames += traceback.extract_stack(frame, limit=1)
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return frames

"""The clients of one rule: each in a task of its own, seen through a journal of the calls made on it."""

import functools
import inspect
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from types import CoroutineType
from typing import Any, TypeVar

import anyio

from omnitck.kit.concurrency import new_event
from omnitck.kit.definition import Plan
from omnitck.kit.outcomes import Violation
from omnitck.kit.text import describe, describe_error
from omnitck.shared.exceptions import TCKError

__all__ = ["Client", "Hung", "Journal", "Journaled", "accepted", "parameters", "raw"]

LONGEST_TRACE = 10
LAST_OF_A_NAME = 4
"""Calls that are kept of each name, so that a concurrent rule can show those of the name that went wrong, not the last of all."""
MOST_NAMES = 200
HUNG_RULES = 2
"""Rules whose whole time a method may take that never returned, until it gets less: a suite that hangs everywhere has to end.

Where no method has returned yet, they are counted together.
"""
HUNG_SECONDS = 0.25
"""What it gets then, times the suite's patience."""

T = TypeVar("T")


class Client:
    """A provider in its host task."""

    def __init__(self, config: dict[str, Any], hook: str, make_event: Callable[[], Any] = new_event) -> None:
        self.config = config
        self.hook = hook
        self.provider: Any = None
        self.failure: Exception | None = None
        self.close_error: Violation | None = None
        self.closed = False
        self.interrupted = False
        """Whether its time was over before it had closed."""
        self.touched: dict[str, None] = {}
        """The names that it was asked about."""
        self.ready = make_event()
        self.closing = make_event()
        self.ended = make_event()

    def hand_over(self, provider: object) -> bool:
        """Tell who waits that the client is open."""
        self.provider = provider
        self.ready.set()
        return True

    def note(self, argument: object) -> None:
        """Remember the names in the first argument of a call: one, several, or those of a transaction's steps."""
        if isinstance(argument, str):
            self.touched[argument] = None
        elif isinstance(argument, dict | list | tuple | set):
            for each in argument:
                name = getattr(each, "key", each)
                if isinstance(name, str):
                    self.touched[name] = None
        elif isinstance(name := getattr(argument, "saga_id", None), str):
            self.touched[name] = None


class Journal:
    """The last calls that a rule made, for the trace of a failure. Text is made only when it is needed."""

    def __init__(self, plan: Plan, patience: float, scope: anyio.CancelScope) -> None:
        self.began = time.perf_counter()
        self.calls: deque[_Call] = deque(maxlen=LONGEST_TRACE)
        self._of_names: OrderedDict[str, deque[_Call]] | None = None
        self.plan = plan
        self.patience = patience
        self._scope = scope
        """Of the rule's work; once it is cancelled, so is every call that has not ended."""

    def forget(self) -> None:
        """Keep nothing, from now on: the calls of this rule carry secrets."""
        self.calls = deque(maxlen=0)
        self._of_names = None

    def note(self, text: str, outcome: object) -> None:
        """Keep something that happened and was no call of the rule's, such as a handler that ran."""
        call = _Note(text, (), {})
        call.outcome = outcome
        self.calls.append(call)

    def tell_apart(self) -> None:
        """Keep the last calls of each name, too, from now on."""
        self._of_names = OrderedDict()

    def keep(self, call: "_Call") -> None:
        """Keep a call that begins, as one of the last, and as one of the last of its name where names are told apart."""
        self.calls.append(call)
        if self._of_names is None or not call.arguments or not isinstance(name := call.arguments[0], str):
            return

        of_name = self._of_names.get(name)
        if of_name is None:
            of_name = self._of_names[name] = deque(maxlen=LAST_OF_A_NAME)
            if len(self._of_names) > MOST_NAMES:
                self._of_names.popitem(last=False)
        of_name.append(call)

    def lines(self, about: str | None = None) -> list[str]:
        """One line a call, the oldest first: the last ones, or the last ones *about* a name."""
        calls = self.calls if about is None or self._of_names is None else self._of_names.get(about, self.calls)
        return [f"+{1000 * (call.at - self.began):.1f} ms {call}" for call in calls]

    def ends(self, error: BaseException) -> bool:
        """Whether a call that raised *error* has ended by itself, and not because the rule's time was over."""
        return not (self._scope.cancel_called and isinstance(error, anyio.get_cancelled_exc_class()))

    def pending(self) -> "_Call | None":
        """The last call that has not ended by itself."""
        return next((call for call in reversed(self.calls) if call.outcome is _PENDING and call.error is None), None)

    def limit(self, method: str) -> float | None:
        """Seconds that a call of *method* may take; None while there is no reason to think that it never ends."""
        hung, answered = self.plan.hung, self.plan.answered
        rules = hung.get(method, 0) if answered else sum(hung.values())
        return None if rules < HUNG_RULES or method in answered else HUNG_SECONDS * self.patience


_PENDING = object()


class _Call:
    __slots__ = ("arguments", "at", "error", "keywords", "method", "outcome")

    def __init__(self, method: str, arguments: tuple[object, ...], keywords: dict[str, object]) -> None:
        self.at = time.perf_counter()
        self.method = method
        self.arguments = arguments
        self.keywords = keywords
        self.outcome: object = _PENDING
        self.error: BaseException | None = None

    def head(self) -> str:
        shown = [describe(each, 60) for each in self.arguments]
        shown += [f"{key}={describe(each, 60)}" for key, each in self.keywords.items()]
        return f"{self.method}({', '.join(shown)})"

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.head()} raised {describe_error(self.error)}"
        if self.outcome is _PENDING:
            return f"{self.head()} ..."
        return f"{self.head()} -> {describe(self.outcome, 80)}"


class _Note(_Call):
    """Something that was no call of the rule's: it is shown as it is."""

    __slots__ = ()

    def head(self) -> str:
        return self.method


class Journaled:
    """A provider, or an object that it handed out, seen through a journal of the calls made on it."""

    def __init__(self, provider: Any, journal: Journal, client: Client, word: str = "") -> None:
        self._omnitck_raw = provider
        self._omnitck_journal = journal
        self._omnitck_client = client
        self._omnitck_word = word

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._omnitck_raw, name)
        if not callable(member):
            return member

        return functools.partial(self._omnitck_call, name, member)

    def __repr__(self) -> str:
        return f"<{self._omnitck_word}>" if self._omnitck_word else repr(self._omnitck_raw)

    def _omnitck_call(self, name: str, member: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
        journal, client, word = self._omnitck_journal, self._omnitck_client, self._omnitck_word
        entry = _Call(f"{word}.{name}" if word else name, arguments, keywords)
        journal.keep(entry)
        follow = ""
        if not word:
            follow = journal.plan.follows.get(name, "")
            if arguments:
                client.note(arguments[0])
            if name in ("close", "aclose"):
                client.closed = True
        try:
            made = member(*[raw(each) for each in arguments], **keywords)
        except (KeyboardInterrupt, SystemExit) as error:
            entry.error = error
            raise _fatal(error) from error
        except BaseException as error:
            entry.error = error
            raise
        if isinstance(made, CoroutineType) or inspect.isawaitable(made):  # in the order of their cost
            return self._omnitck_finish(made, entry, follow)

        entry.outcome = made
        return self._omnitck_follow(made, follow) if follow else made

    async def _omnitck_finish(self, made: Awaitable[T], entry: _Call, follow: str) -> T:
        journal = self._omnitck_journal
        limit = journal.limit(entry.method) if journal.plan.hung else None
        try:
            result = await (made if limit is None else _bounded(made, entry, limit))
        except (KeyboardInterrupt, SystemExit) as error:
            entry.error = error
            raise _fatal(error) from error
        except BaseException as error:
            if journal.ends(error):
                entry.error = error
            if isinstance(error, Exception) and not isinstance(error, Hung | TCKError):
                # A refusal does not show what becomes of a call that is accepted.
                journal.plan.answered.add(entry.method)
            raise

        entry.outcome = result
        journal.plan.answered.add(entry.method)
        return self._omnitck_follow(result, follow) if follow else result

    def _omnitck_follow(self, made: Any, word: str) -> Any:
        """*made*, through the journal too if the contract names it."""
        if not word or made is None:
            return made

        kind = _JournaledContext if hasattr(type(made), "__aenter__") else Journaled
        return kind(made, self._omnitck_journal, self._omnitck_client, word)


class _JournaledContext(Journaled):
    """The same for what is entered by `async with`: that looks for the methods on the class."""

    async def __aenter__(self) -> Any:
        entered = await self._omnitck_call("__aenter__", self._omnitck_raw.__aenter__)
        if entered is self._omnitck_raw:
            return self
        return entered if hasattr(type(entered), "__anext__") else self._omnitck_follow(entered, self._omnitck_word)

    async def __aexit__(self, *exc_info: object) -> Any:
        return await self._omnitck_call("__aexit__", self._omnitck_raw.__aexit__, *exc_info)


async def _bounded(made: Awaitable[T], entry: _Call, limit: float) -> T:
    with anyio.move_on_after(limit):
        return await made
    raise Hung(
        expected="the call ends",
        observed=f"{entry.head()} has not ended after {limit:g} s; in this suite no call of it ever has, so it gets no more time",
    )


class Hung(Violation):
    """A call was ended early. It has not answered."""


def _fatal(error: BaseException) -> Violation:
    """What would end the whole run is the provider's failure: Ctrl-C cancels a task, it is not raised inside one."""
    return Violation(expected="no exception", observed=f"{describe_error(error)}, which ends the whole program")


def raw(provider: Any) -> Any:
    """The provider itself, without the journal."""
    return provider._omnitck_raw if isinstance(provider, Journaled) else provider


def accepted(function: Callable[..., object], config: dict[str, Any]) -> dict[str, Any]:
    """Of *config*, what *function* takes: the kit's own extras are offered, the rest is required."""
    extras = {"namespace"}
    names, takes_any = parameters(function)
    return config if takes_any else {key: value for key, value in config.items() if key in names or key not in extras}


def parameters(function: Callable[..., object]) -> tuple[frozenset[str], bool]:
    """The names of what *function* takes, and whether it takes any other name too."""
    return _parameters(getattr(function, "__func__", function))


@functools.lru_cache(maxsize=256)
def _parameters(function: Callable[..., object]) -> tuple[frozenset[str], bool]:
    """Remembered: to read a signature costs more than most hooks do."""
    found = inspect.signature(function).parameters.values()
    return frozenset(each.name for each in found), any(each.kind is each.VAR_KEYWORD for each in found)

"""The rules that every provider with cells owes, whatever it holds, beside those of `omnitck.common.clients`.

They are written against `Cells` alone.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from itertools import islice
from typing import Any, ClassVar, TypeAlias, TypeVar

from omnitck.common.clients import ClientRules, ClientTrial
from omnitck.instruments.canary import error_text, reveals
from omnitck.instruments.cancellation import sweep
from omnitck.instruments.corpus import ILLEGAL_NAMES, NAMES, NAMES_AT_THE_START
from omnitck.kit.clients import Hung
from omnitck.kit.concurrency import Attempt, Call, attempt, gather, together
from omnitck.kit.definition import Operation
from omnitck.kit.rules import rule
from omnitck.kit.text import describe, describe_error
from omnitck.kit.trial import Plain, Trial
from omnitck.shared.exceptions import InvalidArgumentError, TCKError, TooLargeError, UnavailableError

__all__ = ["LARGEST_TRIED", "LONGEST_TRIED", "DataRules", "DataTrial", "within_reach"]

P = TypeVar("P")
T = TypeVar("T")

LARGEST_TRIED = 16 * 1024 * 1024
"""Bytes of a value beyond which no limit is looked for."""
LONGEST_TRIED = 65_536
"""Bytes of a name beyond which no limit is looked for."""
LARGEST_PAGE = 10_000
"""Entries of a page or a batch beyond which its end is not looked for."""
USUAL_PAGE = 1_000
AT_ONCE = 20
"""Calls that are made at once where there are many."""


def within_reach(entries: int) -> int:
    """So many *entries* of a page or a batch as a rule can go beyond: as many as are usual where the declared number is larger.

    A store without pages has all that it holds in one, and says so by a number that nobody could write twice over.
    """
    return entries if entries <= LARGEST_PAGE else USUAL_PAGE


Errors: TypeAlias = type[TCKError] | tuple[type[TCKError], ...]


class DataTrial(ClientTrial[P]):
    """The words of rules about cells."""

    async def prompt_clients(self) -> tuple[P, P]:
        """Two clients, each of which sees at once what the other writes; where that takes time, the same one twice."""
        one, other = await self.clients(2)
        return (one, one) if self.numbers().staleness else (one, other)

    async def many(self, calls: Iterable[Call[T]]) -> list[T]:
        """The results of many *calls*, in their order, several at once: how long one takes is not the subject then."""
        waiting, results = iter(calls), list[T]()
        while some := list(islice(waiting, AT_ONCE)):
            results += await gather(some)
        return results

    async def write_all(self, client: Any, tokens: Mapping[str, str]) -> None:
        """Make each cell hold its token."""
        await self.many(partial(self.cells.write, client, name, token) for name, token in tokens.items())

    async def erase_all(self, client: Any, names: Iterable[str]) -> None:
        """Make each cell absent."""
        await self.many(partial(self.cells.erase, client, name) for name in names)

    def refuses(self, error: BaseException | None, kinds: Errors = InvalidArgumentError) -> bool:
        """Whether *error* refuses an argument: it is one of *kinds*; in a suite without `validation`, whatever is no outage."""
        if error is None or isinstance(error, kinds):
            return error is not None
        return "validation" not in self.declared and not isinstance(error, UnavailableError | Hung)

    async def not_taken(self, call: Call[object], *, given: str, error: Errors = InvalidArgumentError) -> None:
        """Fail the rule unless *call* is refused, whose argument would do harm if it were taken for another or left out.

        With *error*, if the suite declares `validation`; else with whatever the provider raises.
        """
        tried = await attempt(call)
        if not self.refuses(tried.error, error):
            await self.refused(lambda: _again(tried), error, given=given)

    def check_names(self, error: BaseException, *names: str, but: Iterable[str] = (), given: str) -> None:
        """Fail the rule unless *error* names all of *names*, and none of *but*, in its text.

        The core asks for the class of an error; what its text says, `validation` promises.
        """
        if "validation" not in self.declared:
            return

        text = str(error)
        self.check(
            all(each in text for each in names) and not any(each in text for each in but),
            given=given,
            expected=f"an error that names {', '.join(map(describe, names))}{' and no other' if but else ''}",
            observed=Plain(describe_error(error)),
        )

    def check_own(self, observed: str | None, expected: str, operation: Operation, step: int) -> None:
        """Fail the rule unless a read after a cancelled operation is the reader's own answer."""
        self.same(
            observed,
            expected,
            given=f"a read after {operation.name} was cancelled at its wait number {step + 1}",
            hint="a connection with an unread reply was used again: drop it when an operation on it is cancelled",
        )


class DataRules(ClientRules):
    """The family of providers with cells."""

    trial: ClassVar[type[Trial[Any]]] = DataTrial

    @rule("COM-05", "shared", uses="shared_write")
    async def test_com_05_a_write_is_read_by_other_clients(self, t: DataTrial[Any]) -> None:
        """A write acknowledged to one client is read by another that is already open and by a new one, within `staleness`.

        Catches a dictionary per instance, a buffer that is not flushed, a read from a lagging replica.
        """
        writer, reader = await t.clients(2)
        name, token = t.key(), t.token()
        t.same(await t.cells.read(reader, name), None, given="a cell that nobody wrote")
        await t.cells.shared_write(writer, name, token)
        await t.settle()
        t.same(await t.cells.read(reader, name), token, given="a cell written by another client, which is open")
        newcomer = await t.connect()
        t.same(await t.cells.read(newcomer, name), token, given="a cell written before this client connected")

    @rule("COM-06", "shared", "lifecycle", uses="shared_write")
    async def test_com_06_data_outlives_its_writer(self, t: DataTrial[Any]) -> None:
        """Data outlives the `close()` of the client that wrote it: another reads it within `staleness`.

        Catches state that lives in a client's memory, and a write that only `close` would have flushed and did not.
        """
        writer = await t.connect()
        name, token = t.key(), t.token()
        await t.cells.shared_write(writer, name, token)
        await writer.close()
        await t.settle()
        reader = await t.connect()
        t.same(await t.cells.read(reader, name), token, given="a cell whose writer has closed")

    @rule("COM-13", "validation")
    async def test_com_13_errors_name_the_key_and_not_the_value(self, t: DataTrial[Any]) -> None:
        """Every exception of the provider's own making is a `TCKError` that names the key, and never the value.

        The core asks for no more than the class of an error. Catches "object does not exist" without saying which, and a secret
        that reaches a log through an error text.
        """
        client = await t.connect()
        for operation in t.refusals():
            with t.case(operation.name):
                name, stored, token = t.key(), t.token(), t.token()
                await t.cells.write(client, name, stored)
                error = await t.refused(
                    await t.arranged(operation, client, name, token),
                    TCKError,
                    given=operation.name,
                )
                t.check_names(error, name, given=operation.name)
                text = error_text(error)
                shown = [each for each in (stored, token) if reveals(text, each)]
                t.check(not shown, given=operation.name, expected="no value in the error", observed=Plain("the value is in it"))

    @rule("COM-15", deadline=30)
    async def test_com_15_cancellation_does_not_cross_replies(self, t: DataTrial[Any]) -> None:
        """After cancelled operations every later operation on the same client returns its own answer.

        Catches a connection that goes back to its pool with a reply unread: the next caller gets it. Found in real clients, fixed
        in a hurry, and found again. A driver that tidies up after a cancellation, as psycopg does, needs a task of its own
        for that: a scope that cancels again interrupts it.
        """
        t.tell_apart()
        async with t.slow_client() as client:
            expected = {t.key(): t.token() for _ in range(10)}
            for name, token in expected.items():
                await t.cells.write(client, name, token)
            names = list(expected)
            # A message has to be seen by its only reader first: what several share comes to them in no order.
            for tried, name in zip(await together(partial(t.cells.read, client, name) for name in names), names, strict=True):
                t.same(tried.result(), expected[name], given="a read before anything was cancelled")
            for operation in (each for each in t.operations() if not each.wide):
                victim = t.key()
                await t.cells.prepare(client, victim)
                async for each in sweep(partial(t.bound, operation, client, victim), within=t.cancel_seconds):
                    for name in names[each.step % 5 :: 5]:
                        t.check_own(await t.cells.read(client, name), expected[name], operation, each.step)
            for tried, name in zip(
                await together(partial(t.cells.read, client, name) for name in names * 3),
                names * 3,
                strict=True,
            ):
                t.same(tried.result(), expected[name], given="a read after many cancelled operations", about=name)

    @rule("COM-16", uses="own_write", deadline=30)
    async def test_com_16_a_cancelled_write_is_whole_or_nothing(self, t: DataTrial[Any]) -> None:
        """A cancelled write is seen by all readers wholly or not at all.

        It may still arrive later: a cancelled `await` does not stop the thread of aiosqlite. Only a torn value is a violation.
        Catches a large value that is sent in parts, and an index that is written before its body.
        """
        client, reader = await t.clients(2)
        writing = [(each, t.key(), t.token(2_000)) for each in t.operations() if each.writes]
        for _, name, old in writing:
            await t.cells.write(client, name, old)
        await t.settle()  # else the other client might not see even that
        for operation, name, old in writing:
            with t.case(operation.name):
                size = min(60_000, t.cells.room(t.numbers(), name))
                legal = {old}

                def write(o: Operation = operation, n: str = name, known: set[str] = legal, size: int = size) -> Call[object]:
                    token = t.token(size)[:size]
                    known.add(token)
                    return lambda: o.call(client, n, token)

                async for each in sweep(write, within=t.cancel_seconds):
                    for observer in dict.fromkeys((client, reader)):
                        observed = await t.cells.read(observer, name)
                        t.check(
                            observed in legal,
                            given=f"{operation.name} of {size:,} characters, cancelled at its wait number {each.step + 1}",
                            expected="the old value or a new one, whole",
                            observed=Plain(
                                "nothing"
                                if observed is None
                                else f"{len(observed)} characters that nobody wrote: {describe(observed)}"
                            ),
                        )

    @rule("COM-17", uses="aliases")
    async def test_com_17_stored_values_have_no_alias(self, t: DataTrial[Any]) -> None:
        """Changing an argument after the call, or a returned value, changes nothing stored and nothing that others are given.

        Catches a store that keeps the caller's object, or hands out its own. What is mutable stands in the contract's table.
        """
        client = await t.connect()
        for alias in t.cells.aliases():
            if t.offers(alias.capability):
                with t.case(alias.what):
                    seen, expected = await alias.change(client, t.key(), t.token())
                    t.same(seen, expected, given=f"{alias.what}, changed by the caller: what is then there")

    @rule("COM-18", deadline=30)
    async def test_com_18_concurrent_tasks_get_their_own_answers(self, t: DataTrial[Any]) -> None:
        """50 concurrent tasks on one client, each with its own name, each read back what they wrote.

        Catches crossed replies and a shared cursor.
        """
        t.tell_apart()
        client = await t.connect()

        async def one(name: str, token: str) -> object:
            await t.cells.write(client, name, token)
            return await t.cells.read(client, name)

        pairs = [(t.key(), t.token()) for _ in range(50)]
        results = await gather(partial(one, name, token) for name, token in pairs)
        wrong = {name: read for (name, token), read in zip(pairs, results, strict=True) if read != token}
        first = next(iter(wrong), "")
        t.check(
            not wrong,
            given="50 tasks that each write and read a name of their own",
            expected="each reads its own token",
            observed=Plain(f"{len(wrong)} of 50 did not, the first: {describe(first)} read {describe(wrong.get(first))}"),
            about=first,
        )

    @rule("COM-19", "validation")
    async def test_com_19_illegal_names_are_refused(self, t: DataTrial[Any]) -> None:
        """An illegal name raises `InvalidArgumentError` from every operation, with no effect.

        Empty, with U+0000, with a lone surrogate, or no `str` at all. Catches `None` that becomes "None", and "" that names
        the root.
        """
        client = await t.connect()
        for operation in t.operations():
            if not operation.needs_legal_name:
                continue

            for label, name in ILLEGAL_NAMES.items():
                with t.case(f"{operation.name}, {label}"):
                    await t.refused(
                        t.bound(operation, client, name),
                        InvalidArgumentError,
                        given=f"{operation.name} with the name {describe(name)}",
                    )
        for text in ("None", "1", "b'a'"):
            with t.case(f"no effect on {text!r}"), t.refusable(text):
                t.same(await t.cells.read(client, text), None, given=f"the name {text!r} after illegal names were refused")

    @rule("COM-20", deadline=60)
    async def test_com_20_legal_names_are_distinct_and_exact(self, t: DataTrial[Any]) -> None:
        """Legal names that differ in anything name different cells, and come back exactly from a listing.

        A code point, case, normal form, `/` against `%2F`, `+` against a space, a trailing dot or space. Providers escape what
        their service cannot hold: NATS allows `-/_=.a-zA-Z0-9` alone, file systems fold case, MySQL's default collation makes
        "A", "a" and "A " one key.
        """
        client = await t.connect()
        names = {
            label: name + t.namespace if label in NAMES_AT_THE_START else t.namespace + name for label, name in NAMES.items()
        }
        tokens = {label: t.token() for label in names}
        written = set()
        for label, name in names.items():
            with t.case(label), t.refusable(name):
                await t.cells.write(client, name, tokens[label])
                written.add(label)
        for label in names:
            if label in written:
                name = names[label]
                with t.case(label):
                    t.same(await t.cells.read(client, name), tokens[label], given=f"the cell {describe(name)}, written before")
        if t.can("names"):
            listed = await t.cells.names(client, t.namespace)
            expected = sorted(names[label] for label in written if label not in NAMES_AT_THE_START)
            lost = [each for each in expected if each not in listed]
            invented = [each for each in listed if each not in expected]
            t.check(
                not lost and not invented,
                given="a listing of these names",
                expected="each exactly as it was written",
                observed=Plain(f"missing: {describe(lost)}; not written so: {describe(invented)}"),
            )

    @rule("COM-21", "limits")
    async def test_com_21_the_longest_name_works(self, t: DataTrial[Any]) -> None:
        """A name of exactly `key_bytes` works, two that differ in the last byte are two, and one byte more is refused.

        Catches truncation and a short hash. Bytes are those of UTF-8: a limit counted in characters fails too. Of a limit above
        64 KiB only so much is tried.
        """
        client = await t.connect()
        size = min(t.numbers().key_bytes, LONGEST_TRIED)
        for label, letter in (("ASCII", "x"), ("two bytes a character", "\u00e9")):
            start = t.key()
            with t.case(label), t.refusable(start + letter):
                longest = start + letter * ((size - len(start)) // len(letter.encode()))
                longest += "x" * (size - len(longest.encode()))
                twin = longest[:-1] + ("y" if longest[-1] != "y" else "z") if longest[-1].isascii() else longest[:-1] + "\u00e8"
                first, second = t.token(), t.token()
                await t.cells.write(client, longest, first)
                await t.cells.write(client, twin, second)
                t.same(await t.cells.read(client, longest), first, given=f"a name of {size} bytes")
                t.same(await t.cells.read(client, twin), second, given=f"its twin, which differs in the last of {size} bytes")
                for operation in t.operations() if size == t.numbers().key_bytes else ():
                    if operation.needs_legal_name:
                        await t.refused(
                            t.bound(operation, client, longest + "x"),
                            InvalidArgumentError,
                            given=f"{operation.name} with a name of {size + 1} bytes",
                        )

    @rule("COM-22", "limits", uses="room")
    async def test_com_22_the_largest_value_works(self, t: DataTrial[Any]) -> None:
        """A value of exactly `value_bytes` comes back whole; one byte more raises `TooLargeError` and leaves the old value.

        Catches silent truncation, and a provider that deletes before it fails. Of a limit above 16 MiB only so much is tried.
        """
        client = await t.connect()
        name = t.key()
        room = t.cells.room(t.numbers(), name)
        size = min(room, LARGEST_TRIED)
        largest = t.token(size)[:size]
        await t.cells.write(client, name, largest)
        t.same(await t.cells.read(client, name), largest, given=f"a value of {size} bytes")
        if size < room:
            return

        for operation in (each for each in t.operations() if each.writes):
            with t.case(operation.name):
                await t.refused(
                    t.bound(operation, client, name, largest + "x"),
                    TooLargeError,
                    given=f"{operation.name} with a value of {size + 1} bytes",
                )
                t.same(await t.cells.read(client, name), largest, given=f"the value after {operation.name} was refused")


async def _again(tried: Attempt[object]) -> object:
    return tried.result()

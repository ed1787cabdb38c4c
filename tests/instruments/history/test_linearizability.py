"""The checker of histories against brute force, against histories that are known to be bad, and in its own words."""

import asyncio
import itertools
import random
import unittest
from collections.abc import Iterator, Sequence
from dataclasses import replace

from omnitck.instruments.history import REFUSED, UNKNOWN, Counterexample, Op, Recorder, Verdict, check, explain

MS = 1_000_000


def apply(state: object, op: Op) -> tuple[bool, object]:
    """Whether *op* may happen in *state* with its result, and the state afterwards: the oracle's own model."""
    refused = op.result is REFUSED
    if op.kind == "get":
        return refused or op.ret is None or op.result == state, state
    if op.kind in ("compare_and_set", "compare_and_delete"):
        if refused:
            return state != op.args[0], state
        return state == op.args[0], op.args[1] if op.kind == "compare_and_set" else None
    if refused:
        return True, state
    return True, op.args[0] if op.kind == "set" else None


def brute_force(ops: Sequence[Op]) -> bool:
    """Try every order of every choice of open operations."""
    completed = [op for op in ops if op.ret is not None]
    pending = [op for op in ops if op.ret is None]
    for count in range(len(pending) + 1):
        for chosen in itertools.combinations(pending, count):
            if any(explains(order) for order in itertools.permutations([*completed, *chosen])):
                return True
    return False


def explains(order: Sequence[Op]) -> bool:
    """Whether a register that does *order* gives these results, and none comes before one that had returned already."""
    state: object = None
    for op in order:
        fits, state = apply(state, op)
        if not fits:
            return False
    return all(b.ret is None or a.call <= b.ret for i, a in enumerate(order) for b in order[i + 1 :])


def random_ops(rng: random.Random) -> list[Op]:
    """Up to six operations, few values, many ties in time; a register gave the results, and one may be changed."""
    ops: list[Op] = []
    state: object = None
    clock = 0
    for client in range(rng.randint(1, 6)):
        clock += rng.randint(0, 3)
        kind = rng.choice(["get", "get", "set", "delete", "compare_and_set", "compare_and_set", "compare_and_delete"])
        value, expected = rng.choice("abc"), rng.choice(["a", "b", "c", None])
        args = {
            "set": (value,),
            "compare_and_set": (expected, value),
            "compare_and_delete": (expected,),
        }.get(kind, ())
        op = Op(client, kind, args, max(0, clock - rng.randint(0, 6)), clock + rng.randint(0, 6), None)
        if kind == "get":
            op = replace(op, result=state)
        elif not apply(state, op)[0]:
            op = replace(op, result=REFUSED)
        state = apply(state, op)[1]
        ops.append(op)

    i = rng.randrange(len(ops))
    if rng.random() < 0.6:
        op = ops[i]
        wrong: object = None if op.result is REFUSED else REFUSED
        ops[i] = replace(op, result=rng.choice(["a", "b", "c", None]) if op.kind == "get" else wrong)
    if rng.random() < 0.4:
        i = rng.randrange(len(ops))
        ops[i] = replace(ops[i], ret=None, result=UNKNOWN)
    rng.shuffle(ops)
    return ops


def before_return(ops: Sequence[Op], culprit: Op) -> list[Op]:
    """The history just before *culprit* returned; what was in flight then may happen, unless it was to be refused."""
    end, index = culprit.ret or 0, ops.index(culprit)
    earlier = []
    for i, op in enumerate(ops):
        if op.ret is not None and (op.ret, i) < (end, index):
            earlier.append(op)
        elif op.call <= end and op.result is not REFUSED:
            earlier.append(replace(op, ret=None, result=UNKNOWN))
    return earlier


def honest_ops(rng: random.Random, clients: int, count: int, unknown: int = 0) -> list[Op]:
    """What *clients* see of a correct register that they use without pause, writing unique values."""
    free = [rng.randint(0, 50) for _ in range(clients)]
    plans: list[tuple[int, int, int, int]] = []
    for _ in range(count):
        client = min(range(clients), key=free.__getitem__)
        call = free[client]
        instant = call + rng.randint(1, 100)
        ret = instant + rng.randint(1, 100)
        free[client] = ret + rng.randint(1, 30)
        plans.append((client, call, instant, ret))

    known: list[object] = [None] * clients
    state: object = None
    ops: dict[int, Op] = {}
    moments = [(plan[m], m, i) for i, plan in enumerate(plans) for m in (1, 2, 3)]
    for _, moment, i in sorted(moments):
        client, call, _, ret = plans[i]
        if moment == 1:
            kind = rng.choices(["get", "set", "delete", "compare_and_set"], [5, 3, 0.2, 3])[0]
            args = {"set": (f"v{i}",), "compare_and_set": (known[client], f"v{i}")}.get(kind, ())
            ops[i] = Op(client, kind, args, call, ret, None)
        elif moment == 2:
            op = ops[i]
            if op.kind == "get":
                op = replace(op, result=state)
            elif not apply(state, op)[0]:
                op = replace(op, result=REFUSED)
            state = apply(state, op)[1]
            ops[i] = op
        elif ops[i].kind == "get":
            known[client] = ops[i].result

    for i in rng.sample(sorted(ops), unknown):
        ops[i] = replace(ops[i], ret=None, result=UNKNOWN)
    return [ops[i] for i in range(count)]


def overwritten_before(ops: Sequence[Op], call: int) -> list[object]:
    """The values which a register certainly holds no more at *call*, the oldest first."""
    definite = [op for op in ops if op.kind in ("set", "compare_and_set") and op.result is None and op.ret is not None]
    last = max((op.call for op in definite if op.ret is not None and op.ret < call), default=-1)
    return [op.args[-1] for op in definite if op.ret is not None and op.ret < last]


def spoilt(ops: Sequence[Op], rng: random.Random) -> Iterator[tuple[list[Op], Op]]:
    """*ops* with one stale read, then with one lost update; and which operation that is."""

    def wanted(op: Op) -> bool:
        # Whatever depends on a comparison that did succeed may become impossible before the comparison returns.
        return op.kind == "get" or op.result is REFUSED

    for kind in ("get", "compare_and_set"):
        completed = [i for i, op in enumerate(ops) if op.kind == kind and op.ret is not None and wanted(op)]
        candidates = [i for i in completed if overwritten_before(ops, ops[i].call)]
        i = rng.choice(candidates)
        old = rng.choice(overwritten_before(ops, ops[i].call))
        changes = {"result": old} if kind == "get" else {"args": (old, ops[i].args[1]), "result": None}
        bad = replace(ops[i], **changes)
        yield [*ops[:i], bad, *ops[i + 1 :]], bad


def op(client: int, text: str, call: float, ret: float | None, result: object = None) -> Op:
    """Write an operation down briefly: `op(1, "set v1", 0, 2)`, times in milliseconds."""
    kind, *args = text.split()
    values = tuple(None if arg == "-" else arg for arg in args)
    end = None if ret is None else int(ret * MS)
    return Op(client, kind, values, int(call * MS), end, UNKNOWN if ret is None else result)


class TestCheck(unittest.TestCase):
    def test_agrees_with_brute_force(self) -> None:
        verdicts = {Verdict.LINEARIZABLE: 0, Verdict.VIOLATION: 0}
        for seed in range(600):
            ops = random_ops(random.Random(seed))
            verdict = check(ops, max_clients=6)
            expected = Verdict.LINEARIZABLE if brute_force(ops) else Verdict.VIOLATION
            self.assertIs(verdict, expected, f"seed {seed}: {ops}")
            verdicts[verdict] += 1

        self.assertGreater(verdicts[Verdict.LINEARIZABLE], 150)
        self.assertGreater(verdicts[Verdict.VIOLATION], 150)

    def test_accepts_what_a_correct_register_says(self) -> None:
        for seed, clients, unknown in itertools.product(range(6), (1, 4, 8), (0, 4)):
            ops = honest_ops(random.Random(seed), clients, 200, unknown)
            self.assertIs(check(ops), Verdict.LINEARIZABLE, f"seed {seed}, {clients} clients, {unknown} unknown")

    def test_finds_every_spoilt_history(self) -> None:
        for seed, clients in itertools.product(range(15), (2, 4, 8)):
            rng = random.Random(seed)
            for ops, _ in spoilt(honest_ops(rng, clients, 100), rng):
                self.assertIs(check(ops), Verdict.VIOLATION, f"seed {seed}, {clients} clients")

    def test_empty_history_is_linearizable(self) -> None:
        self.assertIs(check([]), Verdict.LINEARIZABLE)

    def test_key_is_absent_at_first(self) -> None:
        self.assertIs(check([op(0, "get", 0, 1, None)]), Verdict.LINEARIZABLE)
        self.assertIs(check([op(0, "get", 0, 1, "v1")]), Verdict.VIOLATION)

    def test_operations_that_touch_are_concurrent(self) -> None:
        touching = [op(0, "set v1", 0, 1), op(1, "get", 1, 2, None)]
        apart = [op(0, "set v1", 0, 1), op(1, "get", 1.1, 2, None)]
        self.assertIs(check(touching), Verdict.LINEARIZABLE)
        self.assertIs(check(apart), Verdict.VIOLATION)

    def test_open_write_may_happen_late_or_never(self) -> None:
        written = op(0, "set v1", 0, None)
        self.assertIs(check([written, op(1, "get", 5, 6, None)]), Verdict.LINEARIZABLE)
        self.assertIs(check([written, op(1, "get", 5, 6, None), op(1, "get", 7, 8, "v1")]), Verdict.LINEARIZABLE)
        self.assertIs(check([written, op(1, "get", 5, 6, "v1"), op(1, "get", 7, 8, None)]), Verdict.VIOLATION)

    def test_open_write_does_not_happen_before_its_call(self) -> None:
        self.assertIs(check([op(1, "get", 0, 1, "v1"), op(0, "set v1", 2, None)]), Verdict.VIOLATION)

    def test_refused_update_has_not_happened(self) -> None:
        for text in ("set v1", "compare_and_set v0 v1"):
            ops = [op(0, text, 0, 1, REFUSED), op(0, "get", 2, 3, "v1")]
            self.assertIs(check(ops), Verdict.VIOLATION, text)

    def test_expecting_none_means_only_if_absent(self) -> None:
        create = op(0, "compare_and_set - v1", 0, 1)
        self.assertIs(check([create]), Verdict.LINEARIZABLE)
        self.assertIs(check([create, op(1, "compare_and_set - v2", 2, 3)]), Verdict.VIOLATION)
        self.assertIs(check([create, op(1, "compare_and_set - v2", 2, 3, REFUSED)]), Verdict.LINEARIZABLE)
        gone = op(1, "compare_and_delete v1", 2, 3)
        self.assertIs(check([create, gone, op(1, "compare_and_set - v2", 4, 5)]), Verdict.LINEARIZABLE)

    def test_result_of_a_foreign_type_is_a_violation(self) -> None:
        foreign: list[object] = [b"v1", [], {}, 1]
        for result in foreign:
            ops = [op(0, "set v1", 0, 1), op(0, "get", 2, 3, result)]
            self.assertIs(check(ops), Verdict.VIOLATION, repr(result))
            self.assertIsInstance(explain(ops), Counterexample)

    def test_gives_up_at_the_step_limit(self) -> None:
        ops = honest_ops(random.Random(1), 4, 50)
        self.assertIs(check(ops, step_limit=10), Verdict.UNDECIDED)
        self.assertIs(check(ops), Verdict.LINEARIZABLE)

    def test_refuses_workloads_beyond_the_limits(self) -> None:
        for ops, message in (
            ([op(i, "get", i, i + 1, None) for i in range(9)], "the history has 9 clients, more than 8"),
            ([op(0, "set v", i, None) for i in range(5)], "the history has 5 open operations, more than 4"),
            ([op(0, "get", i, i + 1, None) for i in range(201)], "the history has 201 operations, more than 200"),
        ):
            with self.assertRaises(ValueError) as caught:
                check(ops)
            self.assertEqual(str(caught.exception), f"{message}: make the workload smaller.")
            self.assertIs(check(ops, max_clients=9, max_open=5, max_operations=201), Verdict.LINEARIZABLE)


class TestExplain(unittest.TestCase):
    maxDiff = None

    def test_stale_reads_and_lost_updates_shrink_to_three_operations(self) -> None:
        for seed, clients in itertools.product(range(3), (4, 8)):
            rng = random.Random(seed)
            for ops, bad in spoilt(honest_ops(rng, clients, 150), rng):
                found = explain(ops)
                assert found is not None
                self.assertIs(found.culprit, bad)
                self.assertEqual(found.nature, "stale read" if bad.kind == "get" else "lost update")
                self.assertLessEqual(len(found.ops), 3, found.render())
                self.assertIs(check(found.ops), Verdict.VIOLATION, "what is shown contradicts itself")

    def test_what_is_shown_is_bad_by_itself_and_nothing_was_bad_before_the_culprit(self) -> None:
        explained = 0
        for seed in range(600):
            ops = random_ops(random.Random(seed))
            found = explain(ops)
            if found is None:
                self.assertIs(check(ops), Verdict.LINEARIZABLE)
                continue
            explained += 1
            self.assertFalse(brute_force(found.ops), f"seed {seed}: {found.render()}")
            self.assertIn(found.culprit, found.ops)
            self.assertTrue(brute_force(before_return(ops, found.culprit)), f"seed {seed}: {found.render()}")

        self.assertGreater(explained, 150)

    def test_says_nothing_about_a_good_or_undecided_history(self) -> None:
        self.assertIsNone(explain([op(0, "set v1", 0, 1)]))
        self.assertIsNone(explain([op(0, "get", 0, 1, "v1")], step_limit=0))

    def test_stale_read_in_words(self) -> None:
        found = explain(
            [
                op(0, "set v1", 1, 2.5),
                op(1, "get", 2, 3, "v1"),
                op(2, "set v2", 4, 5),
                op(1, "compare_and_set v1 v3", 4.5, 6, REFUSED),
                op(0, "set v184", 10.25, 11),
                op(1, "get", 12, 13, "v1"),
                op(2, "get", 14, 15, "v184"),
                op(0, "set v185", 16, None),
            ]
        )
        assert found is not None
        self.assertEqual(
            found.render("saga s-17"),
            "stale read: saga s-17 is not linearizable (8 operations, 3 shown)\n"
            "  c0  set(v1)        0.000 ──▶  1.500   ok\n"
            "  c0  set(v184)      9.250 ──▶ 10.000   ok     (finished before the read began)\n"
            "  c1  get() -> v1   11.000 ──▶ 12.000   ◀ impossible: every order of these allows only v184\n"
            "  usual cause: a read from a replica or a cache, or an acknowledged update was lost.",
        )

    def test_natures_in_words(self) -> None:
        v1 = op(0, "set v1", 0, 1)
        for ops, nature, reason in (
            (
                [v1, op(1, "compare_and_set v1 v2", 2, 4), op(2, "compare_and_set v1 v3", 3, 5)],
                "lost update",
                "every order of these allows only a refusal",
            ),
            (
                [v1, op(1, "compare_and_delete v1", 2, 3), op(2, "compare_and_delete v1", 4, 5)],
                "lost update",
                "every order of these allows only a refusal",
            ),
            (
                [op(0, "set v0", 0, 1), op(0, "set v1", 2, 3), op(1, "compare_and_set v1 v2", 6, 7, REFUSED)],
                "false refusal",
                "every order of these allows only success",
            ),
            (
                [v1, op(1, "compare_and_set v0 v2", 2, 3, REFUSED), op(1, "get", 4, 5, "v2")],
                "refused write",
                "the write of v2 was refused",
            ),
            ([v1, op(1, "get", 2, 3, "ghost")], "invented value", "no write of ghost had begun"),
            (
                [v1, op(1, "set v2", 2, 9), op(2, "get", 3, 4, "v2"), op(3, "get", 5, 6, "v1")],
                "stale read",
                "every order of these allows only v2",
            ),
            ([op(0, "set v2", 5, 6), op(1, "get", 2, 3, "v2")], "invented value", "no write of v2 had begun"),
            ([v1, op(1, "get", 2, 3, None)], "stale read", "every order of these allows only v1"),
            (
                [v1, op(1, "compare_and_set v1 v3", 2, 9), op(0, "set v2", 3, 4), op(0, "get", 5, 6, "v3")],
                "lost update",
                "every order of these allows only v2",
            ),
        ):
            found = explain(ops)
            assert found is not None, ops
            self.assertEqual((found.nature, found.reason), (nature, reason))
            self.assertIs(found.culprit, ops[-1])

    def test_false_refusal_is_told_with_the_one_write_that_it_denies(self) -> None:
        ops = [op(0, f"set v{i}", 2 * i, 2 * i + 1) for i in range(20)]
        ops.append(op(1, "compare_and_set v19 v20", 50, 51, REFUSED))
        found = explain(ops)
        assert found is not None
        self.assertEqual(found.ops, (ops[-2], ops[-1]))

    def test_write_that_excuses_a_refusal_is_shown(self) -> None:
        ops = [
            op(0, "set v1", 0, 3),
            op(1, "set v2", 1, 2),
            op(2, "compare_and_set v1 v3", 4, 5, REFUSED),
            op(2, "get", 6, 7, "v1"),
        ]
        found = explain(ops)
        assert found is not None
        self.assertEqual(found.ops, tuple(ops))

    def test_lines_stay_short_whatever_the_values(self) -> None:
        huge = ["x" * 100_000 + f"-{i}" for i in range(3)]
        ops = [Op(0, "set", (huge[i],), 2 * i, 2 * i + 1, None) for i in range(2)]
        for bad in (
            Op(1, "get", (), 8, 9, huge[0]),
            Op(1, "get", (), 8, 9, huge[2]),
            Op(1, "get", (), 8, 9, [huge]),
            Op(1, "compare_and_set", (huge[0], huge[2]), 8, 9, None),
        ):
            found = explain([*ops, bad])
            assert found is not None
            self.assertLess(max(map(len, found.render().splitlines())), 200)

    def test_values_are_shortened_in_the_middle_and_kept_on_their_line(self) -> None:
        found = explain([Op(0, "get", (), 0, 1, "omnitck-namespace-of-a-test-17")])
        assert found is not None
        self.assertIn("get() -> omnitck-nam…of-a-test-17 ", found.render())
        found = explain([Op(0, "get", (), 0, 1, "two\nlines")])
        assert found is not None
        self.assertIn(r"get() -> 'two\nlines' ", found.render())


class TestOp(unittest.TestCase):
    def test_refuses_contradictions(self) -> None:
        for pieces, message in (
            ((0, "put", (), 0, 1, None), "unknown kind of operation 'put'"),
            ((0, "set", (), 0, 1, None), "set takes 1 arguments, not 0"),
            ((0, "set", (None,), 0, 1, None), "set must write a str"),
            ((0, "compare_and_set", (1, "v"), 0, 1, None), "compare_and_set must expect a str"),
            ((0, "get", (), 1, 0, None), "the operation returned 1 ns before it was called"),
            ((0, "get", (), 0, None, "v"), "an open operation has no time of return"),
            ((0, "get", (), 0, 1, UNKNOWN), "an open operation has no time of return"),
            ((0, "compare_and_delete", ("v",), 0, 1, False), "has the result False"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                Op(*pieces)


class ConflictError(Exception):
    """What a store raises when a comparison fails."""


class TestRecorder(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.recorder = Recorder()

    async def test_notes_values_and_times(self) -> None:
        async def read() -> object:
            return "v1"

        self.assertEqual(await self.recorder.record(3, "get", (), read), "v1")
        (noted,) = self.recorder.ops
        self.assertEqual((noted.client, noted.kind, noted.args, noted.result), (3, "get", (), "v1"))
        assert noted.ret is not None
        self.assertLessEqual(noted.call, noted.ret)

    async def test_a_named_refusal_is_a_result(self) -> None:
        async def refuse() -> object:
            raise ConflictError

        result = await self.recorder.record(0, "compare_and_set", ("v1", "v2"), refuse, (ConflictError,))
        self.assertIs(result, REFUSED)
        self.assertIs(self.recorder.ops[0].result, REFUSED)
        self.assertIsNotNone(self.recorder.ops[0].ret)

    async def test_any_other_error_leaves_the_operation_open(self) -> None:
        async def fail() -> object:
            raise ConnectionResetError

        with self.assertRaises(ConnectionResetError):
            await self.recorder.record(0, "set", ("v1",), fail, (ConflictError,))
        self.assertEqual((self.recorder.ops[0].ret, self.recorder.ops[0].result), (None, UNKNOWN))

    async def test_an_operation_in_flight_is_in_the_history_and_stays_open_if_cancelled(self) -> None:
        begun = asyncio.Event()

        async def hang() -> object:
            begun.set()
            return await asyncio.get_running_loop().create_future()

        task = asyncio.create_task(self.recorder.record(0, "set", ("v1",), hang))
        await begun.wait()
        in_flight = self.recorder.ops
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await task
        self.assertEqual([(o.kind, o.ret, o.result) for o in in_flight], [("set", None, UNKNOWN)])
        self.assertEqual(self.recorder.ops, in_flight)

    async def test_ops_are_in_the_order_of_their_calls(self) -> None:
        release = asyncio.Event()

        async def slow() -> object:
            await release.wait()
            return None

        async def quick() -> object:
            release.set()
            return None

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.recorder.record(0, "set", ("v1",), slow))
            tasks.create_task(self.recorder.record(1, "set", ("v2",), quick))
        self.assertEqual([o.client for o in self.recorder.ops], [0, 1])
        self.assertIs(check(self.recorder.ops), Verdict.LINEARIZABLE)


if __name__ == "__main__":
    unittest.main()

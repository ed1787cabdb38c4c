"""The checkers: that of linearizability on the greatest histories that a rule may record, the others on far greater ones."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from omnitck.instruments.history import Op, Recorder, check, explain
from omnitck.instruments.history import leases as lease_checker
from omnitck.instruments.history.queues import Delivery, Fate, Order, Publication, judge
from omnitck.reference.kv_store import MemoryBackend, MemoryKVStore
from tests.benchmarks.measure import Figure, in_turns, seconds

__all__ = ["checker", "leases", "queues"]

OPERATIONS = 200
SEEDS = range(8)
DELIVERIES = 100_000
GRANTS = 100_000


def checker() -> Iterator[Figure]:
    """Judging histories, against recording them with the reference store."""
    for clients in (4, 8):
        good = [record(clients, seed) for seed in SEEDS]
        bad = [with_a_stale_read(ops) for ops in good]
        least = in_turns(
            5,
            {
                "record": _mean([partial(record, clients, seed) for seed in SEEDS]),
                "right": _mean([partial(check, ops) for ops in good]),
                "wrong": _mean([partial(check, ops) for ops in bad]),
                "explain": _mean([partial(explain, ops) for ops in bad]),
            },
        )
        for what, which in (
            (f"check {OPERATIONS} operations of {clients} clients", "right"),
            ("check them with one stale read", "wrong"),
            ("explain that read", "explain"),
        ):
            verdicts = {check(ops).value for ops in (good if which == "right" else bad)}
            yield Figure(
                what, 1e3 * least[which], "ms", "recording them", 1e3 * least["record"], 1000, remark=", ".join(sorted(verdicts))
            )


def _mean(calls: list[Callable[[], object]]) -> Callable[[], float]:
    return lambda: sum(seconds(call) for call in calls) / len(calls)


def record(clients: int, seed: int) -> tuple[Op, ...]:
    """What *clients* do to one key of the reference store, all at once."""
    recorder = Recorder()

    async def work(client: int, store: MemoryKVStore) -> None:
        chance = random.Random(f"{seed} {client}")
        for step in range(OPERATIONS // clients):
            kind = chance.choice(("get", "get", "set", "set", "delete"))
            value = f"{client}.{step}"
            if kind == "get":
                await recorder.record(client, kind, (), lambda: store.get("key"))
            elif kind == "set":
                await recorder.record(client, kind, (value,), lambda value=value: store.set("key", value))  # type: ignore[misc]
            else:
                await recorder.record(client, kind, (), lambda: store.delete("key"))
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)

    async def all_at_once() -> None:
        store = MemoryKVStore(MemoryBackend())
        await asyncio.gather(*(work(client, store) for client in range(clients)))

    asyncio.run(all_at_once())
    return recorder.ops


def with_a_stale_read(ops: tuple[Op, ...]) -> tuple[Op, ...]:
    """*ops*, whose last read of a value returns the first value that was ever written."""
    first = next(op for op in ops if op.kind == "set")
    last = max(index for index, op in enumerate(ops) if op.kind == "get" and op.result is not None)
    return (*ops[:last], replace(ops[last], result=first.args[0]), *ops[last + 1 :])


def queues() -> Iterator[Figure]:
    """Judging what a queue delivered, against an asyncio.Queue that delivers as much."""
    traffic: list[tuple[list[Publication], list[Delivery]]] = []
    least = in_turns(
        3,
        {
            "deliver": lambda: seconds(lambda: traffic.append(asyncio.run(_delivered(DELIVERIES)))),
            **{
                order.value: lambda order=order: seconds(lambda: judge(*traffic[-1], order=order, drained=time.monotonic_ns()))  # type: ignore[misc]
                for order in Order
            },
        },
    )
    for order in Order:
        found = judge(*traffic[-1], order=order, drained=time.monotonic_ns())
        yield Figure(
            f"judge {DELIVERIES} deliveries, order {order.name.lower()}",
            least[order.value],
            "s",
            "delivering them",
            least["deliver"],
            at_most=2,
            remark="" if not found.findings else str(found),
        )


async def _delivered(count: int) -> tuple[list[Publication], list[Delivery]]:
    """What 10 tasks publish under 100 keys, and one takes."""
    queue: asyncio.Queue[Publication] = asyncio.Queue(maxsize=100)
    publications: list[Publication] = []
    deliveries: list[Delivery] = []

    async def publish(task: int) -> None:
        for number in range(count // 10):
            id, key = f"m-{task}-{number}", f"k{task}-{number % 10}"
            began = time.monotonic_ns()
            await queue.put(Publication(id, id, key, began, None))
            publications.append(Publication(id, id, key, began, time.monotonic_ns()))

    async def take() -> None:
        for _ in range(count):
            message = await queue.get()
            began = time.monotonic_ns()
            deliveries.append(Delivery(message.id, message.content, 0, began, time.monotonic_ns(), Fate.DONE))

    await asyncio.gather(take(), *map(publish, range(10)))
    return publications, deliveries


def leases() -> Iterator[Figure]:
    """Judging grants of a lock, against an asyncio.Lock that is held as often."""
    grants: list[list[lease_checker.Grant]] = []
    least = in_turns(
        3,
        {
            "hold": lambda: seconds(lambda: grants.append(asyncio.run(_held(GRANTS)))),
            "judge": lambda: seconds(lambda: lease_checker.judge(grants[-1], fencing=True)),
        },
    )
    found = lease_checker.judge(grants[-1], fencing=True)
    yield Figure(f"judge {GRANTS} grants, with tokens", least["judge"], "s", "holding them", least["hold"], 2, remark=found or "")


async def _held(count: int) -> list[lease_checker.Grant]:
    """What 10 tasks hold of 10 locks, each grant renewed once."""
    locks = [asyncio.Lock() for _ in range(10)]
    grants: list[lease_checker.Grant] = []

    async def work(task: int) -> None:
        for number in range(count // 10):
            lock = (task + number) % 10
            called = time.monotonic()
            async with locks[lock]:
                token, returned = len(grants), time.monotonic()
                await asyncio.sleep(0)
                renewal = lease_checker.Renewal(returned, time.monotonic(), 60.0)
                grants.append(
                    lease_checker.Grant(f"lock {lock}", task, called, returned, 60.0, (renewal,), time.monotonic(), token)
                )

    await asyncio.gather(*map(work, range(10)))
    return grants

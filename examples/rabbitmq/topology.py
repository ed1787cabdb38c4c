"""How topics are kept in RabbitMQ, and how a message waits there.

A topic is the queues that are bound to it, one for each group of consumers, and it is there once it has one:

    exchange `omnitck.topics` (direct) --topic--> quorum queue of a group

A message that waits goes down a ladder. On rung n is a queue in which every message stays 2^n tenths of a second, so no message
waits behind one with a longer delay; the bits of its delay, which begin its routing key, say on which rungs it stays:

    exchange `omnitck.delay.n` (topic) --bit n is 1--> queue `omnitck.delay.n` --expired--> exchange `omnitck.delay.n-1`
                                       --bit n is 0--> exchange `omnitck.delay.n-1`
    ... exchange `omnitck.due` (topic) --its topic, or its queue--> quorum queue of a group

From queue to queue the broker hands a message on with confirms of its own (`at-least-once`). If nobody has the topic any more
when it is due, it goes to the queue `omnitck.undeliverable`.
"""

import asyncio
import math

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractQueue, ExchangeType

__all__ = ["DUE", "LONGEST", "STEP", "TOPICS", "bind_queue", "bind_retries", "declare", "path", "rung"]

TOPICS = "omnitck.topics"
DUE = "omnitck.due"
UNDELIVERABLE = "omnitck.undeliverable"

STEP = 0.1
"""Seconds on the lowest rung."""

RUNGS = 20

LONGEST = 86_400.0
"""Seconds that a message may wait; the ladder could do a little more."""

ROUNDING = 1
"""Milliseconds that a message stays longer on each rung: the broker cuts the time of its arrival to whole ones."""

KEPT = 10_000
"""Undeliverable messages, of which the oldest goes when there are more."""


def rung(number: int) -> str:
    """The exchange and the queue of a rung."""
    return f"omnitck.delay.{number}"


def path(delay: float) -> tuple[str, str]:
    """The exchange at which a message enters the ladder to wait *delay* seconds, and how its routing key begins."""
    steps = max(math.ceil(round(delay / STEP, 6)), 1)
    return rung(steps.bit_length() - 1), ".".join(f"{steps:0{RUNGS}b}") + "."


async def bind_queue(channel: AbstractChannel, name: str, topic: str) -> AbstractQueue:
    """The queue of this name, which gets what is published to the place *topic*."""
    queue = await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})
    await queue.bind(TOPICS, topic)
    await queue.bind(DUE, f"#.{topic}")
    return queue


async def bind_retries(queue: AbstractQueue) -> None:
    """Let *queue* get what was to wait for its group alone."""
    await queue.bind(DUE, f"#.{queue.name}")


def declare(url: str) -> None:
    """Make what all topics share; what is there already stays."""

    async def connect_and_declare() -> None:
        async with await aio_pika.connect(url) as connection:
            await _declare(await connection.channel())

    asyncio.run(connect_and_declare())


async def _declare(channel: AbstractChannel) -> None:
    await channel.declare_exchange(TOPICS, ExchangeType.DIRECT, durable=True)
    await channel.declare_exchange(UNDELIVERABLE, ExchangeType.FANOUT, durable=True)
    lost = await channel.declare_queue(
        UNDELIVERABLE, durable=True, arguments={"x-queue-type": "quorum", "x-max-length": KEPT, "x-overflow": "drop-head"}
    )
    await lost.bind(UNDELIVERABLE)
    below = await channel.declare_exchange(DUE, ExchangeType.TOPIC, durable=True, arguments={"alternate-exchange": UNDELIVERABLE})
    for number in range(RUNGS):
        exchange = await channel.declare_exchange(rung(number), ExchangeType.TOPIC, durable=True)
        queue = await channel.declare_queue(
            rung(number),
            durable=True,
            arguments={
                "x-queue-type": "quorum",
                "x-message-ttl": round(STEP * 1000) * 2**number + ROUNDING,
                "x-dead-letter-exchange": below.name,
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",  # which that strategy requires
            },
        )
        before = "*." * (RUNGS - 1 - number)
        await queue.bind(exchange, f"{before}1.#")
        await below.bind(exchange, f"{before}0.#")
        below = exchange

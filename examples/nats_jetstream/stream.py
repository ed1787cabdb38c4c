"""The stream of all messages: its layout, and the headers by which a message says what it is beside its payload."""

import asyncio
import json
from typing import Any

import nats.js.errors
from nats.aio.client import Client as Connection

from examples.common.messages import place

__all__ = [
    "AGE",
    "BATCH",
    "ENVELOPE",
    "SECOND",
    "STREAM",
    "TTL",
    "check",
    "consumer",
    "create_stream",
    "pattern",
    "schedule",
    "subject",
]

STREAM = "omnitck-messages"
ENVELOPE = "Omnitck-Envelope"
TTL = "Omnitck-TTL"

SECOND = 10**9
"""JetStream counts nanoseconds."""

AGE = 14 * 86_400
"""Seconds that a message is kept, whoever has read it, and a group whose consumers are gone."""

WINDOW = 600
"""Seconds in which a message id is known again."""

CONSUMERS = 10_000
"""Groups of all topics together; a server that is told no limit sets one of 1000."""

BATCH = 1000
"""Messages that JetStream takes in one atomic batch."""


def subject(tenant: bytes, topic: str, unique: str = "0") -> str:
    """Where the messages of a topic go; one that was scheduled has a subject of its own, by which it is found."""
    return f"omnitck.message.{place(tenant, topic)}.{unique}"


def pattern(tenant: bytes, topic: str) -> str:
    """The subjects of all messages of a topic."""
    return subject(tenant, topic, "*")


def schedule(tenant: bytes, id: str) -> str:
    """Where the message of this id waits: a subject holds one schedule."""
    return f"omnitck.schedule.{place(tenant, id)}"


def consumer(tenant: bytes, topic: str, group: str) -> str:
    """The name of the durable consumer of a group."""
    return place(tenant, topic, group)


def check(reply: dict[str, Any]) -> dict[str, Any]:
    """*reply*, unless it is an error."""
    if "error" in reply:
        nats.js.errors.APIError.from_error(reply["error"])  # raises it
    return reply


def create_stream(url: str) -> None:
    """Create the stream, unless it is there; several processes may do so at once."""
    config = {
        "name": STREAM,
        "subjects": ["omnitck.message.>", "omnitck.schedule.>"],
        "storage": "file",
        "retention": "limits",
        "max_age": AGE * SECOND,
        "duplicate_window": WINDOW * SECOND,
        "allow_msg_ttl": True,
        "allow_atomic": True,
        "allow_msg_schedules": True,
        "num_replicas": 1,
        "max_consumers": CONSUMERS,
    }

    async def create() -> None:
        connection = Connection()
        await connection.connect(url)
        try:
            reply = await connection.request(f"$JS.API.STREAM.CREATE.{STREAM}", json.dumps(config).encode(), timeout=5)
            check(json.loads(reply.data))
        finally:
            await connection.close()

    asyncio.run(create())

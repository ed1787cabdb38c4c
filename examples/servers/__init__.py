"""Servers for the examples: started on 127.0.0.1, once a process, and ended with it.

``pip install "omnitck[examples]"`` brings the programs, so no container, no root and no installed service is needed; only
etcd, memcached and RabbitMQ are the system's own, and SecantusDB is an extra of its own. An address in the environment uses the
caller's own server instead: ``OMNITCK_REDIS_URL``, ``OMNITCK_POSTGRES_URL``, ``OMNITCK_NATS_URL``, ``OMNITCK_AWS_URL``,
``OMNITCK_S3_URL``, ``OMNITCK_MEMCACHED_URL``, ``OMNITCK_VAULT_URL``, ``OMNITCK_MONGODB_URL``, ``OMNITCK_RABBITMQ_URL``,
``OMNITCK_KAFKA_URL``, ``OMNITCK_ETCD_URL``.
`connect_info` is what an adapter's factory calls, from many threads and event loops at once if need be.

The settings trade durability for speed (no fsync): right for tests, wrong for anything else.
"""

import asyncio
import contextlib
import os
import unittest
from collections.abc import Callable, Iterator
from typing import ClassVar

from examples.servers.addresses import Missing, Server, split_url
from examples.servers.programs import (
    LOCK,
    etcd,
    kafka,
    memcached,
    moto,
    nats,
    openbao,
    postgresql,
    rabbitmq,
    running,
    seaweedfs,
    secantusdb,
    strict_moto,
    valkey,
)

__all__ = [
    "Missing",
    "OnServer",
    "Server",
    "connect_info",
    "etcd",
    "installed",
    "kafka",
    "memcached",
    "moto",
    "nats",
    "openbao",
    "postgresql",
    "rabbitmq",
    "require",
    "seaweedfs",
    "secantusdb",
    "split_url",
    "strict_moto",
    "valkey",
]

_prepared: set[tuple[str, Callable[[str], None]]] = set()


def require(start: Callable[[], Server]) -> Server:
    """The server of *start*; without it, a skip whose reason says what to install.

    With ``OMNITCK_REQUIRE_BACKENDS=1``, as in CI, a missing server is a failure: a skipped suite certifies nothing.
    """
    try:
        return start()
    except Missing as missing:
        if os.environ.get("OMNITCK_REQUIRE_BACKENDS") == "1":
            raise
        raise unittest.SkipTest(str(missing)) from None


class OnServer:
    """What the suites of all TCP backends share: mix it in first, and name the server."""

    start: ClassVar[Callable[[], Server]]
    server: ClassVar[Server]

    @classmethod
    def setUpClass(cls) -> None:
        """Start the server, or skip the suite with how to get it."""
        cls.server = require(cls.start)
        cls.credentials = cls.server.credentials

    credentials: ClassVar[tuple[str, ...]] = ()

    async def backend_address(self) -> tuple[str, int]:
        """Where the kit's fault proxy connects to."""
        return self.server.address


@contextlib.contextmanager
def installed(extra: str = "examples") -> Iterator[None]:
    """Around the import of an adapter: a client library that is not installed is a skip whose reason says how to get it.

    *extra* is the one that brings it. With ``OMNITCK_REQUIRE_BACKENDS=1`` it is the ImportError that it is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        own = (error.name or "").startswith(("omnitck", "examples"))
        if own or os.environ.get("OMNITCK_REQUIRE_BACKENDS") == "1":
            raise
        raise unittest.SkipTest(f'{error.name} is not installed: pip install "omnitck[{extra}]"') from None


async def connect_info(
    start: Callable[[], Server],
    address: tuple[str, int] | None = None,
    *,
    prepare: Callable[[str], None] | None = None,
) -> str:
    """The URL of the server of *start*, seen through *address*; *prepare* has been called with the URL once a process.

    Starting takes up to some seconds, so it happens in a thread: the event loop runs on.
    """

    def prepared() -> Server:
        with LOCK:
            server = require(start)
            if prepare is not None and (server.url, prepare) not in _prepared:
                prepare(server.url)
                _prepared.add((server.url, prepare))
            return server

    server = running(start)
    if server is None or (prepare is not None and (server.url, prepare) not in _prepared):
        server = await asyncio.to_thread(prepared)
    return server.at(address)

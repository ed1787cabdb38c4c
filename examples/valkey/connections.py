"""How the adapters of Valkey connect."""

from itertools import chain
from typing import ClassVar

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

__all__ = ["Translation", "abort", "open_pool"]


class Translation:
    """What redis-py raises, for `examples.common.client.Client`."""

    _unavailable: ClassVar[tuple[type[Exception], ...]] = (OSError, TimeoutError, RedisError)
    _denied: ClassVar[tuple[type[Exception], ...]] = (AuthenticationError, NoPermissionError)


def open_pool(url: str) -> ConnectionPool:
    """Connections to the server at *url*, each opened when it is needed."""
    # No retries: a command whose reply was lost may have been carried out, and `increment` must not happen twice.
    # A connection that was cut while idle is noticed by redis-py, which connects anew before it sends anything.
    return ConnectionPool.from_url(
        url,
        max_connections=2**31,  # instead of 100: each subscription waits on one of its own, and who publishes has his slots
        protocol=2,  # saves a round trip; nothing here needs RESP3
        driver_info=None,  # nor need the server know the name of the library
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=None,
        socket_timeout=None,
    )


def abort(pool: ConnectionPool) -> None:
    """Reset every connection of *pool*, as the operating system does when a process ends: redis-py itself only closes."""
    for connection in chain(pool._available_connections, pool._in_use_connections):
        if connection._writer is not None:
            connection._writer.transport.abort()

"""Where a server listens, and with which credentials it lets a client in."""

from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

__all__ = ["Missing", "Server", "split_url"]

DEFAULT_PORTS = {
    "amqp": 5672,
    "etcd": 2379,
    "http": 80,
    "https": 443,
    "kafka": 9092,
    "memcached": 11211,
    "mongodb": 27017,
    "nats": 4222,
    "postgres": 5432,
    "postgresql": 5432,
    "redis": 6379,
    "rediss": 6379,
}


class Missing(RuntimeError):  # noqa: N818  a state of the machine, which mostly is no error
    """The server is not installed, and no address was given."""


@dataclass(frozen=True)
class Server:
    """Where a server listens."""

    url: str = field(repr=False)
    """With the credentials; hence not in the repr."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "127.0.0.1", parts.port or DEFAULT_PORTS[parts.scheme]

    @property
    def credentials(self) -> tuple[str, ...]:
        """The password, secret key or token, if there is one."""
        password = urlsplit(self.url).password
        return (unquote(password),) if password else ()

    def at(self, address: tuple[str, int] | None) -> str:
        """The URL, with host and port replaced by *address*: that of a proxy in front of the server."""
        if address is None:
            return self.url

        parts = urlsplit(self.url)
        credentials, at, _ = parts.netloc.rpartition("@")
        return _with_netloc(parts, f"{credentials}{at}{_netloc(*address)}")


def split_url(url: str) -> tuple[str, str, str]:
    """*url* without its credentials, the user (or access key), and the password (or secret key, or token).

    For clients that take the three apart: ``endpoint, access_key, secret_key = split_url(url)``.
    """
    parts = urlsplit(url)
    bare = _with_netloc(parts, parts.netloc.rpartition("@")[2])
    return bare, unquote(parts.username or ""), unquote(parts.password or "")


def _netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _with_netloc(parts: SplitResult, netloc: str) -> str:
    return parts._replace(netloc=netloc).geturl()

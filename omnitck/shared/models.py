"""The records that cross the boundary between an application and a provider. Frozen, comparable, printable."""

from dataclasses import dataclass, fields

__all__ = ["Change", "Entry", "Expect", "Limits", "Put", "Remove"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The numbers that an application may rely on. The defaults are the floors that every provider meets."""

    key_bytes: int = 256
    """Longest key, in bytes of UTF-8; at least 256."""
    value_bytes: int = 262_144
    """Largest value, in bytes of UTF-8; at least 256 KiB."""
    min_ttl: float = 1.0
    """Shortest time to live that is kept, in seconds; a shorter one is rounded up to it. At most 60."""
    ttl_resolution: float = 1.0
    """How early or late an expiry may be seen, in seconds. At most 60."""
    staleness: float = 0.0
    """How long another client may still read what was there before a write, in seconds; 0 is at once. At most 60."""
    page_size: int = 1000
    """Names that the backend returns in one page of a listing."""
    batch_size: int = 1000
    """Items that the backend takes in one request; a longer batch is split by the provider."""

    def broken_floors(self) -> list[str]:
        """One sentence for each number that no certified provider may declare."""
        bounds = {
            "key_bytes": (256, None),
            "value_bytes": (262_144, None),
            "min_ttl": (0, 60),
            "ttl_resolution": (0, 60),
            "staleness": (0, 60),
            "page_size": (1, None),
            "batch_size": (1, None),
        }
        broken = []
        for field in fields(self):
            number = getattr(self, field.name)
            low, high = bounds[field.name]
            if isinstance(number, bool) or not isinstance(number, int | float):
                broken.append(f"{field.name} is {number!r}, not a number")
            elif not number >= low:
                broken.append(f"{field.name} is {number}, below {low}")
            elif high is not None and not number <= high:
                broken.append(f"{field.name} is {number}, above {high}")
        return broken


@dataclass(frozen=True, slots=True)
class Entry:
    """A value with the version under which it is stored."""

    value: str
    version: str
    """Opaque: compare it, store it, give it back, never interpret it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One observed change of a key."""

    key: str
    value: str | None
    """The new value; None when the key was deleted."""


@dataclass(frozen=True, slots=True)
class Put:
    """Within a transaction: store *value* under *key*."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Within a transaction: delete *key*; an absent key is fine."""

    key: str


@dataclass(frozen=True, slots=True)
class Expect:
    """Within a transaction: go on only if *key* holds exactly *value*; None means that it is absent."""

    key: str
    value: str | None

"""Broken sources of secrets, in the order of the rules that reject them."""

import base64
import json
import logging
import os
import sys
import warnings
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel

from omnitck.defects import break_with, breaks, clients, tenants
from omnitck.reference.client import Cell
from omnitck.reference.secrets import MemorySecrets
from omnitck.shared.exceptions import (
    ConflictError,
    InvalidArgumentError,
    PermissionDeniedError,
    SecretNotFoundError,
    TooLargeError,
    UnavailableError,
)

# The common family

break_with(
    MemorySecrets,
    {
        clients.UnknownCapability: "SE-COM-02",
        clients.CapabilitiesAsText: "SE-COM-02",
        clients.StaleAdvertisement: "SE-COM-04",
        clients.UnflushedBuffer: "SE-COM-06",
        clients.DoubleRelease: "SE-COM-07",
        clients.SilentReconnect: "SE-COM-08",
        clients.SwallowingExit: "SE-COM-09",
        clients.SharedPool: "SE-COM-10 SE-COM-06 MT-16",
        clients.OrphanedTask: "SE-COM-11",
        clients.BreakingClose: "SE-COM-11",
        clients.LeakingVendorError: "SE-COM-12 SE-16",
        clients.NoCause: "SE-COM-12",
        clients.SwallowedCancellation: "SE-COM-14",
        clients.DefaultOnCancellation: "SE-COM-14",
        clients.DeletedAnyway: "SE-COM-14",
        clients.CrossedReply: "SE-COM-15 MT-15",
        clients.SharedCursor: "SE-COM-18 SE-COM-15 SE-03 MT-14",
        clients.CoercedKey: "SE-COM-19",
        clients.NormalisedKey: "SE-COM-20",
        clients.TruncatedKey: "SE-COM-21",
        clients.TruncatedValue: "SE-COM-22 SE-20",
        clients.BlockingCall: "SE-COM-23",
        clients.PrintedPassword: "SE-COM-24",
        clients.CrashedWorker: "SE-COM-25",
        clients.CancelsItsCaller: "SE-COM-26",
        clients.ForgottenTimer: "SE-COM-26",
    },
)


@breaks("SE-COM-01", "SE-COM-04")
class RenamedParameter(MemorySecrets):
    """`get` calls its parameter `key`: `get(name=...)` is a TypeError."""

    async def get(self, key: str, *, version: str | None = None) -> str:
        return await super().get(key, version=version)


@breaks("SE-COM-02", "SE-20", "SE-COM-22")
class SmallSecrets(MemorySecrets):
    """It is built on a tier that ends at 4 KiB, and says so."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.limits = replace(self.limits, value_bytes=4096)

    def check_size(self, key: str, size: int) -> None:
        pass


@breaks("SE-COM-03", without="versioning")
class DroppedArgument(MemorySecrets):
    """It takes `version` without supporting it, and returns the newest."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        return await super().get(name)


@breaks("SE-COM-05")
class OwnDictionary(MemorySecrets):
    """A name that was absent is looked up again only when this client has written it, or somebody outside."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.missed: set[str] = set()

    async def get(self, name: str, *, version: str | None = None) -> str:
        written = self.backend.__dict__.setdefault("written", {})
        if name in self.missed and written.get(self.cell(name), self) is not self:
            raise self.absent(name)
        try:
            return await super().get(name, version=version)
        except SecretNotFoundError:
            self.missed.add(name)
            raise

    def put(self, name: str, data: bytes) -> str:
        self.backend.__dict__.setdefault("written", {})[self.cell(name)] = self
        return super().put(name, data)


@breaks("SE-COM-08", "SE-COM-09")
class CacheOutlivesClose(MemorySecrets):
    """After `close` the cache still answers, also that there is no such secret."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        if self.closed and version is None:
            raise self.absent(name)
        return await super().get(name, version=version)


@breaks("SE-COM-13")
class NamelessError(MemorySecrets):
    """ "secret does not exist", but which?"""

    def absent(self, name: str) -> SecretNotFoundError:
        return SecretNotFoundError("the secret does not exist")


@breaks("SE-COM-13", "SE-11")
class TalkativeRefusal(MemorySecrets):
    """The refusal of a value quotes it."""

    def encoded(self, key: str, value: object) -> bytes:
        if not isinstance(value, str):
            raise InvalidArgumentError(f"secret {key!r}: {value!r} is no text")
        return super().encoded(key, value)


@breaks("SE-COM-16", "SE-COM-22", "SE-20", "SE-28")
class TornWrite(MemorySecrets):
    """A large value is sent in two parts."""

    async def set(self, name: str, value: str) -> str:
        if isinstance(value, str) and len(value) > 7_000:
            await super().set(name, value[: len(value) // 2])
        return await super().set(name, value)


@breaks("SE-COM-17")
class SharedResult(MemorySecrets):
    """`list_versions` hands out its own cached list."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.results: dict[tuple[Cell, str], list[str]] = {}

    async def list_versions(self, name: str) -> list[str]:
        listed = await super().list_versions(name)
        return self.results.setdefault((self.cell(name), "".join(listed)), listed)


@breaks("SE-COM-20")
class CleanedPath(MemorySecrets):
    """The HTTP library resolves `a/../b`."""

    def cell(self, key: str) -> Cell:
        return super().cell(os.path.normpath(key) if "/../" in key else key)


# Values


@breaks(
    *"SE-01 SE-03 MT-01 MT-02 MT-07 MT-09 MT-10 MT-12 MT-13 MT-14 MT-15 MT-16 MT-17 MT-20 SE-04 SE-05 SE-06".split(),
    *"SE-07 SE-08 SE-13 SE-14 SE-15 SE-16 SE-17 SE-18 SE-19 SE-21 SE-22 SE-26 SE-27 SE-28 SE-COM-05 SE-COM-06".split(),
    *"SE-COM-10 SE-COM-15 SE-COM-16 SE-COM-17 SE-COM-18 SE-COM-20 SE-COM-21 SE-COM-22".split(),
)
class WrappedAnswer(MemorySecrets):
    """`get` returns the SDK's dictionary for what was asked once."""

    async def get(self, name: str, *, version: str | None = None) -> Any:
        value = await super().get(name, version=version)
        return {"data": {"value": value}}


@breaks(
    *"SE-01 SE-03 MT-01 MT-02 MT-07 MT-09 MT-10 MT-12 MT-13 MT-14 MT-15 MT-16 MT-17 MT-20 SE-04 SE-05 SE-06".split(),
    *"SE-07 SE-08 SE-13 SE-14 SE-15 SE-16 SE-17 SE-18 SE-19 SE-21 SE-22 SE-26 SE-27 SE-28 SE-COM-05 SE-COM-06".split(),
    *"SE-COM-10 SE-COM-15 SE-COM-16 SE-COM-17 SE-COM-18 SE-COM-20 SE-COM-21 SE-COM-22".split(),
)
class UndecodedAnswer(MemorySecrets):
    """`get` returns the driver's bytes."""

    async def get(self, name: str, *, version: str | None = None) -> Any:
        return (await super().get(name, version=version)).encode()


@breaks(
    *"SE-02 SE-09 SE-14 SE-15 SE-16 SE-18 SE-19 SE-21 SE-27 SE-COM-13".split(),
)
class NoneForAbsence(MemorySecrets):
    """`get` of an absent secret is None."""

    async def get(self, name: str, *, version: str | None = None) -> Any:
        try:
            return await super().get(name, version=version)
        except SecretNotFoundError:
            return None


@breaks(
    *"SE-02 MT-02 MT-07 MT-08 MT-09 MT-10 MT-12 MT-13 MT-20 SE-09 SE-14 SE-15 SE-16 SE-18 SE-19 SE-21 SE-27".split(),
    *"SE-COM-05 SE-COM-13 SE-COM-19".split(),
)
class EmptyForAbsence(MemorySecrets):
    """`get` of an absent secret is "", like `os.environ.get(name, "")`."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        try:
            return await super().get(name, version=version)
        except SecretNotFoundError:
            return ""


@breaks(
    *"SE-02 MT-02 MT-07 MT-08 MT-09 MT-10 MT-12 MT-13 MT-19 MT-20 SE-09 SE-14 SE-15 SE-16 SE-18 SE-19 SE-21".split(),
    *"SE-27 SE-COM-05 SE-COM-13 SE-COM-19".split(),
)
class VendorsNotFound(MemorySecrets):
    """The vendor's own 404 reaches the application."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        try:
            return await super().get(name, version=version)
        except SecretNotFoundError as error:
            raise LookupError(str(error)) from error


@breaks(
    *"SE-02 MT-02 MT-07 MT-08 MT-09 MT-10 MT-12 MT-13 MT-20 SE-09 SE-14 SE-15 SE-16 SE-18 SE-19 SE-25 SE-27".split(),
    *"SE-COM-05 SE-COM-19".split(),
)
class DeniedForAbsence(MemorySecrets):
    """Who may not list is told that access is denied, whatever is absent."""

    def absent(self, name: str) -> Any:
        return PermissionDeniedError(f"secret {name!r}: access denied")


@breaks("SE-02")
class HelpfulError(MemorySecrets):
    """The error suggests the names that do exist."""

    def absent(self, name: str) -> SecretNotFoundError:
        return SecretNotFoundError(f"secret {name!r} does not exist; did you mean {self.own()}?")


@breaks("SE-03", "MT-14", "SE-COM-15", "SE-COM-18")
class OneSlot(MemorySecrets):
    """While a read is under way, others that start are given its answer."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        waiting = self.__dict__.setdefault("waiting", [])
        waiting.append(name)
        await anyio.lowlevel.checkpoint()
        asked = waiting[0] if len(waiting) > 10 and isinstance(name, str) else name
        try:
            return await super().get(asked, version=version)
        finally:
            waiting.remove(name)


@breaks("SE-04", "SE-05", "SE-06", "SE-26", "SE-27")
class StrippedValue(MemorySecrets):
    """A mounted file is read with `.strip()`."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        return (await super().get(name, version=version)).strip()


@breaks("SE-04", "SE-06")
class UniversalNewlines(MemorySecrets):
    """A file that is opened as text has one kind of line end."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        return (await super().get(name, version=version)).replace("\r\n", "\n")


@breaks("SE-05")
class ExpandedVariables(MemorySecrets):
    """Environment variables in a value are expanded."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        return os.path.expandvars(await super().get(name, version=version))


@breaks("SE-05", "SE-06")
class ParsedValue(MemorySecrets):
    """What looks like JSON is parsed."""

    async def get(self, name: str, *, version: str | None = None) -> Any:
        value = await super().get(name, version=version)
        try:
            return json.loads(value) if value[:1] in ("{", "[") else value
        except ValueError:
            return value


@breaks("SE-05", "SE-06")
class TypedByYaml(MemorySecrets):
    """A file of values is read as YAML: `0123` is an octal number, `yes` is true."""

    async def get(self, name: str, *, version: str | None = None) -> Any:
        value = await super().get(name, version=version)
        return {"true": True, "yes": True, "null": None, "0123": 83}.get(value, value)


@breaks("SE-05", "SE-06")
class Unquoted(MemorySecrets):
    """A line of a `.env` file loses its quotes."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        value = await super().get(name, version=version)
        return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


@breaks("SE-06", "SE-04", "SE-26")
class Latin1(MemorySecrets):
    """The answer is decoded as latin-1."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        return (await super().get(name, version=version)).encode().decode("latin-1")


@breaks("SE-06", "SE-COM-22")
class FourKilobytes(MemorySecrets):
    """The parameter tier ends at 4 KiB, and the adapter cuts."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        return (await super().get(name, version=version))[:4096]


@breaks("SE-07")
class FalsyIsAbsent(MemorySecrets):
    """`if not value: raise SecretNotFoundError`."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        value = await super().get(name, version=version)
        if not value:
            raise self.absent(name)
        return value


# Names


@breaks("SE-08", "SE-23", "SE-COM-20")
class Mangled(MemorySecrets):
    """Azure Key Vault has only `-`, so everything else becomes one."""

    def cell(self, key: str) -> Cell:
        return super().cell(key.replace("_", "-"))


@breaks("SE-08", "SE-COM-20")
class FoldedName(MemorySecrets):
    """Names are compared without case."""

    def cell(self, key: str) -> Cell:
        return super().cell(key.lower() if isinstance(key, str) else key)


@breaks("SE-09")
class FolderAsValue(MemorySecrets):
    """A path that has something below it is answered with what that is."""

    def newest(self, name: str) -> bytes:
        below = [other for other in self.own() if other.startswith(f"{name}/")]
        return json.dumps(below).encode() if below and not self.find(name) else super().newest(name)


# Rights


@breaks("SE-10")
class ForbiddenIsAbsent(MemorySecrets):
    """403 is mapped to 404."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        try:
            return await super().get(name, version=version)
        except PermissionDeniedError:
            raise self.absent(name) from None


@breaks("SE-10")
class RetriesForbidden(MemorySecrets):
    """401 is tried again and again, and then reported as an outage."""

    async def list_versions(self, name: str) -> list[str]:
        try:
            return await super().list_versions(name)
        except PermissionDeniedError as error:
            raise UnavailableError(f"secret {name!r}: gave up after 100 tries") from error


# Leaks


@breaks("SE-11", "SE-12")
class PrintedCache(MemorySecrets):
    """A dataclass prints its cache."""

    def __repr__(self) -> str:
        return f"Secrets(tenant_id={self.tenant_id!r}, cache={self.cache!r})"


@breaks("SE-11", "SE-COM-13")
class EchoedBody(MemorySecrets):
    """The error of an unknown version has the body of the answer as its cause."""

    def version(self, name: str, id: str) -> bytes:
        try:
            return super().version(name, id)
        except SecretNotFoundError as error:
            found = self.find(name)
            raise error from (ValueError({"data": base64.b64encode(b"{" + found[0].data)}) if found else None)


@breaks("SE-11")
class DecodersError(MemorySecrets):
    """The decoder's error, which carries all that it could not decode, is the cause."""

    def text(self, name: str, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            del data
            raise InvalidArgumentError(f"secret {name!r} is no text") from error


@breaks("SE-11")
class NotedValue(MemorySecrets):
    """A note on the error says, in hexadecimal, what was to be written."""

    def encoded(self, key: str, value: object) -> bytes:
        try:
            return super().encoded(key, value)
        except TooLargeError as error:
            error.add_note(f"the value was {str(value).encode().hex()}")
            raise


@breaks("SE-11", "SE-COM-13")
class AnswerAttribute(MemorySecrets):
    """The error has the answer as an attribute, which an error tracker sends."""

    def version(self, name: str, id: str) -> bytes:
        try:
            return super().version(name, id)
        except SecretNotFoundError as error:
            error.response = {"versions": [each.data for each in self.find(name)]}  # type: ignore[attr-defined]
            raise


@breaks("SE-11")
class LoggedValue(MemorySecrets):
    """A log record of its own, at DEBUG, has the value as an argument."""

    async def set(self, name: str, value: str) -> str:
        logging.getLogger(__name__).debug("set %s", {"name": name, "value": value})
        return await super().set(name, value)


@breaks("SE-11")
class LoggedElsewhere(MemorySecrets):
    """An audit log, of another package and at INFO, has the value in URL form as an extra."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        value = await super().get(name, version=version)
        logging.getLogger("audit").info("read", extra={"query": f"name={name}&value={value}"})
        return value


@breaks("SE-11")
class WarnedOfValue(MemorySecrets):
    """A deprecation warning quotes the call."""

    async def set(self, name: str, value: str) -> str:
        if isinstance(value, str) and len(value) == 24:
            warnings.warn(f"set({name!r}, {value!r}) is deprecated", DeprecationWarning, stacklevel=2)
        return await super().set(name, value)


@breaks("SE-11")
class PrintedValue(MemorySecrets):
    """A `print` was forgotten."""

    async def get_bytes(self, name: str) -> bytes:
        data = await super().get_bytes(name)
        if len(data) == 24:
            print(data, file=sys.stderr)
        return data


@breaks("SE-12")
class TalkativeSDK(MemorySecrets):
    """The SDK logs, at DEBUG and in base64, what it receives."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        value = await super().get(name, version=version)
        logging.getLogger("vendor.sdk").debug("payload %s", base64.b64encode(value.encode()))
        return value


@breaks("SE-12")
class AnswerInLocals(MemorySecrets):
    """While `get` fails, a local variable still holds the whole answer."""

    def version(self, name: str, id: str) -> bytes:
        answer = {each.id: each.data for each in self.versions(name)}
        if id not in answer:
            raise SecretNotFoundError(f"secret {name!r} has no version {id!r}")
        return answer[id]


# Changes from outside


@breaks("SE-13", "SE-14", "SE-17")
class UnboundedCache(MemorySecrets):
    """`lru_cache` around the fetch."""

    def keep(self, cell: Cell, data: bytes) -> None:
        self.cache[cell] = (data, float("inf"))


@breaks("SE-13", "SE-14")
class SlidingCache(MemorySecrets):
    """An entry of the cache lives longer for being read."""

    async def current(self, name: str) -> bytes:
        data = await super().current(name)
        self.keep(self.cell(name), data)
        return data


@breaks("SE-14", "SE-12")
class ServesStale(MemorySecrets):
    """When the backend knows a secret no longer, what was last read is served."""

    async def current(self, name: str) -> bytes:
        last = self.__dict__.setdefault("last", {})
        try:
            last[name] = await super().current(name)
        except SecretNotFoundError:
            if name not in last:
                raise
        data: bytes = last[name]
        return data

    def remove(self, name: str) -> None:
        self.__dict__.setdefault("last", {}).pop(name, None)
        super().remove(name)


@breaks("SE-15", "SE-COM-05")
class CachedAbsence(MemorySecrets):
    """That a secret is absent is remembered for ever."""

    async def current(self, name: str) -> bytes:
        absent = self.__dict__.setdefault("missing", set())
        if name in absent:
            await self.turn()
            raise self.absent(name)
        try:
            return await super().current(name)
        except SecretNotFoundError:
            absent.add(name)
            raise

    def put(self, name: str, data: bytes) -> str:
        self.__dict__.setdefault("missing", set()).discard(name)
        return super().put(name, data)


@breaks("SE-16")
class CachedOutage(MemorySecrets):
    """The failure is what the cache remembers of a name."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        failed = self.__dict__.setdefault("failed", {})
        if name in failed:
            await anyio.lowlevel.checkpoint()
            raise failed[name]
        try:
            return await super().get(name, version=version)
        except UnavailableError as error:
            failed[name] = error
            raise


@breaks("SE-16", "SE-COM-12")
class OutageIsAbsence(MemorySecrets):
    """`except Exception` makes every failure a 404."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        try:
            return await super().get(name, version=version)
        except UnavailableError:
            raise self.absent(name) from None


# write


@breaks(
    *"SE-17 SE-12 SE-13 SE-19 SE-21 SE-22 SE-27".split(),
)
class PinnedAlias(MemorySecrets):
    """A new version is appended, and readers are given the one that they have pinned."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        pinned = self.__dict__.setdefault("pinned", {})
        value = await super().get(name, version=version)
        return pinned.setdefault(name, value) if version is None else value

    async def set(self, name: str, value: str) -> str:
        version = await super().set(name, value)
        self.__dict__.setdefault("pinned", {}).setdefault(name, value)
        return version


@breaks("SE-17", "SE-19", "SE-21", "SE-22", "SE-27")
class SilentSet(MemorySecrets):
    """`set` returns nothing."""

    async def set(self, name: str, value: str) -> Any:
        await super().set(name, value)


@breaks("SE-18", "SE-27")
class SoftDelete(MemorySecrets):
    """A deleted secret can still be read by the id of its version."""

    def version(self, name: str, id: str) -> bytes:
        try:
            return super().version(name, id)
        except SecretNotFoundError:
            deleted = self.backend.__dict__.get("deleted", {}).get(self.cell(name), ())
            for each in deleted:
                if each.id == id and not self.find(name):
                    data: bytes = each.data
                    return data
            raise

    def remove(self, name: str) -> None:
        if self.find(name):
            self.backend.__dict__.setdefault("deleted", {})[self.cell(name)] = self.find(name)
        super().remove(name)


@breaks("SE-18", "SE-27")
class DeleteNotFound(MemorySecrets):
    """Deleting what is absent is an error, so that a retry fails."""

    async def delete(self, name: str) -> None:
        self.check_key(name)
        await self.turn()
        self.versions(name)
        self.remove(name)


@breaks("SE-19", "SE-27")
class ScheduledForDeletion(MemorySecrets):
    """A name that was deleted cannot be used for days."""

    def remove(self, name: str) -> None:
        if self.find(name):
            self.backend.__dict__.setdefault("scheduled", set()).add(self.cell(name))
        super().remove(name)

    def put(self, name: str, data: bytes) -> str:
        if self.cell(name) in self.backend.__dict__.get("scheduled", ()):
            raise ConflictError(f"secret {name!r} is scheduled for deletion")
        return super().put(name, data)


@breaks("SE-19")
class Recovered(MemorySecrets):
    """Setting a deleted secret recovers it, with its old versions."""

    def remove(self, name: str) -> None:
        if self.find(name):
            self.backend.__dict__.setdefault("deleted", {})[self.cell(name)] = self.find(name)
        super().remove(name)

    def put(self, name: str, data: bytes) -> str:
        version = super().put(name, data)
        old = self.backend.__dict__.get("deleted", {}).pop(self.cell(name), ())
        self.backend.secrets[self.cell(name)] += old
        return version


@breaks("SE-20", "SE-COM-22")
class HalfApplied(MemorySecrets):
    """The version is created before its value is checked."""

    def encoded(self, key: str, value: object) -> bytes:
        try:
            return super().encoded(key, value)
        except InvalidArgumentError:
            if self.find(key) and not isinstance(value, bytes):
                self.put(key, b"")
            raise


# versioning


@breaks("SE-21", "SE-22", "SE-19", "SE-27")
class OffByOne(MemorySecrets):
    """The number that `set` returns is that of the version before."""

    async def set(self, name: str, value: str) -> str:
        return str(int(await super().set(name, value)) - 1)


@breaks("SE-21", "SE-19", "SE-COM-13")
class LatestForUnknown(MemorySecrets):
    """An unknown version is answered with the newest."""

    def version(self, name: str, id: str) -> bytes:
        try:
            return super().version(name, id)
        except SecretNotFoundError:
            return self.newest(name)


@breaks("SE-21", "SE-22")
class OldestFirst(MemorySecrets):
    """`list_versions` begins with the oldest."""

    async def list_versions(self, name: str) -> list[str]:
        return (await super().list_versions(name))[::-1]


@breaks("SE-21")
class FalsyVersion(MemorySecrets):
    """`version or latest`."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        return await super().get(name, version=version or None)


@breaks("SE-22")
class LostVersion(MemorySecrets):
    """Two writers read the same number before either writes."""

    async def set(self, name: str, value: str) -> str:
        self.check_key(name)
        data = self.encoded(name, value)
        number = self.backend.versions + 1
        await self.turn()
        self.backend.versions = number - 1
        return self.put(name, data)


# list_prefix


@breaks("SE-23", "MT-06", "MT-07", "SE-27", "SE-COM-20")
class ListedValues(MemorySecrets):
    """A listing yields name and value."""

    async def list_names(self, prefix: str = "") -> AsyncIterator[str]:
        async for name in super().list_names(prefix):
            yield f"{name}={self.newest(name).decode(errors='replace')}"


break_with(MemorySecrets, {clients.OnePage: "SE-23 SE-COM-20"})


@breaks("SE-23")
class OneLevel(MemorySecrets):
    """A listing shows one level of a tree."""

    async def list_names(self, prefix: str = "") -> AsyncIterator[str]:
        async for name in super().list_names(prefix):
            if not name.endswith("/deep"):
                yield name


@breaks("SE-23", "SE-27")
class ListedTombstones(MemorySecrets):
    """A listing shows what was deleted."""

    def remove(self, name: str) -> None:
        if self.find(name):
            self.backend.__dict__.setdefault("tombstones", set()).add(self.cell(name))
        super().remove(name)

    async def list_names(self, prefix: str = "") -> AsyncIterator[str]:
        async for name in super().list_names(prefix):
            yield name
        gone = [cell.name for cell in self.backend.__dict__.get("tombstones", ()) if cell == self.cell(cell.name)]
        for name in sorted(gone):
            if prefix and name.startswith(prefix) and not self.find(name):
                yield name


# batch


@breaks("SE-24", "SE-27", "SE-COM-13")
class DroppedMissing(MemorySecrets):
    """What is missing is left out of the result, where something is found."""

    async def get_many(self, names: Iterable[str]) -> dict[str, str]:
        wanted = self.check_keys(names)
        there = [name for name in wanted if self.find(name)]
        return await super().get_many(there or wanted)


@breaks("SE-24")
class FirstMissing(MemorySecrets):
    """The error names the first that is missing."""

    async def get_many(self, names: Iterable[str]) -> dict[str, str]:
        wanted = self.check_keys(names)
        try:
            return await super().get_many(wanted)
        except SecretNotFoundError:
            raise self.absent(next(name for name in wanted if not self.find(name))) from None


@breaks("SE-24")
class CutBatch(MemorySecrets):
    """A batch ends at what one request takes."""

    async def get_many(self, names: Iterable[str]) -> dict[str, str]:
        return await super().get_many(self.check_keys(names)[: self.limits.batch_size])


# watch


@breaks("SE-25")
class BusyLoop(MemorySecrets):
    """A poll yields what it finds, changed or not."""

    @asynccontextmanager
    async def watching(self, name: str) -> AsyncIterator[AsyncIterator[str]]:
        async with super().watching(name) as values:

            async def twice() -> AsyncIterator[str]:
                async for value in values:
                    yield value
                    yield value

            yield twice()


@breaks("SE-25")
class CurrentFirst(MemorySecrets):
    """A watcher begins with the value that there was."""

    @asynccontextmanager
    async def watching(self, name: str) -> AsyncIterator[AsyncIterator[str]]:
        async with super().watching(name) as values:

            async def all() -> AsyncIterator[str]:
                yield self.text(name, self.newest(name))
                async for value in values:
                    yield value

            yield all()


@breaks("SE-25", "MT-21")
class MissedChange(MemorySecrets):
    """It subscribes when it is first asked, and what happened before is lost."""

    @asynccontextmanager
    async def watching(self, name: str) -> AsyncIterator[AsyncIterator[str]]:
        await self.turn()
        self.versions(name)
        whole = super().watching

        async def later() -> AsyncIterator[str]:
            async with whole(name) as values:
                async for value in values:
                    yield value

        yield later()


@breaks("SE-25")
class SilentRemoval(MemorySecrets):
    """A removal just ends the iteration."""

    @asynccontextmanager
    async def watching(self, name: str) -> AsyncIterator[AsyncIterator[str]]:
        async with super().watching(name) as values:

            async def quiet() -> AsyncIterator[str]:
                try:
                    async for value in values:
                        yield value
                except SecretNotFoundError:
                    return

            yield quiet()


@breaks("SE-25", "SE-02", "SE-09", "SE-14", "SE-18", "SE-COM-13")
class WatchesNothing(MemorySecrets):
    """Watching an absent secret is no error, and nothing ever comes."""

    @asynccontextmanager
    async def watching(self, name: str) -> AsyncIterator[AsyncIterator[str]]:
        await self.turn()
        if self.find(name):
            async with super().watching(name) as values:
                yield values
            return

        async def nothing() -> AsyncIterator[str]:
            await anyio.sleep_forever()
            yield ""

        yield nothing()


# binary


@breaks("SE-26")
class ReplacedBytes(MemorySecrets):
    """What is no text is shown with question marks."""

    def text(self, name: str, data: bytes) -> str:
        return data.decode(errors="replace")


@breaks("SE-26")
class DecodedTwice(MemorySecrets):
    """What looks like base64 is decoded."""

    async def get_bytes(self, name: str) -> bytes:
        data = await super().get_bytes(name)
        return base64.b64decode(data) if data.endswith(b"=") else data


@breaks("SE-27")
class ForgetsRepetition(MemorySecrets):
    """Setting the same value a third time deletes the secret."""

    def put(self, name: str, data: bytes) -> str:
        version = super().put(name, data)
        if [each.data for each in self.find(name)[:3]] == [data] * 3:
            self.remove(name)
        return version


# Tenants

break_with(
    MemorySecrets,
    {
        **tenants.EVERYWHERE,
        tenants.IgnoredTenant: "MT-01 MT-02 MT-03 MT-04 MT-05 MT-06 MT-07 MT-08 MT-09 MT-10 MT-12 MT-13 MT-14 MT-15 MT-19 MT-21",
        tenants.DeleteEverywhere: "MT-02 MT-04 MT-09 MT-10 MT-13 MT-21",
        tenants.UnscopedScan: "MT-06 MT-07 MT-08 MT-13",
        tenants.JoinedByColon: "MT-07 MT-08",
        tenants.JoinedByNothing: "MT-08 MT-12 MT-13",
        tenants.GlobalSuperuser: "MT-13",
        tenants.GlobalTenant: "MT-14",
        tenants.StickySetting: "MT-15",
        tenants.ClosesNeighbours: "MT-16",
        tenants.ParsedTenant: "MT-20",
    },
)


@breaks("MT-01", "MT-12", "MT-15", "SE-12")
class CacheWithoutTenant(MemorySecrets):
    """All clients share one cache, whose entries have names alone."""

    async def current(self, name: str) -> bytes:
        shared = self.backend.__dict__.setdefault("shared_cache", {})
        data, until = shared.get(name, (b"", -1.0))
        if self.backend.clock.now() < until and self.find(name):
            await self.pause()
            found: bytes = data
            return found
        await self.turn()
        data = self.newest(name)
        shared[name] = (data, self.backend.clock.now() + self.limits.cache_seconds)
        return data

    def put(self, name: str, data: bytes) -> str:
        self.backend.__dict__.setdefault("shared_cache", {}).pop(name, None)
        return super().put(name, data)

    def remove(self, name: str) -> None:
        self.backend.__dict__.setdefault("shared_cache", {}).pop(name, None)
        super().remove(name)


@breaks("MT-03")
class ExistenceOracle(MemorySecrets):
    """A secret of another tenant is forbidden, not absent."""

    def absent(self, name: str) -> Any:
        if tenants.elsewhere(self, name):
            return SecretNotFoundError(f"secret {name!r} is not yours")
        return super().absent(name)


@breaks("MT-04")
class UnscopedListVersions(MemorySecrets):
    """`list_versions` of an absent secret touches those of other tenants."""

    async def list_versions(self, name: str) -> list[str]:
        for cell in [each for each in self.backend.secrets if each.name == name and each.tenant != self.tenant_id]:
            self.backend.put(cell, self.backend.find(cell)[0].data)
        return await super().list_versions(name)


@breaks("MT-05")
class NeighboursInError(MemorySecrets):
    """The error of a batch shows what is next in the index."""

    async def get_many(self, names: Iterable[str]) -> dict[str, str]:
        wanted = self.check_keys(names)
        try:
            return await super().get_many(wanted)
        except SecretNotFoundError as error:
            near = [cell for cell in self.backend.secrets if cell.tenant != self.tenant_id and cell.name.endswith("-hidden")]
            raise SecretNotFoundError(f"{error}; near {near}" if near else str(error)) from None


@breaks("MT-19")
class AbsoluteVersion(MemorySecrets):
    """The id of a version leads to its value, whoever brings it."""

    def version(self, name: str, id: str) -> bytes:
        for cell, versions in self.backend.secrets.items():
            for each in versions:
                if each.id == id and cell.name == name:
                    return each.data
        return super().version(name, id)


@breaks("MT-21")
class SharedChannel(MemorySecrets):
    """Watchers of all tenants hear everything."""

    def put(self, name: str, data: bytes) -> str:
        for watcher in self.backend.watchers:
            if watcher.cell.name == name and watcher.cell != self.cell(name):
                watcher.stream.send_nowait(data)
        return super().put(name, data)


__all__ = [name for name, value in vars().items() if isinstance(value, type) and issubclass(value, MemorySecrets)]

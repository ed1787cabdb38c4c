"""`secrets` on OpenBao or Vault: version 2 of the key-value engine, through httpx.

A secret is a path with one field, `value`; bytes that are no text are base64, and a second field says so. In a path, `=XX`
stands for each byte that is not safe there, and for the dots of `.` and `..`; `=` stands for an empty segment.

Deleting removes the metadata too, so numbers of versions start anew. An id is therefore the number with the time of its making,
and is given out only if both are right. The engine keeps 10 versions unless it is told otherwise.

`watch` is not declared: the engine tells of changes to who has a right to all events, which an application has not.
"""

import base64
import binascii
import functools
import re
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Self

import httpx

from examples import servers
from examples.common import arguments
from examples.common.client import Client, together
from examples.common.secrets import Content, escape, text_of, texts_of, unescape
from omnitck.shared.exceptions import InvalidArgumentError, PermissionDeniedError, SecretNotFoundError
from omnitck.shared.models import SecretLimits

__all__ = ["MOUNT", "OpenBaoSecrets", "Space", "fields_of", "make_store"]

MOUNT = "secret"
EMPTY = "="
"""An empty segment of a path: between two slashes, before the first, behind the last."""


class _UnexpectedError(Exception):
    """An answer that nobody expected. Its body, which may repeat what was sent, is not part of it."""


class Space:
    """The paths of one tenant."""

    def __init__(self, tenant_id: str | None) -> None:
        tenant = arguments.encode_tenant(tenant_id)
        self.start = f"omnitck/tenants/{_segment(tenant)}/" if tenant else "omnitck/common/"

    def path(self, encoded: bytes) -> str:
        """Where a secret is."""
        return self.start + "/".join(_segment(each) for each in encoded.split(b"/"))

    def folder(self, encoded: bytes) -> str:
        """Where all secrets with a prefix are, and maybe others; it ends in a slash."""
        return self.path(encoded).rpartition("/")[0] + "/"

    def original(self, path: str) -> str | None:
        """The secret at *path*; None if `path` never wrote this."""
        segments = ["" if each == EMPTY else unescape(each) for each in path[len(self.start) :].split("/")]
        name = "/".join(each for each in segments if each is not None)
        return name if None not in segments and self.path(name.encode()) == path else None


def _segment(encoded: bytes) -> str:
    if encoded.strip(b".") == b"":
        return encoded.decode().replace(".", "=2E") or EMPTY
    return escape(encoded, "_.-")


SLOWEST = 8.0
"""Seconds that a request may take: two busy cores were seen to leave the server without an answer for 2.5."""


class OpenBaoSecrets(Client):
    """The secrets below one mount."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "write versioning list_prefix batch binary quiet_debug lifecycle validation shared availability limits".split()
    )
    # A control character takes six bytes in JSON, and an entry of the storage holds 1 MiB.
    limits: ClassVar[SecretLimits] = SecretLimits(key_bytes=128, value_bytes=131_072, page_size=50, batch_size=20)

    _unavailable = (OSError, TimeoutError, httpx.HTTPError, _UnexpectedError)

    def __init__(self, url: str, *, tenant_id: str | None = None, connections: int = 8) -> None:
        super().__init__(patience=SLOWEST)
        self._space = Space(tenant_id)
        endpoint, _, token = servers.split_url(url)
        self._http = httpx.AsyncClient(
            base_url=f"{endpoint}/v1/{MOUNT}/",
            headers={"X-Vault-Token": token},
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            timeout=None,  # `Client` has the one that counts
            trust_env=False,
            verify=_tls(),
        )

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None) -> Self:
        """A client of the server at *url*, whose password is the token."""
        return cls(url, tenant_id=tenant_id)

    async def get(self, name: str, *, version: str | None = None) -> str:
        """The secret's newest value, or that of *version*."""
        content = await self._content(name) if version is None else await self._version(name, version)
        return text_of(name, content)

    async def get_bytes(self, name: str) -> bytes:
        """The secret's bytes."""
        return (await self._content(name)).data

    async def set(self, name: str, value: str) -> str:
        """Create or replace the secret; the id of the version."""
        path = self._path(name)
        body = {"data": fields_of(arguments.encode_text(name, value, self.limits))}
        answer = await self._call(f"set {name!r}", self._ask("POST", f"data/{path}", json=body))
        return _id(answer["data"])

    async def delete(self, name: str) -> None:
        """Remove the secret with its metadata, hence all versions."""
        path = self._path(name)
        await self._call(f"delete {name!r}", self._ask("DELETE", f"metadata/{path}"))

    async def list_versions(self, name: str) -> list[str]:
        """The ids of all versions that are neither deleted nor destroyed."""
        path = self._path(name)
        answer = await self._call(f"list_versions {name!r}", self._ask("GET", f"metadata/{path}"))
        versions = answer["data"]["versions"] if answer else {}
        if not _is_there(versions.get(str(answer["data"]["current_version"])) if answer else None):
            raise _absent(name)

        numbers = sorted((int(number) for number, each in versions.items() if _is_there(each)), reverse=True)
        return [_id({**versions[str(number)], "version": number}) for number in numbers]

    async def list_names(self, prefix: str = "") -> AsyncIterator[str]:
        """Every name with *prefix*: the folders below the last slash in it are listed one after another."""
        folders = [self._space.folder(arguments.encode_prefix(prefix, self.limits))]
        while folders:
            folder = folders.pop()
            answer = await self._call(f"list_names {prefix!r}", self._ask("LIST", f"metadata/{folder}"))
            for each in answer["data"]["keys"] if answer else ():
                if each.endswith("/"):
                    folders.append(folder + each)
                    continue
                name = self._space.original(folder + each)
                if name is not None and name.startswith(prefix):
                    yield name

    async def get_many(self, names: Iterable[str]) -> dict[str, str]:
        """Each of *names* with its value: there is a request for each, a few at a time."""
        self._check_open()
        paths = {name: self._path(name) for name in names}
        found: dict[str, Content | None] = {}
        for chunk in arguments.chunks(paths, self.limits.batch_size):
            contents = await self._call(f"get_many of {len(chunk)}", together(self._read(paths[name]) for name in chunk))
            found |= zip(chunk, contents, strict=True)
        return texts_of(found)

    def _path(self, name: object) -> str:
        return self._space.path(arguments.encode_key(name, self.limits))

    async def _content(self, name: str) -> Content:
        path = self._path(name)
        found = await self._call(f"get {name!r}", self._read(path))
        if found is None:
            raise _absent(name)
        return found

    async def _version(self, name: str, version: object) -> Content:
        path = self._path(name)
        if not isinstance(version, str):
            raise InvalidArgumentError(f"the version of {name!r} is {type(version).__name__}, not str")

        number = re.match("[1-9][0-9]{0,9}(?=@)", version)  # else the newest is asked for, which has another id
        found = await self._call(f"get {name!r}", self._read(path, number[0] if number else "0", version))
        if found is None:
            raise SecretNotFoundError(f"secret {name!r} has no version {version!r}")
        return found

    async def _read(self, path: str, number: str = "0", id: str | None = None) -> Content | None:
        answer = await self._ask("GET", f"data/{path}", params={"version": number})
        data = answer["data"] if answer else None
        # Marked as deleted, it comes with its metadata and without fields.
        if data is None or data["data"] is None or id not in (None, _id(data["metadata"])):
            return None
        return _content_of(data["data"])

    async def _ask(self, method: str, path: str, **request: Any) -> Any:
        """The answer to one request as JSON; None if there is no such thing, or nothing to say."""
        response = await self._http.request(method, path, **request)
        if response.status_code in (401, 403):
            raise PermissionDeniedError("the backend refused the credentials") from _UnexpectedError(
                f"HTTP {response.status_code}"
            )
        if response.status_code in (204, 404):
            return None
        if response.status_code == 200:
            try:
                return response.json()
            except ValueError:
                pass
        raise _UnexpectedError(f"HTTP {response.status_code}")  # here, where no decoder's error is its context

    async def _release(self) -> None:
        await self._http.aclose()


@functools.cache
def _tls() -> ssl.SSLContext:
    """One for all clients: reading the authorities takes longer than a hundred requests."""
    return ssl.create_default_context()


def fields_of(content: bytes) -> dict[str, str]:
    """The fields of a secret."""
    try:
        return {"value": content.decode()}
    except UnicodeDecodeError:
        return {"value": base64.b64encode(content).decode(), "encoding": "base64"}


def _content_of(fields: Mapping[str, object]) -> Content:
    value = fields.get("value")
    if isinstance(value, str) and "encoding" not in fields:
        return Content(value.encode())
    if isinstance(value, str) and fields["encoding"] == "base64":
        try:
            return Content(base64.b64decode(value, validate=True))
        except binascii.Error:
            pass
    del fields, value
    raise _UnexpectedError("a secret without the field `value`, or of an unknown encoding")


def _id(metadata: Mapping[str, object]) -> str:
    return f"{metadata['version']}@{metadata['created_time']}"


def _is_there(version: Mapping[str, Any] | None) -> bool:
    """Whether a version can be read, from its metadata; a deletion may be one to come."""
    if version is None or version["destroyed"]:
        return False
    return not version["deletion_time"] or datetime.fromisoformat(version["deletion_time"]) > datetime.now(UTC)


def _absent(name: str) -> SecretNotFoundError:
    return SecretNotFoundError(f"secret {name!r} does not exist")


async def make_store(*, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object) -> OpenBaoSecrets:
    """A client of the example's own server, or of the one at ``OMNITCK_VAULT_URL``."""
    return await OpenBaoSecrets.connect(await servers.connect_info(servers.openbao, address), tenant_id=tenant_id)

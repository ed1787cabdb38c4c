"""`object_storage` on obstore, its names and errors put into those of the contract, and nothing else.

So the suites show what an application meets that takes the library for a portable store. It has no type for most of what
`production` asks for, so `lifecycle`, `validation`, `availability`, `limits` are not declared; nor are `checksum` and
`versioning`, which its functions do not take, and `presigned_url`, which only its stores in the cloud have.
"""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import obstore
from obstore.exceptions import AlreadyExistsError as Exists
from obstore.exceptions import PreconditionError
from obstore.store import LocalStore, MemoryStore

from omnitck.shared.exceptions import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    ObjectNotFoundError,
)
from omnitck.shared.models import ObjectInfo, ObjectLimits, Prefix

__all__ = ["ObstoreLocal", "ObstoreMemory"]

PART = 5 * 2**20  # what its `put` uploads at once of a stream


class _Translated:
    """Turns the exceptions of obstore into those of the contract."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        match error:
            case FileNotFoundError():
                raise ObjectNotFoundError(f"{self.what}: there is no such object") from error
            case Exists():
                raise AlreadyExistsError(f"{self.what}: there is one") from error
            case PreconditionError():
                raise ConflictError(f"{self.what}: another etag") from error
            case ValueError() | TypeError():
                raise InvalidArgumentError(f"{self.what}: {type(error).__name__}") from error


class _Obstore:
    """One store of obstore."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "stat list_prefix streaming range_read hierarchy copy batch_delete shared".split()
    )
    limits: ClassVar[ObjectLimits] = ObjectLimits(value_bytes=2**30, part_bytes=PART, page_size=50)  # 50: of its `list`

    def __init__(self, store: MemoryStore | LocalStore) -> None:
        self._store = store

    async def upload(self, key: str, data: bytes | AsyncIterable[bytes]) -> ObjectInfo:
        return await self._put(key, data, {})

    async def download(self, key: str, *, start: int = 0, end: int | None = None) -> bytes:
        with _Translated(f"download {key!r}"):
            if end is not None:
                return bytes(await obstore.get_range_async(self._store, key, start=start, end=end))
            options: Any = {"range": {"offset": start}} if start else {}
            return bytes(await (await obstore.get_async(self._store, key, options=options)).bytes_async())

    @asynccontextmanager
    async def download_stream(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[AsyncIterator[bytes]]:
        options: Any = {"range": {"offset": start}} if start else {}
        if end is not None:
            options = {"range": (start, end)}
        with _Translated(f"download {key!r}"):
            result = await obstore.get_async(self._store, key, options=options)

        async def chunks() -> AsyncIterator[bytes]:
            async for chunk in result.stream(min_chunk_size=PART):
                yield bytes(chunk)

        yield chunks()

    async def stat(self, key: str) -> ObjectInfo:
        with _Translated(f"stat {key!r}"):
            return _info(await obstore.head_async(self._store, key))

    async def delete(self, key: str) -> None:
        with _Translated(f"delete {key!r}"):
            await obstore.delete_async(self._store, key)

    async def delete_many(self, keys: Iterable[str]) -> None:
        wanted = list(keys)
        with _Translated(f"delete_many {wanted!r}"):
            await obstore.delete_async(self._store, wanted)

    async def list_objects(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        with _Translated(f"list_objects {prefix!r}"):
            async for page in obstore.list(self._store, prefix or None):
                for meta in page:
                    yield _info(meta)

    async def list_level(self, prefix: str = "") -> AsyncIterator[ObjectInfo | Prefix]:
        with _Translated(f"list_level {prefix!r}"):
            result = await obstore.list_with_delimiter_async(self._store, prefix or None)
        for name in result["common_prefixes"]:
            yield Prefix(f"{name}/")
        for meta in result["objects"]:
            yield _info(meta)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        with _Translated(f"copy {source!r} to {target!r}"):
            await obstore.copy_async(self._store, source, target)
            return _info(await obstore.head_async(self._store, target))

    async def _put(self, key: str, data: bytes | AsyncIterable[bytes], options: dict[str, Any]) -> ObjectInfo:
        with _Translated(f"upload {key!r}"):
            # Of a stream 12 parts would be under way at once, in memory all of them where the disk is slower than the source.
            await obstore.put_async(self._store, key, data, max_concurrency=1, **options)
            return _info(await obstore.head_async(self._store, key))


class ObstoreLocal(_Obstore):
    """Its store in a directory. Conditions on an etag and attributes are not implemented there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(LocalStore(folder, mkdir=True))


class ObstoreMemory(_Obstore):
    """Its store in memory, which has conditions and attributes."""

    capabilities = _Obstore.capabilities | {"conditional_write", "metadata"}

    async def upload(
        self,
        key: str,
        data: bytes | AsyncIterable[bytes],
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> ObjectInfo:
        attributes = {**(metadata or {}), **({} if content_type is None else {"Content-Type": content_type})}
        options: dict[str, Any] = {"attributes": attributes} if attributes else {}
        if if_absent and if_match is not None:
            raise InvalidArgumentError(f"upload {key!r}: there is one `mode`, not two")
        if if_absent:
            options["mode"] = "create"
        elif if_match is not None:
            options["mode"] = {"e_tag": if_match}
        return await self._described(key, await self._put(key, data, options))

    async def stat(self, key: str) -> ObjectInfo:
        return await self._described(key, await super().stat(key))

    async def _described(self, key: str, info: ObjectInfo) -> ObjectInfo:
        """*info* with the attributes, which only an answer to `get` has."""
        with _Translated(f"stat {key!r}"):
            attributes = dict((await obstore.get_async(self._store, key, options={"head": True})).attributes)
        content_type = attributes.pop("Content-Type", None)
        return ObjectInfo(
            info.key, info.size, info.etag, info.last_modified, content_type=content_type, metadata=attributes, version=None
        )


def _info(meta: Any) -> ObjectInfo:
    return ObjectInfo(meta["path"], meta["size"], meta["e_tag"] or "", meta["last_modified"])

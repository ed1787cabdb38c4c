"""`object_storage` on Amazon S3, and on what speaks its protocol, through aiobotocore.

All objects are in one bucket that keeps versions. A key is ``<folder>/<tenant>/<key>`` with each part escaped, so that S3 and
its likenesses hold what they cannot: S3 refuses some keys with ``..``, SeaweedFS stores ``x//y`` as ``x/y``. What is no digit
and no letter of ASCII is written with two hexadecimal digits behind a mark that sorts as the character itself does, and a ``!``
ends it: `a/b` is ``a-2Fb!``. This is injective, keeps prefixes, and keeps the order, also where one key begins with another:
SeaweedFS sorts the folders of the versions, ``a.versions``. ``-2F`` is then what divides levels; S3 takes any text.

- *Answers* of `upload` come from asking for the version that it made, so they are never those of another write.
- *Streams* travel in parts of `limits.part_bytes`: a large one is a multipart upload, which is aborted if anything goes wrong.
- *Content types* and *metadata* that a header would change (S3 trims them, SeaweedFS drops an empty one) are escaped. S3
  makes up a type where none was given: a name of metadata that no name of the caller can be escaped to tells so.
- *Checksums* are compared here, before the last part leaves: moto ignores ``ChecksumSHA256``.
- A condition on a *multipart* upload is the server's too, but moto ignores ``If-Match`` there.
"""

import asyncio
import base64
import contextlib
import hashlib
import math
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from datetime import UTC
from typing import Any, ClassVar, Literal, Self
from urllib.parse import quote, unquote

from aiobotocore.config import AioConfig

from examples import servers
from examples.aws.client import AWSClient, code_of, status_of
from examples.common import arguments, objects
from omnitck.shared.exceptions import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    ObjectNotFoundError,
    TCKError,
    UnavailableError,
)
from omnitck.shared.models import ObjectInfo, ObjectLimits, Prefix

__all__ = ["BUCKET", "S3ObjectStorage", "create_bucket", "escape", "make_store", "unescape"]

BUCKET = "omnitck"
PART = 5 * 2**20
"""The shortest part of a multipart upload that S3 takes, unless it is the last."""
MOST_PARTS = 10_000
CHUNK = 256 * 1024
SLASH = "-2F"
END = "!"
NO_TYPE = ".t"
"""The name of metadata that tells what the header ``Content-Type`` cannot."""
METADATA_BYTES = 2048
TENANT = 120
"""Characters of a tenant's id, beyond which its digest takes its place."""
CONFLICTS = 10
"""How often S3 may answer that it could not decide a condition."""

CONFIG = AioConfig(
    s3={"addressing_style": "path"},
    signature_version="s3v4",  # or a presigned URL is of the old kind
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
)


def escape(name: bytes) -> str:
    """*name* in digits, letters and ``-=_~``, in the order of the bytes."""

    def mark(found: re.Match[bytes]) -> bytes:
        byte = found[0]
        return (b"-" if byte < b"0" else b"=" if byte < b"A" else b"_" if byte < b"a" else b"~") + b"%02X" % byte[0]

    return re.sub(rb"[^0-9A-Za-z]", mark, name).decode()


def unescape(name: str) -> bytes:
    """What was escaped to *name*."""
    return re.sub(rb"[-=_~]([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), name.encode())


def encode_header(text: str) -> str:
    """*text* as a header that nobody changes: escaped, behind ``=``, unless it is plain."""
    return text if re.fullmatch("(?!=)[!-~]+( [!-~]+)*", text) else f"={quote(text, safe='')}"


def decode_header(text: str) -> str:
    """What was encoded to *text*."""
    return unquote(text[1:]) if text.startswith("=") else text


def encode_name(name: str) -> str:
    """A name of metadata as the end of a header's name; ``.`` is the empty one."""
    return re.sub(rb"[^a-z0-9-]", lambda found: b".%02x" % found[0][0], name.encode()).decode() or "."


def decode_name(name: str) -> str:
    """The name that was encoded to *name*."""
    name = name.lower()
    if name == ".":
        return ""
    return re.sub(rb"\.([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), name.encode()).decode(errors="replace")


class S3ObjectStorage(AWSClient):
    """The objects in *bucket*, which `create_bucket` made."""

    service = "s3"
    capabilities: ClassVar[frozenset[str]] = frozenset(
        "stat list_prefix streaming range_read metadata conditional_write checksum hierarchy ordered_list copy presigned_url "
        "versioning batch_delete lifecycle validation shared availability limits".split()
    )

    def __init__(
        self,
        client: Any,
        stack: contextlib.AsyncExitStack,
        bucket: str,
        tenant_id: str | None = None,
        *,
        folder: str = "",
        page_size: int = 1000,
        part_bytes: int = PART,
    ) -> None:
        super().__init__(client, stack, patience=4.0)
        tenant = escape(arguments.encode_tenant(tenant_id))
        if len(tenant) > TENANT:
            tenant = f"={hashlib.sha256(tenant.encode()).hexdigest()}"  # no escaped id begins like this: "=" and lower case
        self._bucket = bucket
        self._deciding = asyncio.Lock()
        self._space = f"{escape(folder.encode())}/{f't{tenant}' if tenant else 'n'}/"
        self.limits = ObjectLimits(
            key_bytes=256,  # escaped, with what is before it: at most 1024
            value_bytes=part_bytes * MOST_PARTS,
            part_bytes=part_bytes,
            page_size=page_size,
            batch_size=page_size,
            max_presign=604_800,
        )

    @classmethod
    async def connect(cls, url: str, *, bucket: str = BUCKET, tenant_id: str | None = None, **options: Any) -> Self:
        """A client of *bucket* on the server at *url*; that it is missing shows in the first operation."""
        arguments.encode_tenant(tenant_id)
        return await cls.open(url, bucket, tenant_id, config=CONFIG, **options)

    async def upload(
        self,
        key: str,
        data: bytes | AsyncIterable[bytes],
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
        if_match: str | None = None,
        sha256: bytes | None = None,
    ) -> ObjectInfo:
        """Store the content: in one request if it is short, else as a multipart upload."""
        what, name = f"upload {key!r}", self._name(key)
        described = _described(key, objects.describe(key, content_type, metadata))
        objects.check_condition(key, if_absent, if_match)
        objects.check_digest(key, sha256)
        condition = {"IfNoneMatch": "*"} if if_absent else {"IfMatch": if_match} if if_match is not None else {}
        async with aclosing(objects.parts(key, data, self.limits.part_bytes, self.limits, sha256)) as parts:
            part, last = await anext(parts)
            if last:
                if sha256 is not None:
                    described["ChecksumSHA256"] = base64.b64encode(sha256).decode()
                made = await self._decided(what, key, condition, "put_object", Key=name, Body=part, **described)
            else:
                first = [part]
                del part  # of which only the upload may know, that it can be let go
                made = await self._upload_parts(what, key, name, first, parts, described, condition)
        return await self._stat(what, key, made.get("VersionId"))

    async def download(self, key: str, *, start: int = 0, end: int | None = None, version: str | None = None) -> bytes:
        """The content of *version* from *start* to *end*."""
        objects.check_version(key, version)
        name = self._name(key)
        objects.check_range(key, start, end)
        async with self._stream(f"download {key!r}", key, name, start, end, version) as chunks:
            return b"".join([chunk async for chunk in chunks])

    def download_stream(
        self, key: str, *, start: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The content from *start* to *end*, as it was on entering, in chunks."""
        name = self._name(key)
        objects.check_range(key, start, end)
        return self._stream(f"download {key!r}", key, name, start, end, None)

    async def stat(self, key: str) -> ObjectInfo:
        """What the headers say."""
        self._name(key)
        return await self._stat(f"stat {key!r}", key, None)

    async def delete(self, key: str) -> None:
        """Put a delete marker over the object; its versions stay."""
        await self._ask(f"delete {key!r}", "delete_object", Key=self._name(key))

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Delete all *keys*, as many in a request as S3 takes."""
        self._check_open()
        names = {self._space + escape(key) + END: key.decode() for key in objects.encode_keys(keys, self.limits)}
        failed: list[str] = []
        for chunk in arguments.chunks(names, self.limits.batch_size):
            wanted = {"Objects": [{"Key": name} for name in chunk], "Quiet": True}
            answer = await self._ask(f"delete_many of {len(names)} keys", "delete_objects", Delete=wanted)
            failed += [names[error["Key"]] for error in answer.get("Errors", ()) if error.get("Code") != "NoSuchKey"]
        if failed:
            raise UnavailableError(f"delete_many: these are still there: {failed!r}")

    async def list_objects(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Every object under *prefix*, in the order of the keys."""
        async for entry in self._list(f"list_objects {prefix!r}", prefix):
            if isinstance(entry, ObjectInfo):
                yield entry

    async def list_level(self, prefix: str = "") -> AsyncIterator[ObjectInfo | Prefix]:
        """The objects and the prefixes one level below *prefix*, page by page."""
        async for entry in self._list(f"list_level {prefix!r}", prefix, Delimiter=SLASH):
            yield entry

    async def copy(self, source: str, target: str) -> ObjectInfo:
        """Let S3 copy the object. A copy onto itself, which S3 refuses, is what is there."""
        what, origin, name = f"copy {source!r} to {target!r}", self._name(source), self._name(target)
        if origin == name:
            return await self._stat(what, target, None)
        try:
            made = await self._ask(what, "copy_object", Key=name, CopySource={"Bucket": self._bucket, "Key": origin})
        except UnavailableError as error:
            if code_of(error.__cause__) in ("NoSuchKey", "NoSuchVersion") or status_of(error.__cause__) == 404:
                raise ObjectNotFoundError(f"there is no object {source!r}") from error.__cause__
            raise
        return await self._stat(what, target, made.get("VersionId"))

    async def presign(self, key: str, *, method: Literal["GET", "PUT"] = "GET", expires: float) -> str:
        """A URL for *expires* seconds, rounded up: S3 counts whole ones."""
        name = self._name(key)
        objects.check_expires(key, method, expires, self.limits)
        self._check_open()
        operation = "get_object" if method == "GET" else "put_object"
        wanted = {"Bucket": self._bucket, "Key": name}
        return str(await self._aws.generate_presigned_url(operation, Params=wanted, ExpiresIn=math.ceil(expires)))

    def _name(self, key: object) -> str:
        return self._space + escape(arguments.encode_key(key, self.limits)) + END

    async def _ask(self, what: str, operation: str, **arguments: Any) -> Any:
        """The answer to one request for the bucket, whose absence is told apart."""
        try:
            return await self._request(what, operation, Bucket=self._bucket, **arguments)
        except UnavailableError as error:
            if code_of(error.__cause__) == "NoSuchBucket":
                raise NotFoundError(f"there is no bucket {self._bucket!r}") from error.__cause__
            raise

    async def _decided(self, what: str, key: str, condition: dict[str, Any], operation: str, **arguments: Any) -> Any:
        """The answer to a request that stores if *condition* holds; asked again where S3 could not decide it."""
        if not condition:
            return await self._ask(what, operation, **arguments)
        # One after another, or this client's own tasks are each other's conflicts. Patience begins with the turn.
        async with self._deciding:
            return await self._decide(what, key, condition, operation, **arguments)

    async def _decide(self, what: str, key: str, condition: dict[str, Any], operation: str, **arguments: Any) -> Any:
        for _ in range(CONFLICTS):
            try:
                return await self._ask(what, operation, **arguments, **condition)
            except UnavailableError as error:
                cause = error.__cause__
                if status_of(cause) == 412 or ("IfMatch" in condition and code_of(cause) == "NoSuchKey"):
                    if "IfMatch" in condition:
                        raise ConflictError(f"{key!r} does not have the expected etag") from cause
                    raise AlreadyExistsError(f"there is an object {key!r}") from cause
                if status_of(cause) != 409:
                    raise
                undecided = error
            await asyncio.sleep(0.01)
        raise undecided

    async def _upload_parts(
        self,
        what: str,
        key: str,
        name: str,
        first: list[bytes],
        rest: AsyncIterator[tuple[bytes, bool]],
        described: dict[str, Any],
        condition: dict[str, Any],
    ) -> Any:
        """Store the *first* part and the *rest*, one after another, and keep none; nothing is stored before the last."""
        made = await self._ask(what, "create_multipart_upload", Key=name, **described)
        upload = {"Key": name, "UploadId": made["UploadId"]}
        finished: list[dict[str, Any]] = []

        async def send(part: bytes) -> None:
            number = len(finished) + 1
            answer = await self._ask(what, "upload_part", PartNumber=number, Body=part, **upload)
            finished.append({"PartNumber": number, "ETag": answer["ETag"]})

        try:
            await send(first.pop())
            async for part, _ in rest:
                await send(part)
                del part
            return await self._decided(
                what, key, condition, "complete_multipart_upload", MultipartUpload={"Parts": finished}, **upload
            )
        except BaseException:
            if not self._closed:
                self._start(self._abort(upload))  # a task of its own, since the caller may be cancelled; `close` ends it
            raise

    async def _abort(self, upload: dict[str, Any]) -> None:
        with contextlib.suppress(*self._unavailable):
            await self._aws.abort_multipart_upload(Bucket=self._bucket, **upload)

    async def _stat(self, what: str, key: str, version: str | None) -> ObjectInfo:
        wanted = {"VersionId": version} if version else {}
        try:
            head = await self._ask(what, "head_object", Key=self._name(key), **wanted)
        except UnavailableError as error:
            raise await self._absence(what, key, error) from error.__cause__

        content_type, metadata = _read_description(head)
        return ObjectInfo(
            key=key,
            size=head["ContentLength"],
            etag=head["ETag"],
            last_modified=head["LastModified"].astimezone(UTC),
            content_type=content_type,
            metadata=metadata,
            version=head.get("VersionId"),
        )

    async def _absence(self, what: str, key: str, error: UnavailableError) -> TCKError:
        """What *error* means, the answer to a request for an object. Without a body it does not tell what is missing."""
        cause = error.__cause__
        if code_of(cause) in ("NoSuchKey", "NoSuchVersion", "MethodNotAllowed") or status_of(cause) == 405:
            return ObjectNotFoundError(f"there is no object {key!r}, or not this version of it")
        if status_of(cause) != 404:
            return error
        try:
            await self._request(what, "head_bucket", Bucket=self._bucket)
        except UnavailableError as second:
            if status_of(second.__cause__) == 404:
                return NotFoundError(f"there is no bucket {self._bucket!r}")
            return second
        return ObjectNotFoundError(f"there is no object {key!r}")

    @asynccontextmanager
    async def _stream(
        self, what: str, key: str, name: str, start: int, end: int | None, version: str | None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        wanted = {} if version is None else {"VersionId": version}
        if version == "":
            raise ObjectNotFoundError(f"there is no object {key!r} of this version")
        if start == end:
            await self._check_start(what, key, start, wanted)
            yield _nothing()
            return
        if start > 0 or end is not None:
            wanted["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        try:
            body = (await self._ask(what, "get_object", Key=name, **wanted))["Body"]
        except UnavailableError as error:
            if status_of(error.__cause__) != 416:
                raise await self._absence(what, key, error) from error.__cause__
            wanted.pop("Range", None)
            await self._check_start(what, key, start, wanted)
            yield _nothing()
            return
        try:
            async with aclosing(self._chunks(what, body)) as chunks:
                yield chunks
        finally:
            body.close()

    async def _check_start(self, what: str, key: str, start: int, wanted: Mapping[str, str]) -> None:
        info = await self._stat(what, key, wanted.get("VersionId"))
        objects.check_end(key, start, info.size)

    async def _chunks(self, what: str, body: Any) -> AsyncGenerator[bytes, None]:
        async def read() -> bytes:
            return bytes(await body.read(CHUNK))

        while chunk := await self._call(what, read()):
            yield chunk

    async def _list(self, what: str, prefix: str, **options: str) -> AsyncIterator[ObjectInfo | Prefix]:
        start = self._space + escape(arguments.encode_prefix(prefix, self.limits))
        token: dict[str, str] = {}
        last = ""
        while True:
            page = await self._ask(what, "list_objects_v2", Prefix=start, MaxKeys=self.limits.page_size, **options, **token)
            for name, entry in _merged(page):
                key = unescape(name[len(self._space) :].removesuffix(END)).decode()
                if entry is None:
                    if key != last:  # S3 names it once, its likenesses again if its keys reach over the end of a page
                        yield Prefix(key)
                    last = key
                else:
                    yield ObjectInfo(key, entry["Size"], entry["ETag"], entry["LastModified"].astimezone(UTC))
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}


def _merged(page: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any] | None]]:
    """The objects and prefixes of a page in one order."""
    entries: dict[str, Mapping[str, Any] | None] = {entry["Key"]: entry for entry in page.get("Contents", ())}
    entries |= {entry["Prefix"]: None for entry in page.get("CommonPrefixes", ())}
    return sorted(entries.items())


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def _described(key: object, described: objects.Described) -> dict[str, Any]:
    """The headers that keep a description."""
    headers = {encode_name(name): encode_header(value) for name, value in described.metadata.items()}
    content_type = described.content_type
    if content_type is None:
        headers[NO_TYPE] = "-"
    elif (encoded := encode_header(content_type)) != content_type:
        headers[NO_TYPE] = encoded
    if sum(len(name) + len(value) for name, value in headers.items()) > METADATA_BYTES:
        raise InvalidArgumentError(f"the metadata of {key!r} has more than {METADATA_BYTES} bytes")
    return {"ContentType": "application/octet-stream" if NO_TYPE in headers else content_type, "Metadata": headers}


def _read_description(head: Mapping[str, Any]) -> objects.Described:
    headers = {name.lower(): value for name, value in head.get("Metadata", {}).items()}
    kept = headers.pop(NO_TYPE, None)
    content_type = head.get("ContentType") if kept is None else None if kept == "-" else decode_header(kept)
    return objects.Described(content_type, {decode_name(name): decode_header(value) for name, value in headers.items()})


def create_bucket(url: str, bucket: str = BUCKET) -> None:
    """Create the bucket with versions, unless it is there; several processes may do so at once."""

    async def create() -> None:
        async with await S3ObjectStorage.connect(url, bucket=bucket) as client:
            try:
                await client._ask("create the bucket", "create_bucket")
            except UnavailableError as error:
                if code_of(error.__cause__) not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise
            await client._ask("keep versions", "put_bucket_versioning", VersioningConfiguration={"Status": "Enabled"})

    asyncio.run(create())


async def make_store(
    *,
    start: Any = servers.moto,
    bucket: str = BUCKET,
    tenant_id: str | None = None,
    address: tuple[str, int] | None = None,
    namespace: str = "",
    **config: object,
) -> S3ObjectStorage:
    """A client of the example's own server, or of the one at ``OMNITCK_AWS_URL``; each *namespace* is a folder of the bucket."""
    url = await servers.connect_info(start, address, prepare=create_bucket)
    return await S3ObjectStorage.connect(url, bucket=bucket, tenant_id=tenant_id, folder=namespace, page_size=10)

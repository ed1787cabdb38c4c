"""What the adapter of the local file system does when the disk does not."""

import contextlib
import errno
import os
import resource
import tempfile
import unittest
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

from examples.local_files.object_storage import NAME, LocalObjectStorage, file_name, key_of
from omnitck.instruments.corpus import NAMES
from omnitck.shared.exceptions import (
    ConflictError,
    NotFoundError,
    ObjectNotFoundError,
    PermissionDeniedError,
    UnavailableError,
)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


class LocalFiles(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name, "root")
        self.root.mkdir()

    def files(self, below: str = "*") -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob(below) if path.is_file())

    @contextlib.contextmanager
    def failing(self, name: str, number: int) -> Iterator[None]:
        """Let the call *name* of the system fail with the error *number*."""

        def fail(*args: object, **options: object) -> None:
            raise OSError(number, os.strerror(number))

        with mock.patch(f"examples.local_files.object_storage.os.{name}", fail):
            yield

    async def refused(self, kind: type[Exception], work: Callable[[], object]) -> Exception:
        with self.assertRaises(kind) as caught:
            await work()  # type: ignore[misc]
        return caught.exception


class TestNames(unittest.TestCase):
    def test_a_name_is_its_keys_alone_whatever_the_file_system_folds(self) -> None:
        keys = [text.encode() for text in NAMES.values()] + [b"a/b", b"a", b"a+", b"A", b"=2f", b"/"]
        names = [file_name(key) for key in keys]
        self.assertEqual(len({name.casefold() for name in names}), len(set(keys)))
        self.assertEqual([key_of(name) for name in names], keys)

    def test_a_name_keeps_prefixes_and_is_in_a_small_alphabet(self) -> None:
        self.assertTrue(file_name("é/x".encode()).startswith(file_name("é".encode())))
        self.assertRegex(file_name(bytes(range(1, 256))), r"\A[a-z0-9=_-]+\Z")


class TestObjects(LocalFiles):
    async def test_a_long_key_is_several_short_names(self) -> None:
        async with LocalObjectStorage(self.root) as store:
            keys = ["é/" * 300 + end for end in "ab"]
            for key in keys:
                await store.upload(key, key.encode())
            self.assertEqual([info.key async for info in store.list_objects("é/" * 299)], keys)
            self.assertLessEqual(max(len(part) for path in self.files() for part in path.split("/")), NAME + 1)
            await store.delete_many(keys)
        self.assertEqual(self.files(), [])
        self.assertEqual(list((self.root / "n" / "objects").iterdir()), [])

    async def test_no_link_is_followed(self) -> None:
        outside = self.root.parent / "outside"
        outside.write_bytes(b"outside")
        async with LocalObjectStorage(self.root) as store:
            await store.upload("a", b"")
            link = self.root / "n" / "objects" / "link"
            link.symlink_to(outside)
            await self.refused(UnavailableError, lambda: store.download("link"))
            await store.upload("link", b"inside")
            self.assertEqual(await store.download("link"), b"inside")
        self.assertEqual(outside.read_bytes(), b"outside")

    async def test_what_a_source_raises_leaves_nothing(self) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield b"x" * 1_000_000
            raise ZeroDivisionError

        async with LocalObjectStorage(self.root) as store:
            await store.upload("key", b"old")
            await self.refused(ZeroDivisionError, lambda: store.upload("key", broken()))
            self.assertEqual(await store.download("key"), b"old")
        self.assertEqual(self.files(), ["n/objects/key"])

    async def test_a_condition_is_checked_in_the_step_that_stores(self) -> None:
        async with LocalObjectStorage(self.root) as first, LocalObjectStorage(self.root) as second:
            etag = (await first.upload("key", b"old")).etag

            async def slow() -> AsyncIterator[bytes]:
                yield b"slow"
                await second.upload("key", b"quick", if_match=etag)

            await self.refused(ConflictError, lambda: first.upload("key", slow(), if_match=etag))
            self.assertEqual(await second.download("key"), b"quick")


class TestTheDisk(LocalFiles):
    async def test_a_full_disk_keeps_the_old_object_and_leaves_no_file(self) -> None:
        async with LocalObjectStorage(self.root) as store:
            await store.upload("key", b"old")
            real = os.write

            def full(number: int, data: bytes) -> int:
                if len(data) > 1000:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(number, data)

            with mock.patch("examples.local_files.object_storage.os.write", full):
                for data in (b"x" * 2000, chunks(b"x" * 100, b"x" * 2000)):
                    error = await self.refused(UnavailableError, partial(store.upload, "key", data))
                    self.assertEqual(error.__cause__.errno, errno.ENOSPC)  # type: ignore[union-attr]
                    self.assertIn("'key'", str(error))
            self.assertEqual(await store.download("key"), b"old")
        self.assertEqual(self.files(), ["n/objects/key"])

    async def test_a_limit_of_the_system_is_met_in_the_middle_of_a_file(self) -> None:
        async with LocalObjectStorage(self.root) as store:
            await store.upload("key", b"old")
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
            try:
                await self.refused(UnavailableError, lambda: store.upload("key", b"x" * 200_000))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            self.assertEqual(await store.download("key"), b"old")
        self.assertEqual(self.files(), ["n/objects/key"])

    async def test_a_disk_that_fails_at_the_last_moment_keeps_the_old_object(self) -> None:
        async with LocalObjectStorage(self.root) as store:
            await store.upload("key", b"old")
            for call in ("fsync", "utime", "replace"):
                with self.failing(call, errno.EIO):
                    await self.refused(UnavailableError, lambda: store.upload("key", b"new"))
                self.assertEqual(await store.download("key"), b"old")
        self.assertEqual(self.files(), ["n/objects/key"])

    async def test_a_disk_that_only_reads_says_so(self) -> None:
        async with LocalObjectStorage(self.root) as store:
            await store.upload("key", b"old")
            for number in (errno.EROFS, errno.EACCES):
                with self.failing("replace", number):
                    error = await self.refused(PermissionDeniedError, lambda: store.upload("key", b"new"))
                self.assertIsInstance(error.__cause__, PermissionError)
            self.assertEqual(await store.download("key"), b"old")

    async def test_a_missing_root_is_no_missing_object(self) -> None:
        self.root.rmdir()
        async with LocalObjectStorage(self.root) as store:
            for work in (
                lambda: store.upload("key", b""),
                lambda: store.download("key"),
                lambda: store.stat("key"),
                lambda: store.delete("key"),
                lambda: store.delete_many(["key"]),
                lambda: store.copy("key", "other"),
                lambda: anext(store.list_objects()),
                lambda: anext(store.list_level()),
            ):
                self.assertNotIsInstance(await self.refused(NotFoundError, work), ObjectNotFoundError)
        self.assertFalse(self.root.exists())

    async def test_a_file_that_is_no_object_is_not_taken_for_one(self) -> None:
        async with LocalObjectStorage(self.root) as store:
            await store.upload("key", b"old")
            (self.root / "n" / "objects" / "other").write_bytes(b"other")
            await self.refused(UnavailableError, lambda: store.download("other"))


if __name__ == "__main__":
    unittest.main()

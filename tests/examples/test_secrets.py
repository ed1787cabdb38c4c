"""What the examples' adapters of secrets do on their own: what no rule of the standard provokes."""

import asyncio
import os
import tempfile
import traceback
import unittest
from collections.abc import Callable
from pathlib import Path

from examples.common.secrets import Content, escape, texts_of, unescape
from examples.local_files.secrets import LocalFileSecrets, file_name, mount_of
from examples.local_files.secrets_kubelet import Mount
from omnitck.shared.exceptions import InvalidArgumentError, SecretNotFoundError, TCKError, UnavailableError


class Names(unittest.TestCase):
    def test_escaping_is_undone(self) -> None:
        for text in ("a/b", "a=b", "=", "=2F", "\u00e9\U0001f511", "..", "a b", ""):
            self.assertEqual(unescape(escape(text.encode(), "_.-")), text)

    def test_what_was_never_escaped_is_told_apart(self) -> None:
        for text in ("a=", "a=2", "a=2f", "a=FF", "\u00e9"):
            self.assertIsNone(unescape(text), text)

    def test_a_content_is_not_shown(self) -> None:
        self.assertNotIn("hunter2", repr(Content(b"hunter2")))

    def test_an_error_about_one_shows_no_other(self) -> None:
        found = {"a": Content(b"hunter2"), "b": Content(b"hunter3\xff")}
        for content, name in ((None, "'c'"), (Content(b"\xff"), "'b'")):
            with self.assertRaisesRegex(TCKError, name) as caught:
                texts_of({**found, "c": content})
            report = traceback.TracebackException.from_exception(caught.exception, capture_locals=True)
            self.assertNotIn("hunter", "".join(report.format()))


class MountedFiles(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.directory = Path(folder.name).resolve()
        self.mount = mount_of(self.directory, None)

    async def asyncSetUp(self) -> None:
        self.secrets = await LocalFileSecrets.connect(self.directory)
        self.addAsyncCleanup(self.secrets.close)

    async def test_a_plain_directory_is_a_mount(self) -> None:
        self.mount.mkdir()
        (self.mount / "db_password").write_bytes(b"secret\n")
        self.assertEqual(await self.secrets.get("db_password"), "secret\n")
        self.assertEqual([name async for name in self.secrets.list_names()], ["db_password"])

    async def test_nothing_outside_the_mount_is_read(self) -> None:
        self.mount.mkdir()
        outside = self.directory / "outside"
        outside.write_text("not yours")
        (self.mount / "link").symlink_to(outside)
        (self.mount / "relative").symlink_to("../outside")
        self.mount.with_name("common-too").mkdir()
        (self.mount.with_name("common-too") / "x").write_text("a neighbour, whose path begins like the mount's")
        (self.mount / "neighbour").symlink_to("../common-too/x")
        for name in ("link", "relative", "neighbour", "../outside", str(outside), "../common-too/x"):
            with self.assertRaises(SecretNotFoundError):
                await self.secrets.get(name)
        self.assertEqual([name async for name in self.secrets.list_names()], [])

    async def test_what_is_no_ordinary_file_is_absent(self) -> None:
        self.mount.mkdir()
        (self.mount / "folder").mkdir()
        os.mkfifo(self.mount / "pipe")
        for name in ("folder", "pipe"):
            with self.assertRaises(SecretNotFoundError):
                await asyncio.wait_for(self.secrets.get(name), 5)
        self.assertEqual([name async for name in self.secrets.list_names()], [])

    async def test_without_its_mount_no_secret_is_missing(self) -> None:
        with self.assertRaises(UnavailableError):
            await self.secrets.get("x")

    async def test_a_batch_is_of_one_turn(self) -> None:
        mount = Mount(self.mount)
        mount.change({file_name(b"user"): b"0", file_name(b"password"): b"0"})

        def rotate() -> None:
            for number in range(1, 60):
                mount.change({file_name(b"user"): b"%d" % number, file_name(b"password"): b"%d" % number})

        rotation = asyncio.create_task(asyncio.to_thread(rotate))
        while not rotation.done():
            try:
                pair = await self.secrets.get_many(["user", "password"])
            except UnavailableError:
                continue  # this rotates faster than any orchestrator
            self.assertEqual(pair["user"], pair["password"])
        await rotation
        self.assertEqual(await self.secrets.get("user"), "59")

    async def test_a_watcher_that_can_no_longer_look_does_not_fall_silent(self) -> None:
        self.mount.mkdir()
        secret, broken = self.mount / "x", self.directory / "broken"
        broken.write_bytes(b"no text \xff")
        cases: tuple[tuple[Callable[[], object], type[TCKError]], ...] = (
            (lambda: broken.replace(secret), InvalidArgumentError),  # at once: an empty file would be a change too
            (lambda: self.mount.rename(self.directory / "unmounted"), UnavailableError),
        )
        for change, expected in cases:
            secret.write_text("text")
            async with self.secrets.watch("x") as values:
                change()
                with self.assertRaises(expected):
                    await asyncio.wait_for(anext(values), 5)

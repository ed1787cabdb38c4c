"""The lines of a worker, and those that are none."""

import io
import unittest
from unittest import mock

from omnitck.certifying.channel import LAST, Reader, Writer

SECRET = b"0" * 32


def written(*events: dict[str, object], secret: bytes = SECRET, number: int = 0) -> list[bytes]:
    """The lines that a writer makes of *events*."""
    stream = io.BytesIO()
    writer = Writer(stream, secret, number)
    for each in events:
        writer.write(each)
    return [each for each in stream.getvalue().split(b"\n") if each]


class TestChannel(unittest.TestCase):
    def test_what_is_written_is_read(self) -> None:
        events: list[dict[str, object]] = [{"event": "began", "text": "\udcff\n \0"}, {"event": "done"}]
        reader = Reader(SECRET)
        self.assertEqual([reader.read(each + b"\n") for each in written(*events)], events)

    def test_nothing_else_is_read(self) -> None:
        genuine = written({"event": "began"})[0]
        for line in (
            b"",
            b'{"event": "done"}',
            b'0 {"event": "done"}',
            written({"event": "done"}, secret=b"1" * 32)[0],
            genuine.replace(b"began", b"done"),
            genuine[:-5],
            b"debug: " + genuine,
            b"\xff" * 100,
        ):
            with self.subTest(line):
                self.assertIsNone(Reader(SECRET).read(line))

    def test_nothing_is_read_twice_nor_in_another_order(self) -> None:
        first, second = written({"event": "began"}, {"event": "done"})
        reader = Reader(SECRET)
        self.assertEqual(reader.read(second), {"event": "done"})
        self.assertIsNone(reader.read(second))
        self.assertIsNone(reader.read(first))

    def test_nothing_follows_the_last(self) -> None:
        reader = Reader(SECRET)
        self.assertEqual(reader.read(written({"event": "died"}, number=LAST)[0]), {"event": "died"})
        self.assertIsNone(reader.read(written({"event": "done"}, number=1000)[0]))

    def test_what_others_wrote_without_an_end_stays_apart(self) -> None:
        stream = io.BytesIO()
        writer = Writer(stream, SECRET)
        stream.write(b"debug: ")
        writer.write({"event": "done"})
        reader = Reader(SECRET)
        read = [reader.read(each) for each in stream.getvalue().splitlines() if each]
        self.assertEqual(read, [None, {"event": "done"}])

    def test_a_forked_copy_writes_nothing(self) -> None:
        stream = io.BytesIO()
        writer = Writer(stream, SECRET)
        with mock.patch("os.getpid", return_value=1 << 22):
            writer.write({"event": "done"})
        self.assertEqual(stream.getvalue(), b"")

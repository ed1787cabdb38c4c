"""What mounts secrets into a container, as Kubernetes' kubelet does it: the other side of `examples.local_files.secrets`.

The files of a mount are in a folder with a time in its name, to which the link `..data` leads; each visible name is a link
through `..data`. A change makes a new folder, turns `..data` by one `rename`, and removes the old folder: all files change at
once, and a reader may find that the folder is gone that it was about to open.
"""

import itertools
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

__all__ = ["Mount"]


class Mount:
    """One mounted volume of secrets."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder: Path | None = None
        self._files: set[str] = set()
        self._asked: dict[str, bytes | None] = {}
        self._turns = itertools.count()
        self._asking, self._lock = threading.Lock(), threading.Lock()
        path.mkdir(parents=True)
        self._turn({})

    def change(self, files: Mapping[str, bytes | None]) -> None:
        """Put *files* into the mount; None removes one. What is asked for meanwhile comes with the next turn, all at once."""
        with self._asking:
            self._asked.update(files)
        with self._lock:
            with self._asking:
                asked, self._asked = self._asked, {}
            if asked:
                self._turn(asked)

    def _turn(self, changes: Mapping[str, bytes | None]) -> None:
        folder = self.path / f"..{time.strftime('%Y_%m_%d_%H_%M_%S')}.{next(self._turns)}"
        folder.mkdir()
        old, before = self._folder, self._files
        for name in before - changes.keys():
            os.link(f"{old}/{name}", f"{folder}/{name}")  # kubelet writes it again, which is the same to a reader
        for name, content in changes.items():
            if content is not None:
                (folder / name).write_bytes(content)

        turned = self.path / "..data_tmp"
        turned.symlink_to(folder.name)
        turned.rename(self.path / "..data")
        after = (before - changes.keys()) | {name for name, content in changes.items() if content is not None}
        for name in after - before:
            (self.path / name).symlink_to(f"..data/{name}")
        for name in before - after:
            (self.path / name).unlink()
        for name in before:
            os.unlink(f"{old}/{name}")
        if old is not None:
            old.rmdir()
        self._folder, self._files = folder, after

"""Certifies obstore as it is, and says what it deviates in."""

import shutil
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import ClassVar
from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.object_storage import ObjectStorageContract

with servers.installed():
    from obstore.store import MemoryStore

    from examples.obstore.object_storage import ObstoreLocal, ObstoreMemory

PATH = "a key is a path: `//`, `.`, `..` and control characters are a ValueError, and a slash at either end is dropped"
SEGMENTS = "the prefix of a listing is a path: it finds what is below that folder, and not the keys that begin with that text"
RANGE = "a range without bytes, or beyond the end, is a ValueError or a GenericError, and a negative bound an OverflowError"
BOTH = {
    "OB-COM-20": PATH,
    "MT-06": SEGMENTS,
    "MT-07": PATH,
    "MT-20": PATH,
    "OB-02": SEGMENTS,
    "OB-04": f"{PATH}: so `d/x/` is `d/x`",
    "OB-08": SEGMENTS,
    "OB-09": SEGMENTS,
    "OB-11": SEGMENTS,
    "OB-12": PATH,
    "OB-13": f"{PATH}; nothing outside is reached",
    "OB-22": RANGE,
    "OB-23": RANGE,
}
"""What its stores differ in wherever the objects are."""


class TestObstoreMemory(ObjectStorageContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    """Each tenant has a store of its own: the library knows no tenants."""

    distribution = "obstore"
    where = "in memory"
    capabilities = ObstoreMemory
    known_deviations: ClassVar[dict[str, str]] = {
        **BOTH,
        "OB-COM-17": "a bytearray is taken as it is and not copied: changing it changes the stored object",
        "OB-10": f"{SEGMENTS}; {PATH}",
        "OB-20": "the objects are in this process, so that memory grows with them: the chunks of a stream are kept as they are",
        "OB-26": "names of metadata keep their case, and two that differ in case alone are kept both",
        "OB-31": SEGMENTS,
        "OB-32": f"{PATH}; {SEGMENTS}",
        "OB-34": f"{SEGMENTS}, which a random walk meets first",
    }

    def setUp(self) -> None:
        self.stores: dict[tuple[str, str | None], MemoryStore] = {}

    async def make_provider(self, *, tenant_id: str | None = None, namespace: str = "", **config: object) -> ObstoreMemory:
        return ObstoreMemory(self.stores.setdefault((namespace, tenant_id), MemoryStore()))


class TestObstoreLocal(ObjectStorageContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    """Each tenant has a folder of its own."""

    distribution = "obstore"
    where = "in files"
    capabilities = ObstoreLocal
    known_deviations: ClassVar[dict[str, str]] = {
        **BOTH,
        "MT-22": "deleting several objects of which one is absent is a FileNotFoundError",
        "OB-05": "deleting an absent object is a FileNotFoundError, unlike in memory and on S3",
        "OB-10": "an object `a` is a file, and so nothing can be stored as `a/b`",
        "OB-14": "an object `a` is a file, and so nothing can be stored as `a/b`, nor `a` where there is `a/b`",
        "OB-31": "deleting several objects of which one is absent is a FileNotFoundError",
        "OB-32": "an object `a` is a file, and so nothing can be stored as `a/b`",
        "OB-34": "deleting an absent object is a FileNotFoundError, which a random walk meets first",
    }

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="omnitck-obstore-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    async def make_provider(self, *, tenant_id: str | None = None, namespace: str = "", **config: object) -> ObstoreLocal:
        tenant = "none" if tenant_id is None else sha256(tenant_id.encode()).hexdigest()
        return ObstoreLocal(self.folder / namespace / tenant)

"""Certifies the adapter of mounted secret files."""

import asyncio
import atexit
import ctypes
import os
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import IsolatedAsyncioTestCase

from examples.local_files.secrets import LocalFileSecrets, file_name, mount_of
from examples.local_files.secrets_kubelet import Mount
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.secrets import SecretsContract
from omnitck.shared.exceptions import UnsupportedError

NOBODY = 65534

_folder = Path(tempfile.mkdtemp(prefix="omnitck-secrets-"))
atexit.register(shutil.rmtree, _folder, ignore_errors=True)

_mounts: dict[Path, Mount] = {}
_lock = threading.Lock()


def mount(namespace: str, tenant_id: str | None) -> Mount:
    """The volume of a tenant, mounted before its container starts."""
    with _lock:
        path = mount_of(_folder / namespace, tenant_id)
        if path not in _mounts:
            _mounts[path] = Mount(path)
        return _mounts[path]


def be_nobody() -> None:
    """Let this thread open files as an ordinary user: root may read everything."""
    ctypes.CDLL(None).setfsuid(NOBODY)


class TestLocalFileSecrets(SecretsContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    capabilities = LocalFileSecrets

    async def make_provider(
        self, *, namespace: str = "", tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> LocalFileSecrets:
        if address is not None:
            raise UnsupportedError("files have no address to connect to")
        mount(namespace, tenant_id)
        return await LocalFileSecrets.connect(_folder / namespace, tenant_id=tenant_id)

    async def unreachable_provider(self) -> LocalFileSecrets:
        return await LocalFileSecrets.connect(_folder / "never-mounted")

    async def unauthorized_provider(self, *, namespace: str = "") -> LocalFileSecrets:
        """A user whose mount is another user's."""
        directory = mount(namespace, None).path
        directory.chmod(0)
        self.addCleanup(directory.chmod, 0o700)
        initializer = be_nobody if os.geteuid() == 0 else None
        return LocalFileSecrets(_folder / namespace, executor=ThreadPoolExecutor(2, initializer=initializer))

    async def provision(self, name: str, value: str | bytes, *, tenant_id: str | None = None, namespace: str = "") -> None:
        content = value.encode() if isinstance(value, str) else value
        await asyncio.to_thread(mount(namespace, tenant_id).change, {file_name(name.encode()): content})

    async def revoke(self, name: str, *, tenant_id: str | None = None, namespace: str = "") -> None:
        await asyncio.to_thread(mount(namespace, tenant_id).change, {file_name(name.encode()): None})

    async def cut(self, *, namespace: str = "") -> None:
        """The volume is unmounted."""
        (_folder / namespace).rename(_folder / f"{namespace}-unmounted")

    async def heal(self, *, namespace: str = "") -> None:
        unmounted = _folder / f"{namespace}-unmounted"
        if unmounted.exists():
            unmounted.rename(_folder / namespace)

"""Certifies the adapter of AWS Secrets Manager, on moto."""

import asyncio
import threading
from typing import Any
from unittest import IsolatedAsyncioTestCase
from urllib.parse import urlsplit

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.secrets import SecretsContract
from omnitck.shared.exceptions import InvalidArgumentError

with servers.installed():
    import botocore.session

    from examples.aws.secrets import AWSSecrets, Space, make_store

_operators: dict[str, Any] = {}
_lock = threading.Lock()


def operator(url: str) -> Any:
    """botocore's own client, of whoever fills the vault: made once, and safe in all threads."""
    with _lock:
        if url not in _operators:
            endpoint, access_key, secret_key = servers.split_url(url)
            _operators[url] = botocore.session.Session().create_client(
                "secretsmanager",
                region_name="us-east-1",
                endpoint_url=endpoint,
                aws_access_key_id=access_key,
                aws_secret_access_key=secret_key,
            )
        return _operators[url]


class TestAWSSecrets(servers.OnServer, SecretsContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.moto
    capabilities = AWSSecrets
    patience = 4.0  # moto answers one request at a time, in Python: with 16 rules at once each has a small part of it

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> AWSSecrets:
        return await make_store(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> AWSSecrets:
        return await make_store(address=("127.0.0.1", 1))

    async def unauthorized_provider(self) -> AWSSecrets:
        """With a wrong key, for a moto that looks at it; every other one lets everybody in."""
        parts = urlsplit(await servers.connect_info(servers.strict_moto))
        stranger = parts._replace(netloc=f"STRANGER:wrong-key@{parts.netloc.rpartition('@')[2]}")
        return await AWSSecrets.connect(stranger.geturl())

    async def provision(self, name: str, value: str | bytes, *, tenant_id: str | None = None) -> None:
        await asyncio.to_thread(self._provision, Space(tenant_id).name(name.encode()), value)

    async def revoke(self, name: str, *, tenant_id: str | None = None) -> None:
        id = Space(tenant_id).name(name.encode())
        await asyncio.to_thread(lambda: operator(self.server.url).delete_secret(SecretId=id, ForceDeleteWithoutRecovery=True))

    def _provision(self, id: str, value: str | bytes) -> None:
        if not value:
            raise InvalidArgumentError("the service has no empty secrets")

        client = operator(self.server.url)
        content = {"SecretBinary" if isinstance(value, bytes) else "SecretString": value}
        try:
            client.put_secret_value(SecretId=id, **content)
        except client.exceptions.ResourceNotFoundException:
            client.create_secret(Name=id, **content)

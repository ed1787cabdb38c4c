"""Certifies the adapter of OpenBao."""

from unittest import IsolatedAsyncioTestCase
from urllib.parse import urlsplit

from examples import servers
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.secrets import SecretsContract

with servers.installed():
    import httpx

    from examples.openbao.secrets import MOUNT, OpenBaoSecrets, Space, fields_of, make_store


class TestOpenBaoSecrets(servers.OnServer, SecretsContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.openbao
    capabilities = OpenBaoSecrets
    patience = 4.0  # as a request may take 8 s on a busy machine

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> OpenBaoSecrets:
        return await make_store(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> OpenBaoSecrets:
        return await make_store(address=("127.0.0.1", 1))

    async def unauthorized_provider(self) -> OpenBaoSecrets:
        parts = urlsplit(self.server.url)
        stranger = parts._replace(netloc=f":wrong-token@{parts.netloc.rpartition('@')[2]}")
        return await OpenBaoSecrets.connect(stranger.geturl())

    async def provision(self, name: str, value: str | bytes, *, tenant_id: str | None = None) -> None:
        content = value.encode() if isinstance(value, str) else value
        await self._operate("POST", "data", name, tenant_id, {"data": fields_of(content)})

    async def revoke(self, name: str, *, tenant_id: str | None = None) -> None:
        """As an operator does it: softly. The next `provision` makes a new version above the deleted one."""
        await self._operate("DELETE", "data", name, tenant_id)

    async def _operate(self, method: str, kind: str, name: str, tenant_id: str | None, body: object = None) -> None:
        endpoint, _, token = servers.split_url(self.server.url)
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=30) as http:
            path = f"{endpoint}/v1/{MOUNT}/{kind}/{Space(tenant_id).path(name.encode())}"
            (await http.request(method, path, headers={"X-Vault-Token": token}, json=body)).raise_for_status()

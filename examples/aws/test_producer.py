"""Certifies the adapter of AWS SQS as a producer, on moto."""

from unittest import IsolatedAsyncioTestCase

from examples import servers
from omnitck.messaging.producer import ProducerContract
from omnitck.policies.multi_tenancy import MultiTenancyPolicy

with servers.installed():
    from examples.aws.messaging import SQSMessaging, make_messaging


class TestSQSProducer(servers.OnServer, ProducerContract, MultiTenancyPolicy, IsolatedAsyncioTestCase):
    start = servers.moto
    patience = 4.0  # moto answers one request at a time, in Python: with 16 rules at once each has a small part of it
    capabilities = SQSMessaging

    async def make_provider(
        self, *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
    ) -> SQSMessaging:
        return await make_messaging(tenant_id=tenant_id, address=address)

    async def unreachable_provider(self) -> SQSMessaging:
        return await make_messaging(address=("127.0.0.1", 1))

    async def crash(self, client: SQSMessaging) -> None:
        await client.abandon()

"""How the reference of `consumer` is certified."""

from collections.abc import Mapping

from omnitck.messaging.consumer import ConsumerContract
from omnitck.reference import consumer, producer
from omnitck.selftest.reference import CREDENTIAL, BrokerHooks, Reference


class ReferenceSuite(BrokerHooks, ConsumerContract, Reference):
    """The reference of `consumer`, with every capability there is."""

    capabilities = consumer.CAPABILITIES
    provider = consumer.MemoryConsumer

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        tenant_id: str | None = None,
    ) -> object:
        publisher = producer.MemoryProducer(self.memory, tenant_id=tenant_id, password=CREDENTIAL)
        return await publisher.publish(topic, payload, key, headers)

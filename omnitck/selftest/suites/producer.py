"""How the reference of `producer` is certified."""

from omnitck.messaging.producer import ProducerContract
from omnitck.reference import producer
from omnitck.selftest.reference import BrokerHooks, Reference


class ReferenceSuite(BrokerHooks, ProducerContract, Reference):
    """The reference of `producer`, with every capability there is."""

    capabilities = producer.CAPABILITIES
    provider = producer.MemoryProducer

"""How the reference of `delayed_messaging` is certified."""

from omnitck.messaging.delayed_messaging import DelayedMessagingContract
from omnitck.reference import delayed_messaging
from omnitck.selftest.reference import BrokerHooks, Reference


class ReferenceSuite(BrokerHooks, DelayedMessagingContract, Reference):
    """The reference of `delayed_messaging`, with every capability there is."""

    capabilities = delayed_messaging.CAPABILITIES
    provider = delayed_messaging.MemoryDelayedPublisher

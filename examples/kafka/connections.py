"""What the adapter needs of aiokafka's clients beyond their own methods: a way through a gateway, and an end at once.

A broker tells its clients at which address each broker of the cluster is found, and there they go from then on. `Brokers` sends
them to a gateway instead, if there is one in front of a cluster of one broker, as a tunnel or a proxy is.
"""

import asyncio
import logging
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

__all__ = ["Brokers", "end", "sever"]

REQUEST = 5000
"""Milliseconds that a broker may take to answer; as long a message may wait for its batch to be accepted."""

JOINING = 10_000
"""Milliseconds that it may take to answer a consumer, whose question may be who else is in its group."""

ENDING = 1.0
"""Seconds that a client of aiokafka may take to end in good order."""

# What fails is raised or tried again. Without a handler Python would print each line that aiokafka logs meanwhile.
logging.getLogger("aiokafka").addHandler(logging.NullHandler())


class Brokers:
    """A cluster, and how to make clients of it."""

    def __init__(self, address: str, gateway: tuple[str, int] | None = None) -> None:
        self._address = address
        self._gateway = gateway

    def producer(self, **options: Any) -> AIOKafkaProducer:
        """A producer that was not started yet."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self._address,
            acks="all",
            enable_idempotence=False,  # the contract owes messages once at least, and not every broker can do more
            linger_ms=0,
            request_timeout_ms=REQUEST,
            **options,
        )
        self._lead(producer.client)
        return producer

    def consumer(self, **options: Any) -> AIOKafkaConsumer:
        """A consumer that was not started yet."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self._address, request_timeout_ms=JOINING, **options)
        self._lead(consumer._client)
        return consumer

    def _lead(self, client: Any) -> None:
        """Let *client* find every broker behind the gateway."""
        if self._gateway is not None:
            host, port = self._gateway
            told = client.cluster.broker_metadata

            def found(node: Any) -> Any:
                broker = told(node)
                return broker and broker._replace(host=host, port=port)

            client.cluster.broker_metadata = found


def _client(owner: Any) -> Any:
    return owner.client if isinstance(owner, AIOKafkaProducer) else owner._client


def sever(owner: Any) -> None:
    """Tear down the connections of a producer or consumer, which makes no others from now on."""

    async def nowhere(*_: object, **__: object) -> None:
        return None

    client = _client(owner)
    client._get_conn = nowhere
    for connection in client._conns.values():
        if connection._writer is not None:
            connection._writer.transport.abort()


async def end(owner: Any, *, told: bool = True) -> None:
    """End a producer or consumer; unless the broker is to be *told*, as if its process had been killed.

    No broker is told of a consumer's end: a member that leaves while another one joins makes the example's server forget to
    answer the other, and whoever joins that group later. One that is gone without a word is replaced when its session is over.
    """
    if not told or isinstance(owner, AIOKafkaConsumer):
        sever(owner)
    ending = asyncio.ensure_future(_stop(owner))
    try:
        await asyncio.wait([ending], timeout=ENDING)
    finally:
        if not ending.done():
            sever(owner)
            await asyncio.wait([ending], timeout=ENDING)
        ending.cancel()  # in vain, mostly
    await asyncio.gather(ending, return_exceptions=True)


async def _stop(owner: Any) -> None:
    try:
        await owner.stop()
    except asyncio.CancelledError:  # of a request of its own, for whose end it waited; what would follow is this
        if isinstance(owner, AIOKafkaConsumer) and owner._fetcher is not None:
            pending = list(owner._fetcher._pending_tasks)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        await _client(owner).close()

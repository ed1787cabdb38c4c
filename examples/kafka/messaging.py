"""`producer` and `consumer` on Kafka's protocol.

A topic of the application is one of Kafka's, with several partitions, made when it is first used. Messages with a key go to the
partition of that key, others to each partition in turn. A group of consumers is one of Kafka's for each of its topics, so that
nobody is interrupted because somebody comes to another topic.

- *subscribe* returns while the group still finds together, which takes as long as the broker lets it (3 s with Kafka's defaults,
  1 s with the example's server, and 4 s if a member has just gone from the group: see `end`). Nothing is missed meanwhile: a new
  group begins with the oldest message that the topic holds.
- *RETRY* keeps the message in hand: Kafka cannot take one back. So its attempts are counted by the member of the group that has
  it, and that count ends with the member, or when its partition goes to another: then it begins again.
- *A long handler* keeps its message as long as no member comes or goes; then it has `REBALANCING` seconds to end, or another
  member may get the message too.
- *ordering_by_key* holds within a partition, and each key has one, as long as nobody changes their number.

Not declared: *delivery_metadata*, because a message that comes again after a crash would claim to be new (its `message_id` and
`topic` can be relied on); *visibility_timeout*: it is the member of a group that expires, not a message; *deduplication*: Kafka
recognises only a request that its client repeats; *transactional_publish* and *atomic_batch*: Kafka has transactions, but the
example's server has none; *message_ttl*: messages expire with their topic's retention alone. *strict_topics*: topics are made
on use.
"""

import asyncio
import itertools
from collections import defaultdict
from functools import partial
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors
from aiokafka.protocol.admin import CreateTopicsRequest
from aiokafka.protocol.metadata import MetadataRequest

from examples import servers
from examples.common.consumers import Consumer, Wishes
from examples.common.messages import Message, place
from examples.kafka.connections import Brokers, end, sever
from examples.kafka.source import ENVELOPE, Members, PartitionsSource
from omnitck.shared.exceptions import TooLargeError
from omnitck.shared.models import MessageLimits

__all__ = ["KafkaMessaging", "make_messaging"]

PARTITIONS = 1
"""Of a topic that is made here. As many members of a group can have something to do."""

LARGEST = 1_000_000
"""Bytes of a message with everything around it; Kafka's default is a little more."""

SESSION = 2.0
"""Seconds without a sign of life after which a member of a group counts as gone. Kafka wants 6 at least, unless it is told
otherwise (`group.min.session.timeout.ms`)."""

LOOKS = 3
"""Times that a topic which was made is looked for, each as long as a broker may take to answer."""

WAITING = 100
"""Milliseconds that a broker keeps a question for messages while there are none. Kafka answers as soon as there are; the
example's server looks after half that time. And a partition whose messages were just read waits so long for the others."""

REBALANCING = 10.0
"""Seconds that a group waits for a member whose handlers are at work, when another member comes or goes."""


class KafkaMessaging(Consumer):
    """A producer and consumer of the cluster at *address*; *gateway* is where its only broker is reached, if that is elsewhere
    than where it says."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "message_ids batch_publish ordering_by_key "
        "stopping fan_out concurrency dead_letter nack_redelivery batch_consume "
        "lifecycle validation shared availability limits".split()
    )
    _unavailable = (OSError, TimeoutError, kafka_errors.KafkaError)
    _denied = (
        kafka_errors.TopicAuthorizationFailedError,
        kafka_errors.GroupAuthorizationFailedError,
        kafka_errors.ClusterAuthorizationFailedError,
    )

    def __init__(
        self,
        address: str,
        tenant_id: str | None = None,
        *,
        gateway: tuple[str, int] | None = None,
        partitions: int = PARTITIONS,
        replicas: int = 1,
        session: float = SESSION,
    ) -> None:
        super().__init__(tenant_id)
        self._brokers = Brokers(address, gateway)
        self._partitions = partitions
        self._replicas = replicas
        self._session = session
        self.limits = MessageLimits(
            key_bytes=256,
            value_bytes=2**19,
            headers=64,
            batch_size=500,
            ttl_resolution=0.1,
            deliver=5.0,  # a group finds together in 4.2 s if a member has just gone from it
            settle=0.0 if partitions == 1 else 0.5,
            redeliver=3 * session,
        )
        self._producer: AIOKafkaProducer | None = None
        self._opening = asyncio.Lock()
        self._topics: set[str] = set()
        self._turns: defaultdict[str, itertools.cycle[int]] = defaultdict(lambda: itertools.cycle(range(self._partitions)))
        self._sources: set[PartitionsSource] = set()
        self._resting: dict[str, PartitionsSource] = {}
        """Sources whose subscriptions have ended, by group."""

    @classmethod
    async def connect(cls, address: str, *, tenant_id: str | None = None, **options: Any) -> Self:
        """A client of the cluster at *address*; that it cannot be reached shows in the first operation."""
        return cls(address, tenant_id, **options)

    # Publishing

    async def _send(self, message: Message) -> None:
        name = place(self._tenant, message.topic)
        await self._make(name)
        producer = await self._open()
        await self._check(producer.client)
        headers = [(ENVELOPE, message.envelope().encode())]
        if message.key is not None:
            where: dict[str, Any] = {"key": message.key.encode()}
        else:
            where = {"partition": next(self._turns[name])}
        for tries in reversed(range(LOOKS)):
            try:
                accepted = await producer.send(name, message.payload, headers=headers, **where)
                break
            except kafka_errors.MessageSizeTooLargeError as error:
                raise TooLargeError(f"topic {message.topic!r}: a message with its headers is above {LARGEST} bytes") from error
            except kafka_errors.UnknownTopicOrPartitionError:
                # The topic was made; a broker with much to do says so late, and nothing was sent meanwhile.
                if not tries:
                    raise
        await accepted

    async def _check(self, client: Any) -> None:
        """aiokafka would try again and again to reach a broker that is gone; here the caller decides."""
        if not await client.ready(client.get_random_node()):
            raise kafka_errors.NodeNotReadyError()

    async def _make(self, name: str) -> None:
        """Make the topic *name*, unless it is there."""
        if name in self._topics:
            return
        client = (await self._open()).client
        request = CreateTopicsRequest([(name, self._partitions, self._replicas, [], [])], 1000, False)
        answer = await client.send(client.cluster.controller.nodeId, request)
        for _, code, *reason in answer.topic_errors:
            if code not in (0, kafka_errors.TopicAlreadyExistsError.errno):
                raise kafka_errors.for_code(code)(*reason)
        self._topics.add(name)

    async def _open(self) -> AIOKafkaProducer:
        async with self._opening:
            if self._producer is None:
                producer = self._brokers.producer(max_request_size=LARGEST)
                try:
                    await producer.start()
                except BaseException:
                    await end(producer, told=False)
                    raise
                self._producer = producer
            return self._producer

    # Consuming

    async def _open_source(self, topic: str, wishes: Wishes) -> PartitionsSource:
        name, group = place(self._tenant, topic), place(self._tenant, topic, wishes.group)
        await self._make(name)
        resting = self._resting.pop(group, None)
        if resting is not None and resting.wake():
            try:
                await self._look(name)
            except BaseException:
                await resting.close()
                raise
            return resting

        members = Members()
        consumer = self._brokers.consumer(
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy=(members,),
            session_timeout_ms=int(self._session * 1000),
            heartbeat_interval_ms=int(self._session * 1000 / 5),
            rebalance_timeout_ms=int(REBALANCING * 1000),
            fetch_max_wait_ms=WAITING,
            max_partition_fetch_bytes=2 * LARGEST,
        )
        try:
            await consumer.start()
        except BaseException:
            await end(consumer, told=False)
            raise
        source = PartitionsSource(
            consumer, members, topic, name, 0.8 * REBALANCING, rested=partial(self._keep, group), ended=self._sources.discard
        )
        self._sources.add(source)
        return source

    async def _look(self, name: str) -> None:
        """Ask for *name*: nobody subscribes while the cluster is out of reach."""
        client = (await self._open()).client
        await client.send(client.get_random_node(), MetadataRequest([name]))

    def _keep(self, group: str, source: PartitionsSource) -> bool:
        """Whether *source* may rest until somebody subscribes again."""
        if self._closed or group in self._resting:
            return False
        self._resting[group] = source
        return True

    # The end

    async def _release(self) -> None:
        await asyncio.gather(*(each.end() for each in list(self._sources)))
        if self._producer is not None:
            await end(self._producer)

    def _abort(self) -> None:
        for each in (self._producer, *(source.consumer for source in self._sources)):
            if each is not None:
                sever(each)

    async def abandon(self) -> None:
        """End as if the process had been killed."""
        await super().abandon()
        await asyncio.gather(*(each.abandon() for each in list(self._sources)))
        if self._producer is not None:
            await end(self._producer, told=False)


async def make_messaging(
    *, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object
) -> KafkaMessaging:
    """A client of the example's own server, or of the one at ``OMNITCK_KAFKA_URL``."""
    url = await servers.connect_info(servers.kafka, address)
    return await KafkaMessaging.connect(urlsplit(url).netloc, tenant_id=tenant_id, gateway=address)

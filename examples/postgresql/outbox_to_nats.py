"""A relay from the outbox in PostgreSQL to NATS JetStream: ``python -m examples.postgresql.outbox_to_nats RELAY_ID``.

The id of an event is that of the message, by which the stream knows a repetition: within ten minutes it accepts it once.
"""

import argparse
import asyncio

from examples.common.outbox import Publish, serve
from examples.nats_jetstream.messaging import NATSMessaging, make_messaging
from examples.postgresql.transactional_outbox import make_outbox
from omnitck.shared.models import StoredEvent

__all__ = ["main", "publishing"]


def publishing(producer: NATSMessaging) -> Publish:
    """What publishes an event through *producer*."""

    async def publish(event: StoredEvent) -> str:
        topic, payload, id = event.destination_topic, event.payload, event.event_id
        return await producer.publish(topic, payload, event.message_key, event.headers, message_id=id)

    return publish


async def main(relay_id: str, tenant_id: str | None = None) -> None:
    """Run the relay of that name until the process is told to end."""
    async with await make_outbox(tenant_id=tenant_id) as outbox, await make_messaging(tenant_id=tenant_id) as producer:
        await serve(outbox.relay(publishing(producer), relay_id=relay_id))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m examples.postgresql.outbox_to_nats", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("relay_id", metavar="RELAY_ID", help="tells this relay from the others")
    parser.add_argument("--tenant", help="whose events; by default those without a tenant")
    chosen = parser.parse_args()
    asyncio.run(main(chosen.relay_id, chosen.tenant))

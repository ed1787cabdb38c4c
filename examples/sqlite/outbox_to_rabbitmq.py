"""A relay from an outbox in a SQLite file to RabbitMQ: ``python -m examples.sqlite.outbox_to_rabbitmq FILE RELAY_ID``.

A message bears the id of its event in the header `event-id`: RabbitMQ accepts a repetition, which a consumer knows by that.
"""

import argparse
import asyncio
from pathlib import Path

from examples.common.outbox import EVENT_ID, Publish, serve
from examples.rabbitmq.messaging import RabbitMQMessaging, make_messaging
from examples.sqlite.transactional_outbox import make_outbox
from omnitck.shared.models import StoredEvent

__all__ = ["main", "publishing"]


def publishing(producer: RabbitMQMessaging) -> Publish:
    """What publishes an event through *producer*."""

    async def publish(event: StoredEvent) -> str:
        headers = {**event.headers, EVENT_ID: event.event_id}
        return await producer.publish(event.destination_topic, event.payload, event.message_key, headers)

    return publish


async def main(path: Path, relay_id: str, tenant_id: str | None = None) -> None:
    """Run the relay of that name until the process is told to end."""
    async with await make_outbox(path=path, tenant_id=tenant_id) as outbox, await make_messaging(tenant_id=tenant_id) as producer:
        await serve(outbox.relay(publishing(producer), relay_id=relay_id))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m examples.sqlite.outbox_to_rabbitmq", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("path", metavar="FILE", type=Path, help="the file of the application")
    parser.add_argument("relay_id", metavar="RELAY_ID", help="tells this relay from the others")
    parser.add_argument("--tenant", help="whose events; by default those without a tenant")
    chosen = parser.parse_args()
    asyncio.run(main(chosen.path, chosen.relay_id, chosen.tenant))

"""A relay in a process of its own, which its test kills: ``python -m tests.examples.outbox_relay KIND RELAY_ID ...``.

With ``--hang-after N`` the publication of this number reaches the broker and never returns; later ones do not even begin. Then
the process says "hanging". With the kind ``transaction`` it says so once it has one open, in which everything is written.
"""

import argparse
import asyncio
import contextlib
from pathlib import Path
from typing import Any

from examples.common.outbox import Publish, serve
from examples.nats_jetstream.messaging import make_messaging as make_nats
from examples.postgresql import outbox_to_nats
from examples.postgresql.transactional_outbox import make_outbox as make_postgresql
from examples.rabbitmq.messaging import make_messaging as make_rabbitmq
from examples.sqlite import outbox_to_rabbitmq
from examples.sqlite.transactional_outbox import make_outbox as make_sqlite
from omnitck.shared.models import OutboxEvent, StoredEvent

LEASE = 3.0
BATCH = 20


def hanging(publish: Publish, after: int) -> Publish:
    """*publish*, which hangs in its call of this number and in each later one."""
    number = 0

    async def counted(event: StoredEvent) -> None:
        nonlocal number
        number += 1
        mine = number
        if mine <= after:
            await publish(event)
        if mine == after:
            print("hanging", flush=True)
        if mine >= after:
            await asyncio.Event().wait()

    return counted


async def main(kind: str, relay_id: str, tenant: str, path: Path | None, hang_after: int) -> None:
    """Run until told to end, or killed."""
    outbox: Any
    producer: Any
    async with contextlib.AsyncExitStack() as stack:
        outbox = await (make_sqlite(tenant_id=tenant, path=path) if path else make_postgresql(tenant_id=tenant))
        await stack.enter_async_context(outbox)
        if kind == "transaction":
            async with outbox.transaction() as tx:
                await tx.execute("INSERT INTO outbox_orders VALUES ('killed', 'value')")
                await outbox.save_event(OutboxEvent(destination_topic="orders", payload=b"", aggregate_key="killed"), tx=tx)
                print("hanging", flush=True)
                await asyncio.Event().wait()
        producer = await (make_rabbitmq(tenant_id=tenant) if path else make_nats(tenant_id=tenant))
        await stack.enter_async_context(producer)
        publish = (outbox_to_rabbitmq if path else outbox_to_nats).publishing(producer)
        if hang_after:
            publish = hanging(publish, hang_after)
        await serve(outbox.relay(publish, relay_id=relay_id, batch=BATCH, lease=LEASE))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["relay", "transaction"])
    parser.add_argument("relay_id")
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--path", type=Path)
    parser.add_argument("--hang-after", type=int, default=0)
    chosen = parser.parse_args()
    asyncio.run(main(chosen.kind, chosen.relay_id, chosen.tenant, chosen.path, chosen.hang_after))

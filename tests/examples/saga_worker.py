"""A worker with sagas, which a test kills: `python -m tests.examples.saga_worker BACKEND PLACE SAGA EFFECTS HANGING`.

It reserves, charges and ships, or rather fails to. Each effect is a line of the file EFFECTS, written before the worker hangs, if
HANGING names it.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from omnitck.shared.models import SagaContext, SagaStep

FAILING = "do ship"


def steps(effects: Path, hanging: str = "") -> list[SagaStep]:
    def effect(name: str) -> Any:
        async def act(context: SagaContext) -> None:
            with effects.open("a") as file:
                file.write(f"{name} {context.idempotency_key}\n")
            if name == hanging:
                await asyncio.Event().wait()
            if name == FAILING:
                raise RuntimeError("the lorry has broken down")

        return act

    return [SagaStep(name, effect(f"do {name}"), effect(f"undo {name}")) for name in ("reserve", "charge", "ship")]


def lines(effects: Path) -> list[str]:
    """The effects until now."""
    return effects.read_text().splitlines() if effects.exists() else []


@contextlib.asynccontextmanager
async def sagas(backend: str, place: str) -> AsyncIterator[Any]:
    """A client of the *backend* at *place*: a URL, or a folder."""
    match backend:
        case "postgresql":
            from examples.postgresql.sagas import PostgreSQLSagas

            async with await PostgreSQLSagas.connect(place) as client:
                yield client
        case "nats_jetstream":
            from examples.nats_jetstream.sagas import NATSSagas

            async with await NATSSagas.connect(place) as nats:
                yield nats
        case "valkey":
            from examples.valkey.sagas import ValkeySagas

            async with await ValkeySagas.connect(place) as valkey:
                yield valkey
        case "sqlite":
            from examples.sqlite.sagas import SQLiteSagas

            async with await SQLiteSagas.connect(Path(place, "sagas.sqlite")) as sqlite:
                yield sqlite
        case "dbos":
            from examples.dbos.sagas import DBOSSagas, launched

            # Launched in a thread without an event loop, DBOS has one of its own, in which it takes up what is resumed.
            engine = launched(Path(place, "dbos.sqlite"))
            await asyncio.to_thread(engine.__enter__)
            try:
                async with await DBOSSagas.connect(Path(place, "sagas.sqlite")) as dbos:
                    yield dbos
            finally:
                await asyncio.to_thread(engine.__exit__, None, None, None)


async def main(backend: str, place: str, saga_id: str, effects: str, hanging: str) -> None:
    async with sagas(backend, place) as client:
        await client.run(saga_id, steps(Path(effects), hanging), {"order": 7})


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

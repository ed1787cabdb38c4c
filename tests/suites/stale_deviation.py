"""A suite with a known deviation that is none any more: see `test_outcomes_are_equal`."""

from unittest import IsolatedAsyncioTestCase

from omnitck.primitives.kv_store import KVStoreContract
from tests.suites.every_outcome import PlainStore


class TestStale(KVStoreContract, IsolatedAsyncioTestCase):
    known_deviations = {"KV-03": "ACME-431"}

    async def make_provider(self, **config: object) -> PlainStore:
        return PlainStore()

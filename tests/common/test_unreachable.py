"""A client that looks for its backend when it is made says there what others say when they are asked."""

import unittest
from typing import Any, NoReturn

import anyio

from omnitck.kit.outcomes import Outcome, Status
from omnitck.primitives.kv_store import KVStoreContract
from omnitck.reference.kv_store import MemoryBackend, MemoryKVStore
from omnitck.shared.exceptions import UnavailableError
from tests.helpers import outcome_of

PASSWORD = "correct-horse"


class Suite(KVStoreContract):
    """A suite whose client connects when it is made."""

    capabilities = {"availability"}
    credentials = (PASSWORD,)

    async def make_provider(self, **config: Any) -> MemoryKVStore:
        return MemoryKVStore(MemoryBackend(), capabilities=self.declared)

    async def unreachable_provider(self) -> NoReturn:
        raise self.refusal() from self.cause()

    def refusal(self) -> Exception:
        return UnavailableError("the backend does not answer")

    def cause(self) -> Exception | None:
        return ConnectionRefusedError("connection refused")


def judged(method: str, **members: Any) -> Outcome:
    outcome, _ = outcome_of(type("Mine", (Suite, unittest.IsolatedAsyncioTestCase), members), method)
    return outcome


class TestUnreachable(unittest.TestCase):
    """COM-12 and COM-24, where connecting ends with what it should, or not."""

    def test_it_may_be_said_when_the_client_is_made(self) -> None:
        for method in ("test_com_12_an_unreachable_backend_is_said", "test_com_24_credentials_are_not_shown"):
            outcome = judged(method)
            self.assertEqual((outcome.outcome, outcome.message), (Status.PASSED, ""))

    def test_it_is_said_with_its_cause(self) -> None:
        outcome = judged("test_com_12_an_unreachable_backend_is_said", cause=lambda self: None)
        self.assertIs(outcome.outcome, Status.FAILED)
        self.assertIn("connecting to an unreachable backend", outcome.message)
        self.assertIn("UnavailableError: the backend does not answer without a __cause__", outcome.message)

    def test_it_is_said_in_time(self) -> None:
        async def hang(self: Any) -> None:
            await anyio.sleep_forever()

        outcome = judged("test_com_12_an_unreachable_backend_is_said", unreachable_provider=hang, patience=0.02)
        self.assertIs(outcome.outcome, Status.FAILED)
        self.assertIn("given     connecting to an unreachable backend", outcome.message)
        self.assertIn("observed  nothing within 0.1 s", outcome.message)

    def test_a_hook_that_fails_otherwise_is_no_failure_of_the_provider(self) -> None:
        outcome = judged("test_com_12_an_unreachable_backend_is_said", refusal=lambda self: OSError("no route"))
        self.assertIs(outcome.outcome, Status.ERROR)
        self.assertIn("unreachable_provider raised OSError: no route", outcome.message)

    def test_it_is_said_without_a_credential(self) -> None:
        outcome = judged(
            "test_com_24_credentials_are_not_shown", refusal=lambda self: UnavailableError(f"redis://:{PASSWORD}@host is down")
        )
        self.assertIs(outcome.outcome, Status.FAILED)
        self.assertIn("the error of an unreachable backend", outcome.message)

"""A suite whose module cannot be torn down."""

import unittest
from typing import Any

from tests.certifying.hostile import EchoContract, Honest


def tearDownModule() -> None:
    raise OSError("no disk")


class InModule(EchoContract, unittest.IsolatedAsyncioTestCase):
    async def make_provider(self, **config: Any) -> Any:
        return Honest()

"""Publishers of delayed messages: the reference on a clock of its own, and on trio."""

import importlib.util
import os
import unittest
from typing import Any

from omnitck.selftest.laws import reference_suite

no_trio = importlib.util.find_spec("trio") is None and not os.environ.get("OMNITCK_REQUIRE_BACKENDS")

TestDelayedMessaging: Any = reference_suite("delayed_messaging", __module__=__name__, __qualname__="TestDelayedMessaging")
TestDelayedMessagingOnTrio: Any = unittest.skipIf(no_trio, "trio is not installed")(
    reference_suite("delayed_messaging", __module__=__name__, __qualname__="TestDelayedMessagingOnTrio", backend="trio")
)

"""A suite with a declaration that is misspelt: see `test_one_verdict`."""

import unittest

from tests.suites.one_verdict import Suite


class TestMisspelt(Suite, unittest.IsolatedAsyncioTestCase):
    capabilites = {"ttl"}

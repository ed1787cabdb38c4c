"""The exceptions of the standard."""

import unittest

from omnitck.shared import exceptions
from omnitck.shared.exceptions import CircuitOpenError, TCKError


class TestExceptions(unittest.TestCase):
    def test_the_family_is_closed_and_has_one_root(self) -> None:
        family = {name: [base.__name__ for base in getattr(exceptions, name).__bases__] for name in exceptions.__all__}
        self.assertEqual(
            family,
            {
                "TCKError": ["Exception"],
                "NotFoundError": ["TCKError"],
                "ObjectNotFoundError": ["NotFoundError"],
                "SecretNotFoundError": ["NotFoundError"],
                "TopicNotFoundError": ["NotFoundError"],
                "ConflictError": ["TCKError"],
                "AlreadyExistsError": ["ConflictError"],
                "SagaNotFoundError": ["NotFoundError"],
                "SagaAlreadyExistsError": ["AlreadyExistsError"],
                "OutboxClaimLostError": ["ConflictError"],
                "LockNotAcquiredError": ["ConflictError"],
                "LockLostError": ["TCKError"],
                "SagaStateConflictError": ["ConflictError"],
                "InvalidArgumentError": ["TCKError", "ValueError"],
                "TooLargeError": ["InvalidArgumentError"],
                "UnsupportedError": ["TCKError"],
                "ClosedError": ["TCKError"],
                "PermissionDeniedError": ["TCKError"],
                "UnavailableError": ["TCKError"],
                "PublishError": ["UnavailableError"],
                "CircuitOpenError": ["TCKError"],
            },
        )

    def test_only_an_unavailable_backend_is_worth_a_retry(self) -> None:
        retryable = [name for name in exceptions.__all__ if getattr(exceptions, name).retryable]
        self.assertEqual(retryable, ["PublishError", "UnavailableError"])

    def test_whether_to_retry_can_be_said_of_one_error(self) -> None:
        error = TCKError("throttled")
        error.retryable = True
        self.assertEqual((error.retryable, TCKError("other").retryable), (True, False))

    def test_an_open_circuit_may_say_when_to_try_again(self) -> None:
        error = CircuitOpenError("orders", retry_after=2.5)
        self.assertEqual((str(error), error.retry_after), ("orders", 2.5))
        self.assertIsNone(CircuitOpenError().retry_after)

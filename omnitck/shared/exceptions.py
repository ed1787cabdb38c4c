"""The exceptions of the standard: one root, a short closed family.

A provider raises these and no others; what its backend raised stays reachable as ``__cause__``. An application that moves
between providers therefore keeps its ``except`` clauses.
"""

__all__ = [
    "AlreadyExistsError",
    "CircuitOpenError",
    "ClosedError",
    "ConflictError",
    "InvalidArgumentError",
    "LockLostError",
    "LockNotAcquiredError",
    "NotFoundError",
    "ObjectNotFoundError",
    "OutboxClaimLostError",
    "PermissionDeniedError",
    "PublishError",
    "SagaAlreadyExistsError",
    "SagaNotFoundError",
    "SagaStateConflictError",
    "SecretNotFoundError",
    "TCKError",
    "TooLargeError",
    "TopicNotFoundError",
    "UnavailableError",
    "UnsupportedError",
]


class TCKError(Exception):
    """Root of every exception that a provider raises on purpose."""

    retryable: bool = False
    """Whether the same call may succeed later, unchanged."""


class NotFoundError(TCKError):
    """The named thing does not exist, where the contract does not answer ``None``."""


class ObjectNotFoundError(NotFoundError):
    """No object is stored under this key."""


class SecretNotFoundError(NotFoundError):
    """No secret has this name."""


class TopicNotFoundError(NotFoundError):
    """No topic has this name, and the broker makes none."""


class SagaNotFoundError(NotFoundError):
    """No saga has this id."""


class ConflictError(TCKError):
    """A precondition did not hold: the item is stale, missing or already there. Nothing was changed."""


class AlreadyExistsError(ConflictError):
    """The item to create exists."""


class SagaAlreadyExistsError(AlreadyExistsError):
    """A saga has this id."""


class SagaStateConflictError(ConflictError):
    """The saga was changed since its state was read."""


class OutboxClaimLostError(ConflictError):
    """The lease of the claim has ended, and somebody else may have the event. Nothing was changed."""


class LockNotAcquiredError(ConflictError):
    """Somebody else holds the lock: what it guards was not begun."""


class LockLostError(TCKError):
    """The lease of the lock ended before what it guards did, which may have run beside that of another holder."""


class InvalidArgumentError(TCKError, ValueError):
    """An argument is outside the contract's domain. Nothing was changed."""


class TooLargeError(InvalidArgumentError):
    """A key or a value exceeds the provider's declared limits. Nothing was changed."""


class UnsupportedError(TCKError):
    """The operation or argument belongs to a capability that this provider does not declare."""


class ClosedError(TCKError):
    """The provider was closed; this client cannot be used again."""


class PermissionDeniedError(TCKError):
    """The credentials do not allow this operation."""


class UnavailableError(TCKError):
    """The backend did not answer, or could not be reached. The operation may or may not have happened."""

    retryable = True


class PublishError(UnavailableError):
    """The broker did not accept a message, or did not say that it has. The message may be delivered or not."""


class CircuitOpenError(TCKError):
    """The circuit breaker is open: the call was not made."""

    def __init__(self, *args: object, retry_after: float | None = None) -> None:
        super().__init__(*args)
        self.retry_after = retry_after
        """Seconds until the breaker will let a probe through, or None when it does not say."""

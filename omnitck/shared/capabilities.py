"""The words in which a provider says what it can do.

Some are known to every contract, and a profile demands them together; the others belong to one contract, whose module has a
protocol for each.
"""

from collections.abc import Mapping

__all__ = ["EVERYWHERE", "PRODUCTION", "PROFILES", "known_capabilities"]

PRODUCTION: Mapping[str, str] = {
    "lifecycle": "a client is closed, once and for all, and leaves nothing behind",
    "validation": "arguments that the contract does not allow are refused, nothing is done, and an error names what it is about",
    "shared": "several clients of one backend see one state",
    "availability": "without its backend an operation fails as it should, in time, and works again when the backend does",
    "limits": "the numbers that the provider declares hold, to the byte, and what is beyond them is refused",
}
"""The capabilities that every contract knows, and what each promises."""

PROFILES: Mapping[str, frozenset[str]] = {"core": frozenset(), "production": frozenset(PRODUCTION)}
"""The capabilities that a profile demands of every contract that has rules for them; a contract may demand more."""

_BY_CONTRACT: Mapping[str, str] = {
    "kv_store": "linearizable compare_and_set ttl list_prefix batch counter watch transaction binary",
    "secrets": "write versioning list_prefix batch watch binary quiet_debug",
    "object_storage": (
        "stat list_prefix streaming range_read metadata conditional_write checksum hierarchy ordered_list "
        "copy presigned_url versioning batch_delete"
    ),
    "cache": "add touch ttl_query get_or_set clear batch counter compare_and_set bounded binary",
    "document_database": (
        "query_operators nested_paths sort_page projection streaming update_operators upsert revision batch "
        "transaction datetime binary int64"
    ),
    "producer": (
        "message_ids batch_publish atomic_batch deduplication transactional_publish message_ttl strict_topics ordering_by_key"
    ),
    "consumer": (
        "stopping delivery_metadata fan_out concurrency dead_letter ordering_by_key nack_redelivery "
        "visibility_timeout batch_consume"
    ),
    "delayed_messaging": "cancel_scheduled absolute_time ordering_by_due_time long_delay",
    "transactional_outbox": ("transaction claim lease_renewal gapless_sequence fair parking retention outbox_relay inbox"),
    "sagas": "list_incomplete correlation saga_lease delete transactional compensation_execution",
    "distributed_lock": (
        "lease_renewal auto_renew fencing_token blocking_acquire fair loss_notification hold_at_least inspection"
    ),
    "circuit_breaker": (
        "sliding_window slow_call manual_control events half_open_timeout shared_state retry_after result_predicate"
    ),
}


def known_capabilities(contract: str) -> frozenset[str]:
    """Every capability that the standard knows under *contract*, a name such as `"kv_store"`. Raises LookupError."""
    return frozenset(_BY_CONTRACT[contract].split()) | PRODUCTION.keys()


EVERYWHERE: frozenset[str] = frozenset().union(*map(known_capabilities, _BY_CONTRACT))
"""Every capability of the standard, whatever its contract."""

"""The kit proves itself: references pass everything, and every defect fails exactly the rules that it names.

The laws: a reference passes every rule with every capability declared, without a skip; undeclaring a capability skips exactly its
rules; each defect *fails* (no error, no hang) the rules it names, and no other; each rule is failed by at least one defect; the
text of a failure holds the rule's id, what was expected and observed, and no credential.
"""

import asyncio
import multiprocessing
import os
import unittest
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

from omnitck.defects import Defect, defects_of
from omnitck.kit.contract import Contract, rules_of
from omnitck.kit.outcomes import Outcome, Status, listening
from omnitck.kit.text import UsageError
from omnitck.messaging.consumer import ConsumerContract
from omnitck.messaging.delayed_messaging import DelayedMessagingContract
from omnitck.messaging.producer import ProducerContract
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.cache import CacheContract
from omnitck.primitives.document_database import DocumentDatabaseContract
from omnitck.primitives.kv_store import KVStoreContract
from omnitck.primitives.object_storage import ObjectStorageContract
from omnitck.primitives.secrets import SecretsContract
from omnitck.reference import cache, consumer, delayed_messaging, document_database, kv_store, object_storage, producer, secrets
from omnitck.reference.broker import DEFAULT_GROUP, MemoryBroker
from omnitck.reference.client import Cell, MemoryClient, MemoryServer
from omnitck.shared.clock import ManualClock

__all__ = ["REFERENCES", "SelftestReport", "reference_suite", "selftest"]

CREDENTIAL = "correct-horse-battery-staple"


class _Reference(MultiTenancyPolicy):
    """A reference with a clock of its own, a password, and a backend that can be out of reach."""

    credentials = (CREDENTIAL,)
    patience = 0.5  # Nothing here waits for a network: a defect that hangs is known by 5 s.
    backend_type: ClassVar[type[MemoryServer]]
    provider: type[MemoryClient[Any]]

    def setUp(self) -> None:
        self.clock = ManualClock()
        self.memory = self.backend_type(clock=self.clock, password=CREDENTIAL)

    async def make_provider(self, *, tenant_id: str | None = None, **config: Any) -> MemoryClient[Any]:
        return self.provider(self.memory, tenant_id=tenant_id, password=CREDENTIAL, capabilities=self.declared)

    async def unreachable_provider(self) -> MemoryClient[Any]:
        return self.provider(self.backend_type(reachable=False), capabilities=self.declared)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)


class _KVStoreSuite(KVStoreContract, _Reference):
    capabilities = kv_store.CAPABILITIES
    backend_type = kv_store.MemoryBackend
    provider = kv_store.MemoryKVStore


class _SecretsSuite(SecretsContract, _Reference):
    capabilities = secrets.CAPABILITIES
    backend_type = secrets.MemorySecretsBackend
    provider = secrets.MemorySecrets
    memory: secrets.MemorySecretsBackend

    def setUp(self) -> None:
        super().setUp()
        self.memory.limits = replace(self.memory.limits, cache_seconds=30.0)

    async def provision(self, name: str, value: Any, *, tenant_id: str | None = None) -> None:
        self.memory.provision(name, value, tenant_id=tenant_id)

    async def revoke(self, name: str, *, tenant_id: str | None = None) -> None:
        self.memory.revoke(name, tenant_id=tenant_id)

    async def unauthorized_provider(self) -> MemoryClient[Any]:
        return self.provider(self.memory, password=CREDENTIAL, capabilities=self.declared, may_enter=False)

    async def cut(self) -> None:
        self.memory.reachable = False

    async def heal(self) -> None:
        self.memory.reachable = True


class _CacheSuite(CacheContract, _Reference):
    capabilities = cache.CAPABILITIES
    backend_type = cache.MemoryCacheBackend
    provider: type[Any] = cache.MemoryCache

    async def make_provider(self, *, tenant_id: str | None = None, namespace: str = "", **config: Any) -> Any:
        return self.provider(
            self.memory, tenant_id=tenant_id, namespace=namespace, password=CREDENTIAL, capabilities=self.declared
        )


class _ObjectStorageSuite(ObjectStorageContract, _Reference):
    capabilities = object_storage.CAPABILITIES
    backend_type = object_storage.MemoryObjectBackend
    provider: type[object_storage.MemoryObjectStorage] = object_storage.MemoryObjectStorage
    memory: object_storage.MemoryObjectBackend

    async def make_provider(self, *, tenant_id: str | None = None, namespace: str = "", **config: Any) -> MemoryClient[Any]:
        self.memory.containers.add(namespace)
        return self.provider(
            self.memory, container=namespace, tenant_id=tenant_id, password=CREDENTIAL, capabilities=self.declared
        )

    async def unreachable_provider(self) -> MemoryClient[Any]:
        return self.provider(object_storage.MemoryObjectBackend(reachable=False), capabilities=self.declared)

    async def missing_container_provider(self) -> MemoryClient[Any]:
        return self.provider(self.memory, container="missing", password=CREDENTIAL, capabilities=self.declared)

    async def http_request(self, method: str, url: str, body: bytes = b"") -> tuple[int, bytes]:
        return self.memory.request(method, url, body)


class _DocumentDatabaseSuite(DocumentDatabaseContract, _Reference):
    capabilities = document_database.CAPABILITIES
    backend_type = document_database.MemoryDocuments
    provider = document_database.MemoryDocumentDatabase


class _Broker:
    """The hooks of a suite of the in-memory broker; before the contract, whose own they take the place of."""

    backend_type: Any = MemoryBroker
    memory: Any
    clock: Any
    declared: ClassVar[frozenset[str]]

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        self.memory.creates_topics = "strict_topics" not in self.declared

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.memory.notify()

    async def create_topic(self, topic: str, *, tenant_id: str | None = None, client: Any = None) -> None:
        self.memory.create(Cell(tenant_id, topic))

    async def get_message_from_topic(self, topic: str, timeout: float, *, tenant_id: str | None = None) -> Any:
        cell = Cell(tenant_id, topic)
        entry = await self.memory.take(cell, DEFAULT_GROUP, self, within=timeout)
        if entry is None:
            return None
        self.memory.finish(cell, DEFAULT_GROUP, entry)
        return entry.message

    async def crash(self, client: Any) -> None:
        client.vanish()

    async def cut(self) -> None:
        self.memory.reachable = False

    async def heal(self) -> None:
        self.memory.reachable = True
        self.memory.notify()


class _ProducerSuite(_Broker, ProducerContract, _Reference):
    capabilities = producer.CAPABILITIES
    provider = producer.MemoryProducer


class _ConsumerSuite(_Broker, ConsumerContract, _Reference):
    capabilities = consumer.CAPABILITIES
    provider = consumer.MemoryConsumer

    async def publish(
        self,
        topic: str,
        payload: bytes,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        tenant_id: str | None = None,
    ) -> object:
        publisher = producer.MemoryProducer(self.memory, tenant_id=tenant_id, password=CREDENTIAL)
        return await publisher.publish(topic, payload, key, headers)


class _DelayedMessagingSuite(_Broker, DelayedMessagingContract, _Reference):
    capabilities = delayed_messaging.CAPABILITIES
    provider = delayed_messaging.MemoryDelayedPublisher


class _TestCase(unittest.IsolatedAsyncioTestCase):
    """Without the debug mode of its event loop: the kit leaves it anyway, and its start takes a sixth of the selftest."""

    def _setupAsyncioRunner(self) -> None:  # noqa: N802  CPython's own; the selftest is as good, only slower, where it is gone
        self._asyncioRunner = asyncio.Runner(debug=False)


REFERENCES: dict[str, type[Contract]] = {
    "kv_store": _KVStoreSuite,
    "secrets": _SecretsSuite,
    "object_storage": _ObjectStorageSuite,
    "cache": _CacheSuite,
    "document_database": _DocumentDatabaseSuite,
    "producer": _ProducerSuite,
    "consumer": _ConsumerSuite,
    "delayed_messaging": _DelayedMessagingSuite,
}
"""For each contract the suite of its reference, without a TestCase, with every capability there is."""


def reference_suite(
    contract: str,
    provider: type[Any] | None = None,
    *,
    without: frozenset[str] = frozenset(),
    base: type[unittest.TestCase] = unittest.IsolatedAsyncioTestCase,
    **declarations: Any,
) -> type[Any]:
    """A suite of *contract*'s reference, or of *provider* in its place, with every policy and capability but *without*."""
    mixin = REFERENCES[contract]
    members = {"capabilities": frozenset(mixin.capabilities) - without, "__module__": __name__, **declarations}
    if provider is not None:
        members["provider"] = provider
    return type(f"Reference_{contract}" if provider is None else provider.__name__, (mixin, base), members)


@dataclass
class SelftestReport:
    """What the selftest found. It is a success if the three lists are empty."""

    rules: int = 0
    defects: int = 0
    caught: int = 0
    """Defects that failed exactly the rules that they name."""
    rules_without_defect: list[str] = field(default_factory=list)
    defects_not_caught: list[str] = field(default_factory=list)
    """One sentence for each defect that failed other rules than it names."""
    reference_failures: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the kit can be trusted."""
        return bool(self.rules) and not (self.rules_without_defect or self.defects_not_caught or self.reference_failures)


def selftest(contracts: Sequence[str] = (), *, jobs: int = 0, progress: Callable[[str], None] | None = None) -> SelftestReport:
    """Check the laws for *contracts* (all if none are given) in *jobs* processes (as many as there are cores if 0).

    Raises UsageError for a contract without a reference; policies are proven with the contracts that they compose with.
    """
    report = SelftestReport()
    names = list(contracts or REFERENCES)
    for name in names:
        if name not in REFERENCES:
            raise UsageError(f"{name!r} has no reference of its own to prove it with: give one of {', '.join(REFERENCES)}.")

    tasks: list[Callable[[], tuple[str, str, list[str]]]] = []
    for name in names:
        tasks.append(partial(_check_reference, name))
        tasks += [partial(_check_without, name, each) for each in sorted(REFERENCES[name].capabilities)]
        count = len(defects_of(name))
        report.defects += count
        tasks += [partial(_check_defect, name, number) for number in range(count)]
        suite = reference_suite(name)
        rules = {each.id_in(suite.prefix) for each in rules_of(suite)}
        report.rules += len(rules)
        report.rules_without_defect += sorted(rules - {id for defect in defects_of(name) for id in defect.rules})

    for number, (kind, name, problems) in enumerate(_run(tasks, jobs or os.cpu_count() or 1), 1):
        if progress is not None:
            progress(f"{number:3}/{len(tasks)} {kind} {name}: {'NOT AS IT SHOULD BE' if problems else 'ok'}")
        if kind == "defect":
            report.caught += not problems
            report.defects_not_caught += [f"{name} {each}" for each in problems]
        else:
            report.reference_failures += [f"{name}: {each}" for each in problems]
    return report


def _run(tasks: list[Callable[[], tuple[str, str, list[str]]]], jobs: int) -> Iterator[tuple[str, str, list[str]]]:
    if jobs == 1:
        for task in tasks:
            yield task()
        return

    # Not by fork: who calls may have threads, and a lock that one of them holds would stay locked in a child.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from [future.result() for future in [pool.submit(task) for task in tasks]]


def _outcomes(suite: type[Any]) -> dict[str, Outcome]:
    """Run a suite with nothing printed; its outcomes by rule."""
    outcomes: dict[str, Outcome] = {}
    with listening(lambda cls, outcome: outcomes.__setitem__(outcome.rule, outcome) if cls is suite else None):
        unittest.defaultTestLoader.loadTestsFromTestCase(suite).run(unittest.TestResult())
    return outcomes


def _check_reference(contract: str) -> tuple[str, str, list[str]]:
    suite = reference_suite(contract)
    outcomes = _outcomes(suite)
    rules = {each.id_in(suite.prefix) for each in rules_of(suite)}
    problems = [f"{id} was not run" for id in sorted(rules - set(outcomes))]
    problems += [f"{each.rule} {each.outcome}: {each.message}" for each in outcomes.values() if each.outcome is not Status.PASSED]
    return "reference", contract, problems


def _check_without(contract: str, capability: str) -> tuple[str, str, list[str]]:
    """The mirror law: without a capability its rules are not declared, and every other passes."""
    suite = reference_suite(contract, without=frozenset({capability}), base=_TestCase)
    problems = []
    by_id = {each.id_in(suite.prefix): each for each in rules_of(suite)}
    for id, outcome in _outcomes(suite).items():
        expected = Status.NOT_DECLARED if capability in by_id[id].needs_in(suite.contract) else Status.PASSED
        if outcome.outcome is not expected:
            problems.append(f"{id} is {outcome.outcome}, not {expected}: {outcome.message}")
    return "reference", f"{contract} without {capability}", problems


def _check_defect(contract: str, number: int) -> tuple[str, str, list[str]]:
    defect = defects_of(contract)[number]
    # A walk finds some defects with some seeds: those that name it were chosen with this one.
    outcomes = _outcomes(reference_suite(contract, defect.provider, without=defect.without, base=_TestCase, seed=0))
    return "defect", defect.name, list(_problems(defect, outcomes))


def _problems(defect: Defect, outcomes: dict[str, Outcome]) -> Iterator[str]:
    failed = {id for id, each in outcomes.items() if each.outcome is Status.FAILED}
    if missed := sorted(defect.rules - failed):
        yield f"passed {', '.join(missed)}"
    for id in sorted(failed - defect.rules):
        yield f"also failed {id}: {outcomes[id].message}"  # in full: such a thing may not come again
    for id, outcome in outcomes.items():
        if outcome.outcome is Status.ERROR:
            yield f"ended {id} with an error: {outcome.message}"
        if outcome.outcome is Status.FAILED:
            missing = [each for each in (id, "expected", "observed") if each not in outcome.message]
            if missing:
                yield f"failed {id} with a text that lacks {', '.join(missing)}"
            if CREDENTIAL in outcome.message:
                yield f"failed {id} with a text that shows a credential"

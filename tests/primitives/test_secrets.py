"""The contract of secrets: its reference on a clock of its own, in real time and on trio; and suites that can only read."""

import importlib.util
import logging
import os
import unittest
from typing import Any, ClassVar

from omnitck.defects import defects_of
from omnitck.kit.outcomes import Outcome, Status, listening
from omnitck.kit.text import UsageError
from omnitck.policies.multi_tenancy import MultiTenancyPolicy
from omnitck.primitives.secrets import SecretsContract
from omnitck.reference.secrets import CAPABILITIES, MemorySecrets, MemorySecretsBackend
from omnitck.selftest.laws import reference_suite
from omnitck.shared.capabilities import known_capabilities
from omnitck.shared.exceptions import InvalidArgumentError, PermissionDeniedError, SecretNotFoundError, UnavailableError
from omnitck.shared.models import SecretLimits
from tests.common.test_rules_over_tcp import LineServer, LineStore
from tests.helpers import outcome_of

no_trio = importlib.util.find_spec("trio") is None and not os.environ.get("OMNITCK_REQUIRE_BACKENDS")

TestSecrets: Any = reference_suite("secrets", __module__=__name__, __qualname__="TestSecrets")
TestSecretsOnTrio: Any = unittest.skipIf(no_trio, "trio is not installed")(
    reference_suite("secrets", __module__=__name__, __qualname__="TestSecretsOnTrio", backend="trio")
)


class TestSecretsInRealTime(SecretsContract, MultiTenancyPolicy, unittest.IsolatedAsyncioTestCase):
    """As an application uses it, with a cache of a moment."""

    capabilities = CAPABILITIES
    credentials = ("correct-horse",)
    memory = MemorySecretsBackend(password="correct-horse", limits=SecretLimits(page_size=10, batch_size=10, cache_seconds=0.02))

    async def make_provider(self, *, tenant_id: str | None = None, **config: Any) -> MemorySecrets:
        return MemorySecrets(self.memory, tenant_id=tenant_id, password="correct-horse")

    async def unreachable_provider(self) -> MemorySecrets:
        return MemorySecrets(MemorySecretsBackend(reachable=False))

    async def unauthorized_provider(self) -> MemorySecrets:
        return MemorySecrets(self.memory, password="wrong")

    async def provision(self, name: str, value: str | bytes, *, tenant_id: str | None = None) -> None:
        self.memory.provision(name, value, tenant_id=tenant_id)

    async def revoke(self, name: str, *, tenant_id: str | None = None) -> None:
        self.memory.revoke(name, tenant_id=tenant_id)

    async def cut(self) -> None:
        self.memory.reachable = False

    async def heal(self) -> None:
        self.memory.reachable = True


class OneMethod:
    """A provider that only reads, as the first kit demanded it."""

    def __init__(self, secrets: dict[str, str]) -> None:
        self._secrets = secrets

    async def get(self, name: str) -> str:
        try:
            return self._secrets[name]
        except KeyError:
            raise SecretNotFoundError(f"secret {name!r} does not exist") from None


class Provisioning(SecretsContract):
    """A suite that creates secrets beside a provider that only reads them."""

    provider: ClassVar[type[OneMethod]] = OneMethod

    def setUp(self) -> None:
        self.secrets: dict[str, str] = {}

    async def make_provider(self) -> OneMethod:  # type: ignore[override]
        return self.provider(self.secrets)

    async def provision(self, name: str, value: str) -> None:  # type: ignore[override]
        self.secrets[name] = value

    async def revoke(self, name: str) -> None:  # type: ignore[override]
        self.secrets.pop(name, None)


class Existing(SecretsContract):
    """A suite whose one secret exists already: the names are those of the first kit's fixtures."""

    provider: ClassVar[type[OneMethod]] = OneMethod
    provisioned: ClassVar = {"tck/secrets/my-secret": "super-secret-tck-value"}

    async def make_provider(self) -> OneMethod:  # type: ignore[override]
        return self.provider(dict(self.provisioned))


def suite_of(mixin: type[Any], **members: Any) -> Any:
    return type("Suite", (mixin, unittest.IsolatedAsyncioTestCase), {"__module__": __name__, **members})


def outcomes_of(suite: Any) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    with listening(lambda cls, each: found.__setitem__(each.rule, each) if cls is suite else None):
        unittest.defaultTestLoader.loadTestsFromTestCase(suite).run(unittest.TestResult())
    return found


def by_status(outcomes: dict[str, Outcome]) -> dict[str, set[str]]:
    return {status: {id for id, each in outcomes.items() if each.outcome == status} for status in Status}


class TestSuitesThatOnlyRead(unittest.TestCase):
    def test_one_method_passes_the_core_with_provision(self) -> None:
        outcomes = outcomes_of(suite_of(Provisioning))
        found = by_status(outcomes)
        self.assertEqual((found["failed"], found["error"]), (set(), set()), outcomes)
        # What needs an object of its own: rights, credentials.
        self.assertEqual(found["not provoked"], {"SE-10", "SE-COM-24"})
        self.assertLessEqual(
            {f"SE-{number:02}" for number in range(1, 10)} | {"SE-11", "SE-13", "SE-14", "SE-15"}, found["passed"]
        )

    def test_one_method_passes_the_core_with_what_exists_already(self) -> None:
        outcomes = outcomes_of(suite_of(Existing))
        found = by_status(outcomes)
        self.assertEqual((found["failed"], found["error"]), (set(), set()), outcomes)
        self.assertLessEqual(
            {"SE-01", "SE-02", "SE-03", "SE-11", "SE-COM-01", "SE-COM-03", "SE-COM-14", "SE-COM-23"}, found["passed"]
        )
        self.assertIn("the provider does not declare `write`, and the suite has no `provision`", outcomes["SE-04"].message)

    def test_a_tenant_needs_a_hook_that_takes_one(self) -> None:
        class Tenants(Provisioning, MultiTenancyPolicy):
            async def make_provider(self, *, tenant_id: str | None = None) -> OneMethod:  # type: ignore[override]
                return OneMethod(self.secrets)

        outcome, _ = outcome_of(suite_of(Tenants), "test_mt_01_one_name_two_values")
        self.assertEqual(
            (outcome.outcome, outcome.message), (Status.NOT_PROVOKED, "not provoked: `provision` takes no `tenant_id`")
        )

    def test_a_hook_is_given_the_namespace_if_it_takes_it(self) -> None:
        given: list[str] = []

        class Namespaced(Provisioning):
            async def provision(self, name: str, value: str, *, namespace: str) -> None:  # type: ignore[override]
                given.append(namespace)
                self.secrets[name] = value

        outcome, _ = outcome_of(suite_of(Namespaced), "test_se_09_a_folder_is_no_secret")
        self.assertEqual(outcome.outcome, Status.PASSED)
        self.assertTrue(given and all(each.startswith("omnitck") for each in given))

    def test_a_hook_may_refuse_what_the_backend_cannot_hold(self) -> None:
        class Particular(Provisioning):
            async def provision(self, name: str, value: str) -> None:  # type: ignore[override]
                if not value or not name.islower():
                    raise InvalidArgumentError(f"secret {name!r}: the backend takes no such thing")
                self.secrets[name] = value

        for method in ("test_se_07_empty_is_not_absent", "test_se_08_similar_names_are_different_secrets"):
            self.assertEqual(outcome_of(suite_of(Particular), method)[0].outcome, Status.PASSED, method)

    def test_a_hook_that_fails_is_not_the_providers_failure(self) -> None:
        class Failing(Provisioning):
            async def provision(self, name: str, value: str) -> None:  # type: ignore[override]
                raise OSError("no space left")

        outcome, _ = outcome_of(suite_of(Failing), "test_se_01_a_secret_is_its_exact_value")
        self.assertEqual(outcome.outcome, Status.ERROR)
        self.assertIn("provision raised OSError: no space left", outcome.message)

    def test_what_was_provisioned_is_revoked(self) -> None:
        left: dict[str, str] = {}

        class Remembering(Provisioning):
            def setUp(self) -> None:
                self.secrets = left

        for method in ("test_se_05_values_are_not_interpreted", "test_se_09_a_folder_is_no_secret"):
            outcome_of(suite_of(Remembering), method)
        self.assertEqual(left, {})

    def test_a_cache_of_an_hour_is_not_waited_for(self) -> None:
        suite = suite_of(Provisioning, limits=SecretLimits(cache_seconds=3600))
        outcome, _ = outcome_of(suite, "test_se_14_a_revoked_secret_is_gone")
        self.assertEqual(outcome.outcome, Status.NOT_PROVOKED)
        self.assertIn("3600 s", outcome.message)


class TestWhatIsShown(unittest.TestCase):
    def test_no_failure_shows_what_was_planted(self) -> None:
        leaking = [each for each in defects_of("secrets") if each.rules & {"SE-11", "SE-12"}]
        self.assertGreater(len(leaking), 10)
        for each in leaking:
            suite = reference_suite("secrets", each.provider)
            for method in ("test_se_11_a_value_is_shown_nowhere", "test_se_12_a_value_is_not_shown_to_debuggers"):
                self.assertNotRegex(outcome_of(suite, method)[0].message, "[0-9a-f]{24}", (each.name, method))

    def test_no_failure_shows_what_exists_already(self) -> None:
        class Wrong(OneMethod):
            async def get(self, name: str) -> str:
                value = await super().get(name)
                raise ValueError(f"cannot parse {value}") if name.endswith("my-secret") else SecretNotFoundError(name)

        class Stripped(OneMethod):
            async def get(self, name: str) -> str:
                return (await super().get(name)) + "x"

        for provider in (Wrong, Stripped):
            outcomes = outcomes_of(suite_of(Existing, provider=provider))
            self.assertIn("SE-01", by_status(outcomes)["failed"])
            for each in outcomes.values():
                self.assertNotIn("super-secret-tck-value", each.message)

    def test_a_leak_is_named_by_its_place(self) -> None:
        class Logging(OneMethod):
            async def get(self, name: str) -> str:
                value = await super().get(name)
                logging.getLogger("vendor").warning("read %r", value)
                return value

        outcome, _ = outcome_of(suite_of(Existing, provider=Logging), "test_se_11_a_value_is_shown_nowhere")
        self.assertEqual(outcome.outcome, Status.FAILED)
        self.assertIn("a record of the logger 'vendor' at WARNING", outcome.message)
        self.assertNotIn("super-secret", outcome.message)

    def test_a_library_that_was_silenced_is_silent(self) -> None:
        class Debugging(OneMethod):
            async def get(self, name: str) -> str:
                value = await super().get(name)
                logging.getLogger("vendor.parser").debug("body %r", value)
                return value

        suite = suite_of(Existing, provider=Debugging, capabilities={"quiet_debug"})
        method = "test_se_12_a_value_is_not_shown_to_debuggers"
        self.assertEqual(outcome_of(suite, method)[0].outcome, Status.FAILED)
        logger = logging.getLogger("vendor")
        logger.setLevel(logging.INFO)
        try:
            self.assertEqual(outcome_of(suite, method)[0].outcome, Status.PASSED)
        finally:
            logger.setLevel(logging.NOTSET)

    def test_the_loggers_are_as_they_were(self) -> None:
        root, own = logging.getLogger(), logging.getLogger("tests")
        before = (root.level, list(root.handlers), own.level, logging.root.manager.disable)
        outcome_of(suite_of(Existing), "test_se_11_a_value_is_shown_nowhere")
        self.assertEqual((root.level, list(root.handlers), own.level, logging.root.manager.disable), before)


class LineSecrets(LineStore):
    """Secrets behind a TCP port."""

    async def get(self, name: str) -> str:
        value = await super().get(name)
        if value is None:
            raise SecretNotFoundError(f"secret {name!r} does not exist")
        return value

    async def set(self, name: str, value: str) -> Any:
        await super().set(name, value)
        return ""


class Poisoned(LineSecrets):
    """A name that was asked for during an outage is absent from then on."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address)
        self.failed_names: set[str] = set()

    async def get(self, name: str) -> str:
        if name in self.failed_names:
            raise SecretNotFoundError(f"secret {name!r} does not exist")
        try:
            return await super().get(name)
        except UnavailableError:
            self.failed_names.add(name)
            raise


class TestOutages(unittest.TestCase):
    def outcome(self, provider: type[LineSecrets]) -> Outcome:
        server = LineServer()
        self.addCleanup(server.stop)

        class Suite(SecretsContract, unittest.IsolatedAsyncioTestCase):
            capabilities = ("write", "shared", "availability")
            patience = 0.6

            async def make_provider(self, *, address: tuple[str, int] | None = None, **config: Any) -> LineSecrets:
                return provider(address or server.address)

            async def backend_address(self) -> tuple[str, int]:
                return server.address

        return outcome_of(Suite, "test_se_16_an_outage_is_not_remembered")[0]

    def test_a_careful_client_passes_behind_the_proxy(self) -> None:
        self.assertEqual(self.outcome(LineSecrets).message, "")

    def test_a_poisoned_cache_is_found_behind_the_proxy(self) -> None:
        self.assertEqual(self.outcome(Poisoned).outcome, Status.FAILED)


class TestRights(unittest.TestCase):
    def test_a_connection_may_be_denied(self) -> None:
        async def denied(self: Any) -> OneMethod:
            raise PermissionDeniedError("bad credentials")

        suite = suite_of(Existing, unauthorized_provider=denied)
        self.assertEqual(outcome_of(suite, "test_se_10_missing_rights_are_said")[0].outcome, Status.PASSED)

    def test_a_hook_that_fails_is_no_denial(self) -> None:
        async def broken(self: Any) -> OneMethod:
            raise OSError("no such file")

        suite = suite_of(Existing, unauthorized_provider=broken)
        self.assertEqual(outcome_of(suite, "test_se_10_missing_rights_are_said")[0].outcome, Status.ERROR)


class TestSuites(unittest.TestCase):
    def test_provisioned_is_a_mapping_of_text(self) -> None:
        for wrong in ({"name": b"value"}, ["name"]):
            with self.assertRaisesRegex(UsageError, "provisioned is no mapping"):
                suite_of(Existing, provisioned=wrong)

    def test_each_declares_everything_there_is(self) -> None:
        for suite in (TestSecrets, TestSecretsOnTrio, TestSecretsInRealTime):
            self.assertEqual(suite.declared, known_capabilities("secrets"))

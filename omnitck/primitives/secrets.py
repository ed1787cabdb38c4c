"""`secrets`: named texts that must be exact, current, and never seen where they do not belong.

The core reads. How a secret comes to be is the backend's affair, so a suite says it: by the hook `provision`, by the data
`provisioned`, or because the provider declares `write`.
"""

import inspect
import os
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cached_property, partial
from typing import Any, ClassVar, Protocol, cast

import anyio

from omnitck.kit.canary import error_text, locals_text, overhearing, reveals, text_of
from omnitck.kit.cancellation import sweep
from omnitck.kit.cells import Cells, Operation
from omnitck.kit.common import ANSWER_SECONDS, CommonRules, Lifecycle
from omnitck.kit.concurrency import Attempt, Call, attempt, drain, enter, gather, together
from omnitck.kit.contract import Plain, has_hook, rule
from omnitck.kit.corpus import TEXTS
from omnitck.kit.session import HookError, raw
from omnitck.kit.text import UsageError, describe, describe_error
from omnitck.kit.walk import Move, Step, Version, other, random_steps
from omnitck.shared.exceptions import (
    InvalidArgumentError,
    PermissionDeniedError,
    SecretNotFoundError,
    TooLargeError,
    UnavailableError,
)
from omnitck.shared.models import SecretLimits

__all__ = [
    "Batch",
    "Binary",
    "Listing",
    "QuietDebug",
    "SecretCells",
    "SecretsContract",
    "SecretsProtocol",
    "Versioning",
    "Watch",
    "Write",
]


class SecretsProtocol(Protocol):
    """The core: one operation. Names and values are `str`.

    Names of `a-z 0-9 / _ . -` are legal everywhere; any other legal name is taken exactly or refused, never changed.
    """

    async def get(self, name: str) -> str:
        """The secret's value. `SecretNotFoundError` if there is none of that *name*, or no longer."""
        ...


class Write(Protocol):
    """Capability `write`."""

    async def set(self, name: str, value: str) -> str:
        """Create or replace the secret; the id of the new version, empty without the capability `versioning`."""
        ...

    async def delete(self, name: str) -> None:
        """Remove the secret with all its versions, at once; an absent one is fine. The name can be used again at once."""
        ...


class Versioning(Protocol):
    """Capability `versioning`: earlier values stay readable."""

    async def get(self, name: str, *, version: str | None = None) -> str:
        """The value of that *version*, None for the newest. `SecretNotFoundError` if there is none."""
        ...

    async def list_versions(self, name: str) -> list[str]:
        """The ids of all versions that can be read, the newest first. `SecretNotFoundError` if there is no such secret."""
        ...


class Listing(Protocol):
    """Capability `list_prefix`."""

    def list_names(self, prefix: str = "") -> AsyncIterator[str]:
        """The name of every secret that starts with *prefix*, compared by code points, in any order, each once."""
        ...


class Batch(Protocol):
    """Capability `batch`: many names in one call, of any number."""

    async def get_many(self, names: Iterable[str]) -> dict[str, str]:
        """Each distinct name with its value. If any is missing, one `SecretNotFoundError` that names every missing one."""
        ...


class Watch(Protocol):
    """Capability `watch`: rotation as it happens."""

    def watch(self, name: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Entered means established: every later value is then yielded, the last one surely; a removal raises
        `SecretNotFoundError`, as entering does for an absent secret, and closing the client ends the iteration."""
        ...


class Binary(Protocol):
    """Capability `binary`: secrets that are no text. `get` of such a one is `InvalidArgumentError`."""

    async def get_bytes(self, name: str) -> bytes:
        """The secret's bytes; those of a text are its UTF-8 form."""
        ...


class QuietDebug(Protocol):
    """Capability `quiet_debug`: what the provider's SDK logs at DEBUG, and what an error tracker finds in the local variables of
    a `get` that fails, shows no value either."""


SOME_VERSION = "1".zfill(32)
"""What may be the id of a version everywhere: Vault counts, AWS takes no text under 32 characters."""


class SecretCells(Cells[Any]):
    """The secrets of one suite as a set of cells.

    They are written by the provider where it declares `write`, else behind its back, by the hook `provision`.
    """

    operations = (
        Operation("get", lambda p, n, t: p.get(n), "get"),
        Operation("set", lambda p, n, t: p.set(n, t), "set", "write", writes=True),
        Operation("delete", lambda p, n, t: p.delete(n), "delete", "write"),
        Operation("get with version", lambda p, n, t: p.get(n, version=SOME_VERSION), "get", "versioning", argument="version"),
        Operation("list_versions", lambda p, n, t: p.list_versions(n), "list_versions", "versioning"),
        Operation("list_names", lambda p, n, t: drain(p.list_names(n)), "list_names", "list_prefix", needs_legal_name=False),
        Operation("get_many", lambda p, n, t: p.get_many([n]), "get_many", "batch"),
        Operation("watch", lambda p, n, t: enter(p.watch(n)), "watch", "watch"),
        Operation("get_bytes", lambda p, n, t: p.get_bytes(n), "get_bytes", "binary"),
    )
    refusals = (
        Operation("get of an absent secret", lambda p, n, t: p.get(n + "-absent"), "get"),
        Operation("set of bytes", lambda p, n, t: p.set(n, t.encode()), "set", "write"),
        Operation("get of an unknown version", lambda p, n, t: p.get(n, version="unknown"), "get", "versioning"),
        Operation("list_versions of an absent secret", lambda p, n, t: p.list_versions(n + "-absent"), "list_versions",
                  "versioning"),
        Operation("get_many with one absent", lambda p, n, t: p.get_many([n, n + "-absent"]), "get_many", "batch"),
        Operation("watch of an absent secret", lambda p, n, t: enter(p.watch(n + "-absent")), "watch", "watch"),
        Operation("get_bytes of an absent secret", lambda p, n, t: p.get_bytes(n + "-absent"), "get_bytes", "binary"),
    )  # fmt: skip
    enumerates = "list_prefix"

    def __init__(self, suite: "SecretsContract") -> None:
        self.suite = suite

    async def write(self, provider: Any, name: str, token: str) -> None:
        outside = "write" not in self.suite.declared
        if outside:
            await self.suite.provision_outside(name, token, tenant_id=self.suite.session.tenant_of(provider))
        else:
            await provider.set(name, token)
        await self._settle(name, except_by=None if outside else provider)

    async def read(self, provider: Any, name: str) -> str | None:
        try:
            value: str = await provider.get(name)
        except SecretNotFoundError:
            return None
        return value

    async def erase(self, provider: Any, name: str) -> None:
        outside = "write" not in self.suite.declared
        if outside:
            await self.suite.revoke_outside(name, tenant_id=self.suite.session.tenant_of(provider))
        else:
            await provider.delete(name)
        await self._settle(name, except_by=None if outside else provider)

    async def _settle(self, name: str, except_by: Any) -> None:
        """Let the time pass for which who has asked before may still be told what was."""
        if self.suite.session.touched(name, except_by=except_by):
            await self.suite.settle()

    async def use(self, provider: Any, name: str, token: str) -> None:
        if "write" in self.suite.declared:
            await provider.set(name, token)
        else:
            await self.read(provider, name)

    async def tidy(self, provider: Any, touched: str) -> None:
        if "write" in self.suite.declared:
            await provider.delete(touched)

    async def names(self, provider: Any, prefix: str) -> list[str]:
        return await drain(provider.list_names(prefix))

    async def state(self, provider: Any, name: str, declared: frozenset[str]) -> tuple[object, ...]:
        state: list[object] = [await self.read(provider, name)]
        if "versioning" in declared:
            state.append((await attempt(lambda: provider.list_versions(name))).value)
        return tuple(state)

    async def handles(self, provider: Any, name: str) -> list[str]:
        handles: list[str] = await provider.list_versions(name)
        return handles

    async def replay(self, provider: Any, name: str, handle: str, token: str) -> Any:
        return await provider.get(name, version=handle)

    def watch(self, provider: Any, name: str) -> AbstractAsyncContextManager[AsyncIterator[object]]:
        watcher: AbstractAsyncContextManager[AsyncIterator[object]] = provider.watch(name)
        return watcher

    async def alias(self, provider: Any, name: str, token: str) -> str | None:
        await self.write(provider, name, token)
        found = await provider.get_many([name])
        found[name] = "changed by the caller"
        if (await provider.get_many([name]))[name] != token or await provider.get(name) != token:
            return "the result of get_many was changed by its caller, and the secret with it"

        names = [name]
        first = await provider.get_many(names)
        names.append("another")
        if list(first) != [name]:
            return "the list given to get_many was changed by its caller, and the result with it"
        if "versioning" not in self.suite.declared:
            return None

        versions = await provider.list_versions(name)
        versions.clear()
        return (
            None if await provider.list_versions(name) else "the result of list_versions was emptied by its caller, and stays so"
        )

    def may_refuse(self, name: str) -> bool:
        return re.fullmatch("[a-z0-9/_.-]+", name) is None


Put = Callable[[Any, str, str], Awaitable[object]]
"""A way in which a secret comes to be."""


class SecretsContract(CommonRules):
    """Certifies a source of secrets."""

    name = "secrets"
    version = "1.0"
    prefix = "SE"
    protocols: ClassVar = {
        "": SecretsProtocol,
        "write": Write,
        "versioning": Versioning,
        "list_prefix": Listing,
        "batch": Batch,
        "watch": Watch,
        "binary": Binary,
        "quiet_debug": QuietDebug,
        "lifecycle": Lifecycle,
    }
    extra_needs: ClassVar = {
        # Written from outside, a secret says nothing about how the provider writes.
        **{id: frozenset({"write"}) for id in ("COM-05", "COM-06", "COM-16", "MT-02")},
        "COM-17": frozenset({"batch"}),  # text cannot be changed: only a batch takes and returns what can.
        "MT-06": frozenset({"list_prefix"}),
        "MT-19": frozenset({"versioning"}),
        "MT-21": frozenset({"watch"}),
    }
    without_subject = frozenset({"MT-18", "MT-22"})  # Nothing creates only once, nothing removes many.
    hooks = ("provision", "revoke", "unauthorized_provider", "cut", "heal")
    data = ("provisioned",)
    limits_type = SecretLimits

    @cached_property
    def cells(self) -> SecretCells:
        return SecretCells(self)

    @classmethod
    def check_suite(cls) -> None:
        given: object = cls.provisioned
        if not isinstance(given, Mapping) or not all(isinstance(each, str) for pair in given.items() for each in pair):
            raise UsageError(f"{cls.__qualname__}.provisioned is no mapping of names to values, all of them str.")

    # What the author of a suite may supply. Each hook is given what its signature takes.

    provisioned: ClassVar[Mapping[str, str]] = {}
    """Secrets that exist already, name to value: for a backend that nobody writes during a test."""

    async def provision(self, name: str, value: Any, *, tenant_id: str | None = None) -> None:
        """Create or change a secret out of band, not through a client of the provider. Optional.

        *value* is `str`, and `bytes` where `binary` is declared. `tenant_id` is passed for a tenant's client, and `namespace` as
        `make_provider` gets it. What the backend cannot hold is refused with `InvalidArgumentError`.
        """
        raise NotImplementedError

    async def revoke(self, name: str, *, tenant_id: str | None = None) -> None:
        """Remove a secret out of band; an absent one is fine. Optional, but a suite with `provision` should have it."""
        raise NotImplementedError

    async def unauthorized_provider(self) -> Any:
        """Return a client that may do nothing: with bad credentials, or without rights. Optional. Connecting may be denied."""
        raise NotImplementedError

    async def cut(self) -> None:
        """Make the backend unreachable for every client until `heal`. Optional; a suite with `backend_address` needs neither."""
        raise NotImplementedError

    async def heal(self) -> None:
        """Make it reachable again."""
        raise NotImplementedError

    # The words in which the rules are written.

    def numbers(self) -> SecretLimits:
        return cast(SecretLimits, super().numbers())

    def confidential(self) -> Iterable[str]:
        return (*self.credentials, *(each for each in self.provisioned.values() if each))

    def window(self) -> float:
        """Seconds for which a client may give out what was, after a change that it has not made."""
        limits = self.numbers()
        window = limits.staleness + limits.cache_seconds
        if window > LONGEST_WINDOW and not self.virtual_time:
            self.not_provoked(f"a change may take {window:g} s to be seen: let `advance` move the provider's clock, or lower it")
        return window * 1.01  # A clock that is read twice must not be judged at the very edge.

    async def settle(self) -> None:
        await self.wait(self.window())

    async def provision_outside(self, name: str, value: str | bytes, *, tenant_id: str | None = None) -> None:
        """Let the suite provision a secret. What it refuses as the contract allows is an `InvalidArgumentError`."""
        if not has_hook(type(self), "provision"):
            self.not_provoked(NO_SOURCE)
        # Whatever becomes of the rule: what the suite has provisioned, the suite removes.
        if has_hook(type(self), "revoke"):
            self.session.afterwards.append(partial(self._ask, "revoke", (name,), tenant_id))
        await self._ask("provision", (name, value), tenant_id)

    async def revoke_outside(self, name: str, *, tenant_id: str | None = None) -> None:
        """Let the suite remove a secret."""
        if not has_hook(type(self), "revoke"):
            self.not_provoked("the suite has no `revoke`, and the provider does not declare `write`")
        await self._ask("revoke", (name,), tenant_id)

    async def _ask(self, hook: str, arguments: tuple[object, ...], tenant_id: str | None = None) -> None:
        function = getattr(self, hook)
        parameters = inspect.signature(function).parameters.values()
        takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
        taken = {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
        offered: dict[str, object] = {"namespace": self.namespace}
        if tenant_id is not None:
            if not takes_all and "tenant_id" not in taken:
                self.not_provoked(f"`{hook}` takes no `tenant_id`")
            offered["tenant_id"] = tenant_id
        keywords = {key: value for key, value in offered.items() if takes_all or key in taken}
        try:
            await self.session.hook(hook, function(*arguments, **keywords))
        except HookError as error:
            if isinstance(error.__cause__, InvalidArgumentError):
                raise error.__cause__ from None
            raise

    def ways(self) -> dict[str, Put]:
        """Every way in which a secret comes to be in this suite."""
        ways: dict[str, Put] = {}
        if has_hook(type(self), "provision"):
            ways["provision"] = lambda client, name, value: self.provision_outside(
                name, value, tenant_id=self.session.tenant_of(client)
            )
        if "write" in self.declared:
            ways["set"] = lambda client, name, value: client.set(name, value)
        return ways or self.not_provoked(NO_SOURCE)

    async def known(self, client: Any, count: int = 1) -> dict[str, str]:
        """Secrets that exist, with their values: *count* fresh ones, or those that the suite declares as `provisioned`."""
        if self.provisioned and "write" not in self.declared and not has_hook(type(self), "provision"):
            self.session.journal.forget()
            return dict(self.provisioned)

        fresh = {self.key(): self.token() for _ in range(count)}
        for name, value in fresh.items():
            await self.cells.write(client, name, value)
        return fresh

    async def stranger(self) -> Put:
        """What changes a secret behind the back of a client: the suite, or another client."""
        if has_hook(type(self), "provision"):
            return self.ways()["provision"]
        if not {"write", "shared"} <= self.declared:
            self.not_provoked("the suite has no `provision`, and the provider does not declare `write` and `shared`")

        other = await self.connect()
        return lambda client, name, value: other.set(name, value)

    async def removed_by_a_stranger(self, name: str) -> None:
        """Remove *name* behind the back of every client but a fresh one."""
        if has_hook(type(self), "revoke"):
            await self.revoke_outside(name)
        elif {"write", "shared"} <= self.declared:
            await (await self.connect()).delete(name)
        else:
            self.not_provoked("the suite has no `revoke`, and the provider does not declare `write` and `shared`")

    async def absent(self, call: Call[object], given: str) -> BaseException:
        """Fail the rule unless *call* says that there is no such secret."""
        return await self.refused(call, SecretNotFoundError, given=given)

    def same_secret(self, observed: object, expected: str, *, given: str, hint: str = "") -> None:
        """As `same`, but shows nothing of a value that is the suite's own."""
        if type(observed) is str and observed == expected:
            return
        if expected not in self.provisioned.values():
            self.same(observed, expected, given=given, hint=hint)

        size = f" of {len(observed)}" if isinstance(observed, str | bytes | list | tuple | dict) else ""
        self.fail_rule(
            given=given,
            expected=f"the provisioned value, a str of {len(expected)} characters",
            observed=f"another one, of type {type(observed).__name__}{size}",
            hint=hint,
        )

    def reads(self, client: Any, name: str) -> dict[str, Call[object]]:
        """Every declared way to read the secret *name*; each raises `SecretNotFoundError` if there is none."""
        return self.declared_of(
            {
                "get": ("", lambda: client.get(name)),
                "get with version": ("versioning", lambda: client.get(name, version=SOME_VERSION)),
                "list_versions": ("versioning", lambda: client.list_versions(name)),
                "get_many": ("batch", lambda: client.get_many([name])),
                "watch": ("watch", lambda: enter(client.watch(name))),
                "get_bytes": ("binary", lambda: client.get_bytes(name)),
            }
        )

    # Values

    @rule("SE-01")
    async def test_se_01_a_secret_is_its_exact_value(self) -> None:
        """`get` of a secret that exists returns exactly its value, of the type `str`.

        Catches the whole answer of the SDK in place of the value (Vault wraps it in `data.data`), bytes, and JSON that was parsed
        on the way.
        """
        client: SecretsProtocol = await self.connect()
        secrets = {**await self.known(client, 3), **self.provisioned}
        if self.provisioned:
            self.session.journal.forget()
        for name, value in secrets.items():
            with self.case(describe(name)):
                self.same_secret(await client.get(name), value, given=f"get({describe(name)}), which exists")

    @rule("SE-02")
    async def test_se_02_an_absent_secret_is_an_error_that_names_it(self) -> None:
        """An absent secret raises `SecretNotFoundError`, which names it and no other.

        In every operation that reads one. Catches `None` and the empty string, which an application would send as a password; the
        vendor's own 404; and "access denied", which AWS says of what does not exist to who may not list.
        """
        client: SecretsProtocol = await self.connect()
        others = await self.known(client)
        for label, read in self.reads(client, name := self.key("absent")).items():
            with self.case(label):
                error = await self.absent(read, f"{label} of a secret that does not exist")
                said = error_text(error)
                self.check(name in str(error), given=f"{label}: the error", expected="it names the secret", observed=str(error))
                shown = [other for other, value in others.items() if other in said or reveals(said, value)]
                self.check(not shown, given=f"{label}: the error", expected="it names no other secret", observed=shown)

    @rule("SE-03")
    async def test_se_03_each_task_gets_its_own_secret(self) -> None:
        """50 concurrent tasks that read 10 secrets, again and again, each get the value that they asked for.

        Catches a slot of a cache that all names share.
        """
        client: SecretsProtocol = await self.connect()
        secrets = list((await self.known(client, 10)).items())
        asked = [secrets[number % len(secrets)] for number in range(50)]
        for round in ("at first", "again"):
            answers = await gather(partial(client.get, name) for name, _ in asked)
            for (name, value), answer in zip(asked, answers, strict=True):
                self.same_secret(answer, value, given=f"get({describe(name)}), {round}, beside 49 others")

    @rule("SE-04", deadline=60)
    async def test_se_04_white_space_survives(self) -> None:
        """White space at either end, line ends of both kinds, and the final newline of a PEM block survive.

        Catches `.strip()`, which looks right on a mounted file until a key needs its last newline or a password ends in a space.
        """
        await self._check_exact(WHITE_SPACE)

    @rule("SE-05", deadline=60)
    async def test_se_05_values_are_not_interpreted(self) -> None:
        """`$VAR`, `${x}`, `{{x}}`, `%s`, quotes, backslashes, `#`, what looks like JSON, YAML or a number: none is interpreted.

        Catches the expansion of environment variables, a template engine, the types of YAML, and JSON that decodes itself.
        """
        await self._check_exact(INTERPRETED)

    @rule("SE-06", deadline=60)
    async def test_se_06_any_text_survives(self) -> None:
        """Text beyond ASCII, and text of many lines and 16 KiB, or as long as `value_bytes` says, survives.

        Catches latin-1, surrogates for what lies beyond the basic plane, and the parameter tier that ends at 4 KiB. U+0000 is not
        asked for: no secret is written with it, and an environment variable cannot hold it.
        """
        line = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+/\n"
        bundle = ("-----BEGIN CERTIFICATE-----\n" + line * 24 + "-----END CERTIFICATE-----\n") * 12
        limits = self.numbers()
        most = min(limits.value_bytes, LARGEST_TRIED)
        values = {label: text.replace("\x00", "") for label, text in TEXTS.items()}
        values |= {
            "5,000 characters": self.token(5_000),
            "a bundle of 16 KiB": bundle[:16_384],
            "16 KiB of two bytes a character": "\u00e9" * 8_192,
            f"{most} bytes": self.token(most)[:most],
        }
        await self._check_exact(values)

    async def _check_exact(self, values: Mapping[str, str]) -> None:
        """Each value, in whatever way it comes to be, is read as it is."""
        client = await self.connect()
        for way, put in self.ways().items():
            for label, value in values.items():
                with self.case(f"{way}, {label}"):
                    name = self.key()
                    await put(client, name, value)
                    self.same(await client.get(name), value, given=f"get after {way}(name, {describe(value, 60)})")

    @rule("SE-07")
    async def test_se_07_empty_is_not_absent(self) -> None:
        """The empty value is returned as `""`, or refused with `InvalidArgumentError` when written; it is never "not found".

        Catches `if not value`. AWS refuses it.
        """
        client = await self.connect()
        for way, put in self.ways().items():
            with self.case(way):
                name = self.key()
                try:
                    await put(client, name, "")
                except InvalidArgumentError:
                    await self.absent(partial(client.get, name), "get of a secret whose empty value was refused")
                    continue
                self.same(await client.get(name), "", given=f'get after {way}(name, "")', hint="test for None, not for truth")
                if "batch" in self.declared:
                    self.same(await client.get_many([name]), {name: ""}, given=f'get_many after {way}(name, "")')

    # Names

    @rule("SE-08")
    async def test_se_08_similar_names_are_different_secrets(self) -> None:
        """`a/b`, `a.b`, `a-b` and `a_b` are four secrets; `A-b` is a fifth, or refused.

        Catches an adapter for Azure Key Vault, which has letters, digits and `-` only and folds case: it must escape.
        """
        client = await self.connect()
        start, values = self.key(), dict[str, str]()
        for middle in ("a/b", "a.b", "a-b", "a_b", "A-b"):
            with self.case(middle), self.refusable(start + middle):
                value = self.token()
                await self.cells.write(client, start + middle, value)
                values[middle] = value
        for middle, value in values.items():
            with self.case(middle):
                self.same(
                    await self.cells.read(client, start + middle),
                    value,
                    given=f"get({describe(start + middle)}) after all five were written",
                )

    @rule("SE-09")
    async def test_se_09_a_folder_is_no_secret(self) -> None:
        """A path that only begins the names of secrets is absent, with and without a slash at its end; so is one below a secret.

        Catches a folder that is returned as a value, and a lookup by prefix.
        """
        client = await self.connect()
        folder = self.key()
        await self.cells.write(client, f"{folder}/y", self.token())
        await self.cells.write(client, f"{folder}/deep/z", self.token())
        for name in (folder, f"{folder}/", f"{folder}/deep", f"{folder}/y/", f"{folder}/y/x", f"{folder}//y"):
            for label, read in self.reads(client, name).items():
                with self.case(f"{label}, {name.removeprefix(folder)!r}"):
                    await self.absent(read, f"{label}({describe(name)}) beside {describe(f'{folder}/y')}")

    # Rights

    @rule("SE-10", hook="unauthorized_provider", deadline=60)
    async def test_se_10_missing_rights_are_said(self) -> None:
        """Without rights, or with bad credentials, every operation raises `PermissionDeniedError`, in time, whatever exists.

        Never `SecretNotFoundError`, on which an application would create the secret or go on without; and never without an end
        of retries. Catches the 403 that is mapped to 404. A provider may deny the connection itself.
        """
        owner = await self.connect()
        existing = next(iter(await self.known(owner))) if self._has_source() else None
        try:
            client = await self.session.connect({}, "unauthorized_provider")
        except HookError as error:
            if isinstance(error.__cause__, PermissionDeniedError):
                return
            raise

        within = ANSWER_SECONDS * self.patience
        for kind, name in (("a secret that exists", existing), ("an absent secret", self.key("absent"))):
            for operation in self.operations() if name is not None else ():
                with self.case(f"{operation.name}, {kind}"):
                    raised = await self._error_of(self.bound(operation, client, name), within)
                    self.check(
                        isinstance(raised, PermissionDeniedError),
                        given=f"{operation.name} of {kind}, without rights",
                        expected="PermissionDeniedError",
                        observed=Plain(describe_error(raised)),
                        hint="403 and 401 are no 404, and no reason to try again",
                    )

    def _has_source(self) -> bool:
        return "write" in self.declared or has_hook(type(self), "provision") or bool(self.provisioned)

    async def _error_of(self, call: Call[object], within: float) -> BaseException:
        """What *call* raises; if it returns, or takes too long, an error that says so and is none of the standard's."""
        with anyio.move_on_after(within):
            tried = await attempt(call)
            return tried.error or LookupError(f"none: it returned {type(tried.value).__name__}")
        return TimeoutError(f"nothing within {within:g} s")

    # Leaks

    @rule("SE-11", exclusive=True, deadline=30)
    async def test_se_11_a_value_is_shown_nowhere(self) -> None:
        """A secret's value appears in no `repr`, exception, warning, standard stream, nor log record that production keeps.

        Of an exception: its arguments, notes, attributes, causes and context. Of log records: those at INFO or above, and those
        of the provider's own package at DEBUG. In plain, base64, hexadecimal, URL or JSON form. Every operation is tried, as it
        succeeds and as it fails. Catches an error that echoes the body of the answer, a decoder's error, which carries what it
        could not decode, and a dataclass that prints its cache.
        """
        shown = await self._search(third_party_debug=False)
        for where in shown:
            with self.case(where):
                self._fail_leak(where)

    @rule("SE-12", "quiet_debug", exclusive=True, deadline=30)
    async def test_se_12_a_value_is_not_shown_to_debuggers(self) -> None:
        """Nor does it appear in the DEBUG records of a library, or in the local variables of an exception that `get` raises.

        A capability, because a provider cannot owe what its SDK says when it is debugged: botocore logs whole answers. Who
        declares it has silenced the SDK, by the level of its logger or a filter. Reports with local variables are what error
        trackers send by default: a `get` that fails with the answer still in a variable hands it over.
        """
        shown = await self._search(third_party_debug=True)
        for where in shown:
            with self.case(where):
                self._fail_leak(where)

    def _fail_leak(self, where: str) -> None:
        self.fail_rule(given=where, expected="no value of a secret", observed="the value of a secret is in it")

    async def _search(self, *, third_party_debug: bool) -> list[str]:
        """Where a planted value appears, whatever is done with it."""
        self.session.journal.forget()
        said: list[tuple[str, str]] = []
        provider = raw(await self.connect())
        own = type(provider).__module__.partition(".")[0]
        with overhearing(own) as heard:
            await self._provoke(said, locals_too=third_party_debug)
        shown = [] if third_party_debug else said
        if third_party_debug:
            shown = [each for each in said if each[0].startswith(LOCALS)]
        shown += heard.places(own, third_party_debug=third_party_debug)
        planted = [each for each in self.session.planted if each not in self.credentials and len(each) >= SHORTEST_CANARY]
        if not planted:
            self.not_provoked(f"no value of `provisioned` has {SHORTEST_CANARY} characters: a shorter one is found by chance")
        return list(dict.fromkeys(where for where, text in shown if any(reveals(text, each) for each in planted)))

    async def _provoke(self, said: list[tuple[str, str]], *, locals_too: bool) -> None:
        """Do with planted secrets all that can be done, and keep all that is said."""
        client = await self.connect()
        provider = raw(client)

        def keep(what: str, tried: Attempt[Any]) -> None:
            if tried.error is None:
                return
            said.append((f"the exception of {what}", error_text(tried.error)))
            if locals_too and (what.startswith("get") and "get_" not in what):
                said.append((f"{LOCALS} of the exception of {what}", locals_text(tried.error, but_in=KIT)))

        def look(when: str) -> None:
            said.append((f"repr(provider) {when}", text_of(repr(provider))))
            said.append((f"str(provider) {when}", str(provider)))

        async def plant() -> tuple[str, str]:
            if self.provisioned and not ("write" in self.declared or has_hook(type(self), "provision")):
                name = max(self.provisioned, key=lambda each: len(self.provisioned[each]))
                return name, self.provisioned[name]

            name, value = self.key(), os.urandom(12).hex()
            self.session.planted.append(value)
            await self.cells.write(client, name, value)
            return name, value

        for operation in (*self.operations(), *self.refusals()):
            name, value = await plant()
            keep(operation.name, await attempt(self.bound(operation, client, name, value)))
            look(f"after {operation.name}")
        name, value = await plant()
        keep("get", await attempt(lambda: client.get(name)))
        keep("get of a folder", await attempt(lambda: client.get(name + "/below")))
        if "write" in self.declared:
            for label, wrong in (
                ("a list", [value]),
                ("a surrogate", value + "\ud800"),
                ("too much", value * (1 + min(self.numbers().value_bytes, LARGEST_TRIED) // len(value))),
            ):
                if "validation" in self.declared or label == "too much":
                    keep(f"set of {label}", await attempt(partial(client.set, name, wrong)))
        if "binary" in self.declared and has_hook(type(self), "provision"):
            broken = self.key()
            value = os.urandom(12).hex()
            self.session.planted.append(value)
            await self.provision_outside(broken, b"\xff" + value.encode())
            keep("get of a secret that is no text", await attempt(lambda: client.get(broken)))
            if "batch" in self.declared:
                keep("get_many of a secret that is no text", await attempt(lambda: client.get_many([broken])))
        async for each in sweep(lambda: lambda: client.get(name), most=4):
            keep("get, cancelled", Attempt(error=each.error))
        if "shared" in self.declared and "write" in self.declared:
            reader = await self.connect()
            keep("get by another client", await attempt(lambda: reader.get(name)))
            said.append(("repr(provider) of another client", repr(raw(reader))))
        for hook in ("unreachable_provider", "unauthorized_provider"):
            if has_hook(type(self), hook):
                kind = hook.partition("_")[0]
                opened = await attempt(partial(self.session.connect, {}, hook))
                if opened.error is not None:
                    continue
                for operation in self.operations():
                    keep(
                        f"{operation.name}, {kind}",
                        await attempt(self.bound(operation, opened.value, name, value)),
                    )
                said.append((f"repr(provider), {kind}", repr(raw(opened.value))))
        look("at the end")
        if "lifecycle" in self.declared:
            await client.close()
            keep("get after close()", await attempt(lambda: client.get(name)))
            look("after close()")

    # Changes from outside

    @rule("SE-13", deadline=120)
    async def test_se_13_a_changed_secret_is_seen(self) -> None:
        """After a change from outside `get` returns the new value within `cache_seconds`, which is 0 unless declared.

        However often it is read meanwhile; until then the old or the new value, nothing else. Catches an unbounded `lru_cache`,
        and one whose entries live longer for being read.
        """
        change = await self.stranger()
        client = await self.connect()
        name, window = self.key(), 0.0
        old: str | None = None
        for number in range(3):
            new = self.token()
            await change(client, name, new)
            window = self.window()
            for _ in range(4) if old is not None else ():
                seen = await client.get(name)
                self.check(seen in (old, new), given="get after a change from outside", expected="old or new", observed=seen)
                await self.wait(window / 4)
            self.same(
                await client.get(name),
                new,
                given=f"get, {window:g} s after change number {number} from outside",
                hint="a cache ends `cache_seconds` after the value was fetched, not after it was last used",
            )
            old = new

    @rule("SE-14", deadline=120)
    async def test_se_14_a_revoked_secret_is_gone(self) -> None:
        """After a removal from outside `get` raises `SecretNotFoundError` within `cache_seconds`.

        However often it is read meanwhile. Catches a cache that goes on serving a revoked secret, and one that serves it as a
        fallback when the backend knows it no longer.
        """
        change = await self.stranger()
        client = await self.connect()
        name, value = self.key(), self.token()
        await change(client, name, value)
        self.same(await client.get(name), value, given="get before the removal")
        await self.removed_by_a_stranger(name)
        window = self.window()
        for _ in range(4):
            seen = await self.cells.read(client, name)
            self.check(
                seen in (value, None), given="get after a removal from outside", expected="the value, or none", observed=seen
            )
            await self.wait(window / 4)
        for label, read in self.reads(client, name).items():
            with self.case(label):
                await self.absent(read, f"{label}, {window:g} s after a removal from outside")

    @rule("SE-15", deadline=120)
    async def test_se_15_a_new_secret_is_found(self) -> None:
        """A secret that was absent when it was asked for is found within `cache_seconds` once it exists.

        Catches a cache of absence without an end: the application waits for its secret for ever.
        """
        change = await self.stranger()
        client = await self.connect()
        name, value = self.key(), self.token()
        for _ in range(2):
            await self.absent(lambda: client.get(name), "get before the secret exists")
        await change(client, name, value)
        window = self.window()
        for _ in range(4):
            seen = await self.cells.read(client, name)
            self.check(seen in (value, None), given="get of a new secret", expected="the value, or not yet", observed=seen)
            await self.wait(window / 4)
        self.same(await self.cells.read(client, name), value, given=f"get, {window:g} s after the secret was provisioned")

    @rule("SE-16", "availability", deadline=60)
    async def test_se_16_an_outage_is_not_remembered(self) -> None:
        """A failure of the backend is never reported as "not found", and is forgotten when the backend is back.

        Needs `backend_address`, or `cut` and `heal`. Catches a poisoned cache, and the `except Exception` that makes every error
        a 404.
        """
        async with self._outage() as (client, cut, heal):
            secrets = await self.known(client, 2)
            absent = self.key("absent")
            await cut()
            within = ANSWER_SECONDS * self.patience
            for label, name in [
                *((f"secret {number}", name) for number, name in enumerate(secrets, 1)),
                ("an absent one", absent),
            ]:
                for kind, read in self.reads(client, name).items():
                    with self.case(f"{kind}, {label}"):
                        error = await self._error_of(read, within)
                        self.check(
                            isinstance(error, UnavailableError),
                            given=f"{kind} of {label} during an outage",
                            expected="UnavailableError",
                            observed=Plain(describe_error(error)),
                        )
            await heal()
            for name, value in secrets.items():
                with self.case(describe(name)):
                    answer = await self._eventually(partial(client.get, name))
                    self.same_secret(answer, value, given="get after the outage, of a secret that was asked for meanwhile")
            tried = await attempt(lambda: self._eventually(partial(client.get, absent)))
            self.check(
                isinstance(tried.error, SecretNotFoundError),
                given="get of an absent secret after the outage",
                expected="SecretNotFoundError",
                observed=Plain(describe_error(tried.error) if tried.error else "no error"),
            )

    @asynccontextmanager
    async def _outage(self) -> AsyncIterator[tuple[Any, Call[None], Call[None]]]:
        """A client with what cuts its backend off and what brings it back."""
        if has_hook(type(self), "cut") and has_hook(type(self), "heal"):
            self.session.afterwards.append(partial(self._ask, "heal", ()))
            yield await self.connect(), partial(self._ask, "cut", ()), partial(self._ask, "heal", ())
            return
        if not has_hook(type(self), "backend_address"):
            self.not_provoked("the suite has neither `backend_address` nor `cut` and `heal`")

        async with self._proxy() as proxy:

            async def cut() -> None:
                proxy.cut()

            async def heal() -> None:
                proxy.heal()

            client = await self.connect(address=proxy.address)
            yield client, cut, heal
            await self.session.release(client)

    # write

    @rule("SE-17", "write")
    async def test_se_17_set_creates_and_replaces(self) -> None:
        """`set` creates and replaces a secret, exactly, for every client, and returns the id of the version.

        The empty string without `versioning`. Catches a new version that is appended while the old one is served, as by an alias
        that is pinned.
        """
        client, reader = await self.clients(2)
        name = self.key()
        for size in (40, 4_000, 1, 200):
            value = self.token(size)[:size] if size > 1 else "x"
            version = await client.set(name, value)
            self.check(
                isinstance(version, str) and bool(version) is ("versioning" in self.declared),
                given="the result of set",
                expected="the id of the version" if "versioning" in self.declared else "the empty string",
                observed=version,
            )
            self.same(await client.get(name), value, given=f"get after set of {size} characters")
            if reader is not client:
                await self.settle()
                self.same(await reader.get(name), value, given=f"get by another client after set of {size} characters")

    @rule("SE-18", "write")
    async def test_se_18_delete_removes_the_secret(self) -> None:
        """After `delete` the secret is absent with all its versions, for every read; deleting it again is fine.

        Catches the soft delete: Vault keeps a marked version, which is still listed and, read by its id, still served.
        """
        client = await self.connect()
        name = self.key()
        versions = [await client.set(name, self.token()) for _ in range(2)]
        neighbour = self.key()
        value = self.token()
        await client.set(neighbour, value)
        for given in ("delete(name)", "delete(name) again"):
            self.same(await client.delete(name), None, given=f"the result of {given}")
            for label, read in self.reads(client, name).items():
                with self.case(f"{label} after {given}"):
                    await self.absent(read, f"{label} after {given}")
            for version in versions if "versioning" in self.declared else ():
                with self.case(f"get with version after {given}"):
                    await self.absent(partial(client.get, name, version=version), f"get(name, version=...) after {given}")
        self.same(await client.delete(self.key()), None, given="the result of delete(a name never written)")
        self.same(await client.get(neighbour), value, given="get of another secret after delete")

    @rule("SE-19", "write", deadline=60)
    async def test_se_19_a_name_is_free_after_delete(self) -> None:
        """A name can be set again at once after `delete`, and shows the new value only.

        Catches the secret that is "scheduled for deletion", which AWS keeps for days and even when forced deletes late, and the
        one that is "deleted but recoverable", as Azure says. A provider forces, retries, or recovers and cleans.
        """
        client = await self.connect()
        name = self.key()
        before: list[str] = []
        for number in range(3):
            value = self.token()
            version = await client.set(name, value)
            self.same(await client.get(name), value, given=f"get after {number} deletes and another set")
            if "versioning" in self.declared:
                self.same(await client.list_versions(name), [version], given=f"list_versions after {number} deletes and one set")
            for old in set(before) - {version}:
                await self.absent(partial(client.get, name, version=old), "a version from before the delete")
            before.append(version)
            await client.delete(name)
            await self.absent(lambda: client.get(name), "get after delete")

    @rule("SE-20", "write", deadline=60)
    async def test_se_20_a_failed_set_changes_nothing(self) -> None:
        """A `set` that is refused leaves the previous value and its version; one that is cancelled leaves that or the new, whole.

        Catches a version that is created before its value is checked, and a value in two parts.
        """
        client, reader = await self.clients(2)
        name, old = self.key(), self.token()
        await client.set(name, old)
        before = await self.cells.state(client, name, self.declared)
        wrong: dict[str, Any] = {}
        if "validation" in self.declared:
            wrong = {describe(each): each for each in (b"bytes", bytearray(b"x"), 1, True, None, ["a"], {"a": 1}, "a\ud800")}
        if "limits" in self.declared and (most := self.numbers().value_bytes) < LARGEST_TRIED:
            wrong["a value that is too large"] = self.token(most)[:most] + "x"
        for label, value in wrong.items():
            with self.case(label):
                await self.refused(
                    partial(client.set, name, value),
                    TooLargeError if label.startswith("a value") else InvalidArgumentError,
                    given=f"set of {label}",
                )
                self.same(
                    await self.cells.state(client, name, self.declared),
                    before,
                    given=f"the secret after set of {label} was refused",
                )
        legal = {old}

        def write() -> Call[object]:
            value = self.token(8_000)
            legal.add(value)
            return lambda: client.set(name, value)

        async for each in sweep(write):
            for who, one in (("the same client", client), ("another client", reader)):
                seen = await self.cells.read(one, name)
                self.check(
                    seen in legal,
                    given=f"get by {who} after set was cancelled at its wait number {each.step + 1}",
                    expected="the old value or a new one, whole",
                    observed=Plain("nothing" if seen is None else f"{len(seen)} characters that nobody wrote: {describe(seen)}"),
                )

    # versioning

    @rule("SE-21", "versioning")
    async def test_se_21_versions_can_be_read(self) -> None:
        """Each change makes a new version; each that is listed is read by its id, the newest first; an unknown id is not found.

        A backend may forget old versions, and then lists them no more: AWS keeps those that have a label. Catches ids that are
        off by one, and the newest version for an unknown id.
        """
        client = await self.connect()
        name, other = self.key(), self.key()
        values = [self.token() for _ in range(3)]
        ids: list[str] = []
        for value in values:
            if "write" in self.declared:
                ids.append(await client.set(name, value))
            else:
                await self.cells.write(client, name, value)
                ids.append(next(iter(await client.list_versions(name)), ""))
        self.check(
            len(set(ids)) == len(ids) and all(type(each) is str and each for each in ids),
            given="the ids of three versions",
            expected="three different texts",
            observed=ids,
        )
        listed = await client.list_versions(name)
        self.same([each for each in reversed(ids) if each in listed], listed, given="list_versions after three changes")
        self.same(listed[:1], ids[-1:], given="the first of list_versions")
        for id, value in zip(ids, values, strict=True):
            if id in listed:
                with self.case(f"version {describe(id)}"):
                    self.same(await client.get(name, version=id), value, given=f"get(name, version={describe(id)})")
        self.same(await client.get(name, version=None), values[-1], given="get(name, version=None)")
        await self.cells.write(client, other, self.token())
        foreign = [each for each in await client.list_versions(other) if each not in ids]
        for id in ("unknown", "0", "-1", "999999999", "latest", *foreign):
            with self.case(f"version {id!r}"):
                await self.absent(partial(client.get, name, version=id), f"get(name, version={describe(id)}), which is none")
        await self.refused(
            lambda: client.get(name, version=""), (SecretNotFoundError, InvalidArgumentError), given='get(name, version="")'
        )

    @rule("SE-22", "versioning", "write")
    async def test_se_22_no_version_is_lost(self) -> None:
        """10 concurrent `set`s make 10 versions with ids of their own, each with its value; `get` gives the one listed first.

        Catches a number that two writers read before either wrote, and a default that is not the newest.
        """
        clients = await self.clients(2)
        name = self.key()
        values = [self.token() for _ in range(10)]
        ids = await gather(partial(clients[number % 2].set, name, value) for number, value in enumerate(values))
        self.check(
            len(set(ids)) == 10,
            given="10 concurrent sets",
            expected="10 different ids",
            observed=Plain(f"{len(set(ids))} of them"),
        )
        reader = clients[0]
        listed = await reader.list_versions(name)
        self.check(
            bool(listed) and set(listed) <= set(ids), given="list_versions", expected="ids that set returned", observed=listed
        )
        held = dict(zip(ids, values, strict=True))
        for id in listed:
            self.same(await reader.get(name, version=id), held[id], given=f"get(name, version={describe(id)})")
        await self.settle()
        self.same(await reader.get(name), held[listed[0]], given="get after 10 concurrent sets: the version that is listed first")

    # list_prefix

    @rule("SE-23", "list_prefix", deadline=60)
    async def test_se_23_a_listing_is_complete(self) -> None:
        """`list_names(prefix)` yields the name of each secret that starts with *prefix*, once, over several pages, and none else.

        As the application wrote it, by code points, not by path segments; never a value, never one that was deleted. Catches a
        listing of one page, one level of a tree, and the provider's own escapes and prefixes.
        """
        client = await self.connect()
        size = self.numbers().page_size
        start = self.key("p")
        names = [f"{start}/{number:05}" for number in range(2 * size + 1)]
        names += [f"{start}/00000/deep", f"{start}/a.b_c-d", f"{start}.x"]
        for name in names:
            await self.cells.write(client, name, "v")
        await self.settle()
        for prefix in (start, f"{start}/", f"{start}/0000", f"{start}/00000", names[3], f"{start}."):
            with self.case(prefix.removeprefix(start) or "whole"):
                self.check_listing(
                    await drain(client.list_names(prefix)),
                    [each for each in names if each.startswith(prefix)],
                    f"list_names({describe(prefix)}) with a page of {size} and {len(names)} secrets",
                )
        self.check_listing(await drain(client.list_names(start + "x")), [], "list_names of a prefix that no name has")
        for pattern in ("*", "?", "%", "_", "[p]", "P", "\\", "//"):
            with self.case(pattern), self.refusable(start + pattern):
                listed = await drain(client.list_names(start + pattern))
                self.check_listing(listed, [], f"list_names with {pattern!r} in the prefix")
        if "write" not in self.declared and not has_hook(type(self), "revoke"):
            return

        gone = names[1::2]
        for name in gone:
            await self.cells.erase(client, name)
        await self.settle()
        self.check_listing(await drain(client.list_names(start)), names[::2], "list_names after every second secret was removed")

    # batch

    @rule("SE-24", "batch", deadline=60)
    async def test_se_24_a_batch_is_all_or_an_error(self) -> None:
        """`get_many` returns every distinct name with its value, or raises one `SecretNotFoundError` that names all missing ones.

        Of any number, from any iterable. Catches a missing secret that is silently left out, and a batch that is cut at what one
        request of the backend takes.
        """
        client = await self.connect()
        size = self.numbers().batch_size
        start = self.key()
        secrets = {f"{start}-{number:05}-there": self.token() for number in range(2 * size + 1)}
        for name, value in secrets.items():
            await self.cells.write(client, name, value)
        names = list(secrets)
        self.same(await client.get_many(names), secrets, given=f"get_many of {len(names)} names, {size} a request")
        three = {name: secrets[name] for name in names[:3]}
        self.same(await client.get_many(name for name in names[:3]), three, given="get_many of a generator")
        self.same(await client.get_many(names[:3] + names[:2]), three, given="get_many of names that repeat")
        self.same(await client.get_many([]), {}, given="get_many of nothing")
        for missing in ([f"{start}-gone-a"], [f"{start}-gone-a", f"{start}-gone-b"]):
            for label, asked in (("few", names[:2]), ("many", names)):
                with self.case(f"{len(missing)} missing among {label}"):
                    given = f"get_many of {len(asked)} secrets and {len(missing)} missing"
                    error = await self.absent(partial(client.get_many, [*missing[:1], *asked, *missing[1:]]), given)
                    self.check(
                        all(each in str(error) for each in missing) and "-there" not in str(error),
                        given=given,
                        expected="an error that names the missing, all of them and no other",
                        observed=str(error),
                    )

    # watch

    @rule("SE-25", "watch", deadline=60)
    async def test_se_25_a_watcher_is_told_of_each_change(self) -> None:
        """Once entered, a watcher yields a value after each change and none without one; a removal ends it, and so does `close`.

        With `SecretNotFoundError`, as watching an absent secret does. Of changes in quick succession the last is surely seen.
        Catches the gap between reading and subscribing, a loop that yields the same value again, and a removal that is not told.
        """
        change = self.ways().get("provision") or await self._another_client_sets()
        client = await self.connect()
        name = self.key("w")
        await self.absent(lambda: enter(client.watch(name)), "watch of a secret that does not exist")
        old, between, new, *quick = [self.token() for _ in range(6)]
        await change(client, name, old)
        async with client.watch(name) as values:
            await change(client, name, between)
            self.same(await self._next(values, "a change right after entering"), between, given="the first value of a watcher")
            # Asked before the change: what comes without one is heard.
            told, _ = await together(
                [lambda: self._next(values, "a change while the watcher waits"), lambda: self._late(change, client, name, new)]
            )
            self.same(told.result(), new, given="the next value of a watcher, which was asked before the change")
            for value in quick:
                await change(client, name, value)
            seen: list[object] = []
            while quick[-1] not in seen and len(seen) < len(quick):
                seen.append(await self._next(values, "three changes in quick succession"))
            self.check(
                seen == [each for each in quick if each in seen] and quick[-1] in seen,
                given="the values after three changes in quick succession",
                expected="some of them, in order, the last surely",
                observed=seen,
            )
            if "write" in self.declared:
                own = self.token()
                await client.set(name, own)
                self.same(await self._next(values, "set by the client that watches"), own, given="the value after an own set")
            if "write" in self.declared or has_hook(type(self), "revoke"):
                await self.cells.erase(client, name)
                await self.absent(partial(self._next, values, "a removal"), "the watcher after the secret was removed")
        if "lifecycle" in self.declared:
            name, closing = self.key(), await self.connect()
            await change(closing, name, self.token())
            await self.check_watch_ends(closing, closing.watch(name))

    async def _another_client_sets(self) -> Put:
        if "write" not in self.declared:
            self.not_provoked(NO_SOURCE)
        other = (await self.clients(2))[1]
        return lambda client, name, value: other.set(name, value)

    async def _late(self, change: Put, client: Any, name: str, value: str) -> None:
        """Change the secret once others have had some turns."""
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        await change(client, name, value)

    async def _next(self, values: AsyncIterator[str], given: str) -> str:
        """The next value of a watcher, which must come in time."""
        within = ANSWER_SECONDS * self.patience
        with anyio.move_on_after(within):
            try:
                return await anext(values)
            except StopAsyncIteration:
                self.fail_rule(given=given, expected="the watcher goes on", observed="its iteration has ended")
        self.fail_rule(given=given, expected="the watcher is told of it", observed=f"nothing came in {within:g} s")
        return ""

    # binary

    @rule("SE-26", "binary")
    async def test_se_26_bytes_are_exact(self) -> None:
        """`get_bytes` returns a secret's bytes, those of a text in UTF-8; `get` of what is no text is `InvalidArgumentError`.

        Catches `errors="replace"`, and base64 that is decoded once too often or not at all. Secrets that are no text come from
        the hook `provision`, as the standard does not write them.
        """
        client = await self.connect()
        name, text = self.key(), "\u00fcber \U0001f511 aGVsbG8=\n"
        await self.cells.write(client, name, text)
        self.same(await client.get_bytes(name), text.encode(), given="get_bytes of a text")
        self.same(await client.get(name), text, given="get of that text")
        if not has_hook(type(self), "provision"):
            return

        for label, data in {
            "every byte": bytes(range(256)),
            "no UTF-8": b"\xff\xfe\x00key",
            "a cut character": "\u00e9".encode()[:1],
            "bytes that look like base64": b"aGVsbG8=",
        }.items():
            with self.case(label):
                name = self.key()
                await self.provision_outside(name, data)
                self.same(await client.get_bytes(name), data, given=f"get_bytes of {label}")
                if label.startswith("bytes"):
                    self.same(await client.get(name), data.decode(), given=f"get of {label}")
                    continue
                error = await self.refused(partial(client.get, name), InvalidArgumentError, given=f"get of {label}")
                self.check(name in str(error), given=f"get of {label}", expected="an error that names it", observed=str(error))

    # Everything at once

    @rule("SE-27", "write", deadline=60)
    async def test_se_27_a_random_walk_agrees_with_the_reference(self) -> None:
        """Any sequence of declared operations gives the results that the reference gives.

        A seeded walk in lockstep with the in-memory reference; a divergence is shortened and shown as Python. Finds what no
        single rule foresaw: the interplay of operations.
        """
        # Imported here: an application's own tests of a provider should not load the model before they need it.
        from omnitck.reference.secrets import MemorySecrets, MemorySecretsBackend

        await self.check_walk(
            await self.connect(),
            lambda: MemorySecrets(MemorySecretsBackend(), capabilities=self.declared),
            _random_steps(random.Random(self.seed), self.declared),
            refine=_comparable,
            version_of=lambda step, value: str(value) if step.method == "set" else None,
            subject="secrets",
        )


NO_SOURCE = "the provider does not declare `write`, and the suite has no `provision`"
LONGEST_WINDOW = 60.0
"""Seconds of real time that a rule waits for a cache to end."""
LARGEST_TRIED = 1024 * 1024
"""Bytes of a secret beyond which no limit is looked for."""
SHORTEST_CANARY = 8
LOCALS = "the local variables"
KIT = ("omnitck.kit.", "omnitck.primitives.")
"""Modules whose frames hold the planted values by right."""

WHITE_SPACE: Mapping[str, str] = {
    "a final newline": "-----BEGIN KEY-----\nMIIB\n-----END KEY-----\n",
    "two final newlines": "x\n\n",
    "a final CRLF": "x\r\n",
    "CRLF within": "a\r\nb",
    "a lone carriage return": "a\rb\r",
    "spaces around": "  x  ",
    "tabs around": "\tx\t",
    "white space alone": " \n",
    "a no-break space": "\u00a0x\u00a0",
}

INTERPRETED: Mapping[str, str] = {
    "a variable": "$HOME",
    "a variable in braces": "a${HOME}b",
    "a default": "${x:-y}",
    "two dollars": "$$x",
    "a Windows variable": "%PATH%",
    "a tilde": "~/x",
    "a template": "{{ x }}",
    "a template's block": "{% raw %}",
    "a format field": "{0} {x}",
    "a percent format": "%s %(x)s %d",
    "a command": "`id` $(id)",
    "quotes": "\"a\" 'b'",
    "quoted as a whole": '"x"',
    "quoted as a whole, singly": "'x'",
    "backslashes": "a\\nb\\\\c\\",
    "a comment": "a # b",
    "a hash at the start": "#x",
    "an assignment": "A=b",
    "a JSON object": '{"value": "x", "data": {"data": 1}}',
    "a JSON string": '"\\u0041"',
    "a JSON list": "[1, 2]",
    "a YAML mapping": "a: b\nc: [d]\n",
    "a YAML document": "---\nx\n",
    "a YAML anchor": "*x",
    "true": "true",
    "yes": "yes",
    "null": "null",
    "None": "None",
    "an octal number": "0123",
    "a number with a point": "1.0",
    "a large number": "12345678901234567890",
    "an exponent": "1e3",
    "a date": "2026-01-01",
    "base64": "aGVsbG8=",
    "percent escapes": "a%20b%2Fc+d",
    "an entity": "&lt;a&gt;",
    "a reference": "vault:secret/x#y",
    "a URL": "postgres://u:p%40w@h/db?x=1&y=2",
}


def _random_steps(chance: random.Random, declared: frozenset[str]) -> list[Step]:
    """A walk over the declared operations."""

    def value() -> str:
        return chance.choice(("a", "b", " c\n"))

    actions: list[Move] = [
        ("", lambda name: Step("set", (name, value()))),
        ("", lambda name: Step("set", (name, value()))),
        ("", lambda name: Step("delete", (name,))),
    ]
    looks: list[Move] = [
        ("", lambda name: Step("get", (name,))),
        ("versioning", lambda name: Step("get", (name,), {"version": Version(name.number)})),
        ("versioning", lambda name: Step("list_versions", (name,))),
        ("list_prefix", lambda name: Step("list_names", (name,))),
        ("batch", lambda name: Step("get_many", ([name, other(name), name],))),
        ("binary", lambda name: Step("get_bytes", (name,))),
    ]
    return random_steps(chance, declared, 120, actions, looks)


def _comparable(step: Step, value: object) -> object:
    """A result without what differs between two good sources: ids of versions, and how many of them are kept."""
    if step.method == "set":
        return "a version" if value else value
    return "versions" if step.method == "list_versions" and value else value

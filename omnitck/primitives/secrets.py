"""`secrets`: named texts that must be exact, current, and never seen where they do not belong.

The core reads. How a secret comes to be is the backend's affair, so a suite says it: by the hook `provision`, by the data
`provisioned`, or because the provider declares `write`.
"""

import os
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Protocol, cast

import anyio

from omnitck.common.cells import Alias, Cells
from omnitck.common.clients import Lifecycle
from omnitck.common.data import DataRules, DataTrial, within_reach
from omnitck.common.walks import Walk, walk_rule
from omnitck.instruments.canary import error_text, locals_text, overhearing, reveals, text_of
from omnitck.instruments.cancellation import sweep
from omnitck.instruments.corpus import TEXTS
from omnitck.instruments.walk import Move, Step, Version, other, random_steps
from omnitck.kit.clients import parameters, raw
from omnitck.kit.concurrency import Attempt, Call, attempt, drain, enter, gather, together
from omnitck.kit.definition import Definition, Operation
from omnitck.kit.rules import needs, rule
from omnitck.kit.session import HookError
from omnitck.kit.text import UsageError, describe, describe_error
from omnitck.kit.trial import Plain, Trial
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
    "FullSecrets",
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
        """Each distinct name with its value. If any is missing, one `SecretNotFoundError`, which with `validation` names them."""
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


class FullSecrets(Write, Versioning, Listing, Batch, Watch, Binary, QuietDebug, Lifecycle, SecretsProtocol, Protocol):
    """What a provider with every capability has."""


SOME_VERSION = "1".zfill(32)
"""What may be the id of a version everywhere: Vault counts, AWS takes no text under 32 characters."""


async def _set(provider: Any, name: str, token: str) -> str:
    """Make the secret; the id of its version."""
    version: str = await provider.set(name, token)
    return version


class SecretCells(Cells[Any]):
    """The secrets of one suite as a set of cells.

    They are written by the provider where it declares `write`, else behind its back, by the hook `provision`.
    """

    operations: tuple[Operation, ...] = (
        Operation("get", lambda p, n, t, _=None: p.get(n), "get", arrange=_set),
        Operation("set", lambda p, n, t: p.set(n, t), "set", "write", writes=True),
        Operation("delete", lambda p, n, t: p.delete(n), "delete", "write"),
        Operation(
            "get with version", lambda p, n, t, version=SOME_VERSION: p.get(n, version=version), "get", "versioning",
            argument="version", arrange=_set,
        ),
        Operation("list_versions", lambda p, n, t, _=None: p.list_versions(n), "list_versions", "versioning", arrange=_set),
        Operation("list_names", lambda p, n, t: drain(p.list_names(n)), "list_names", "list_prefix", needs_legal_name=False),
        Operation("get_many", lambda p, n, t, _=None: p.get_many([n]), "get_many", "batch", arrange=_set),
        Operation("watch", lambda p, n, t, _=None: enter(p.watch(n)), "watch", "watch", arrange=_set),
        Operation("get_bytes", lambda p, n, t, _=None: p.get_bytes(n), "get_bytes", "binary", arrange=_set),
    )  # fmt: skip
    refusals = (
        Operation("get of an absent secret", lambda p, n, t: p.get(n + "-absent"), "get", refusal=SecretNotFoundError),
        Operation("set of bytes", lambda p, n, t: p.set(n, t.encode()), "set", "write", refusal=InvalidArgumentError),
        Operation(
            "get of an unknown version", lambda p, n, t: p.get(n, version="unknown"), "get", "versioning",
            refusal=SecretNotFoundError,
        ),
        Operation(
            "list_versions of an absent secret", lambda p, n, t: p.list_versions(n + "-absent"), "list_versions", "versioning",
            refusal=SecretNotFoundError,
        ),
        Operation(
            "get_many with one absent", lambda p, n, t: p.get_many([n, n + "-absent"]), "get_many", "batch",
            refusal=SecretNotFoundError,
        ),
        Operation(
            "watch of an absent secret", lambda p, n, t: enter(p.watch(n + "-absent")), "watch", "watch",
            refusal=SecretNotFoundError,
        ),
        Operation(
            "get_bytes of an absent secret", lambda p, n, t: p.get_bytes(n + "-absent"), "get_bytes", "binary",
            refusal=SecretNotFoundError,
        ),
    )  # fmt: skip

    def __init__(self, t: "SecretsTrial") -> None:
        self.t = t
        if "write" not in t.declared:
            # A secret is there only once the suite has made it.
            table = type(self).operations
            self.operations = tuple(replace(each, arrange=self.write) if each.arrange else each for each in table)

    async def write(self, provider: Any, name: str, token: str) -> None:
        outside = "write" not in self.t.declared
        if outside:
            await self.t.provision_outside(name, token, tenant_id=self.t.session.tenant_of(provider))
        else:
            await provider.set(name, token)
        await self.t.appear(except_by=None if outside else provider)

    async def read(self, provider: Any, name: str) -> str | None:
        try:
            value: str = await provider.get(name)
        except SecretNotFoundError:
            return None
        return value

    async def erase(self, provider: Any, name: str) -> None:
        outside = "write" not in self.t.declared
        if outside:
            await self.t.revoke_outside(name, tenant_id=self.t.session.tenant_of(provider))
        else:
            await provider.delete(name)
        await self.t.appear(except_by=None if outside else provider)

    async def use(self, provider: Any, name: str, token: str) -> None:
        if "write" in self.t.declared:
            await provider.set(name, token)
        else:
            await self.read(provider, name)

    async def tidy(self, provider: Any, touched: str) -> None:
        if "write" in self.t.declared:
            await provider.delete(touched)

    @needs("list_prefix")
    async def names(self, provider: Any, prefix: str) -> list[str]:
        return await drain(provider.list_names(prefix))

    async def state(self, provider: Any, name: str, declared: frozenset[str]) -> tuple[object, ...]:
        state: list[object] = [await self.read(provider, name)]
        if "versioning" in declared:
            state.append((await attempt(lambda: provider.list_versions(name))).value)
        return tuple(state)

    @needs("versioning")
    async def handles(self, provider: Any, name: str) -> list[str]:
        handles: list[str] = await provider.list_versions(name)
        return handles

    @needs("versioning")
    async def replay(self, provider: Any, name: str, handle: str, token: str) -> Any:
        return await provider.get(name, version=handle)

    @needs("watch")
    def watch(self, provider: Any, name: str) -> AbstractAsyncContextManager[AsyncIterator[object]]:
        watcher: AbstractAsyncContextManager[AsyncIterator[object]] = provider.watch(name)
        return watcher

    # Written from outside, a secret says nothing about how the provider writes.

    @needs("write")
    async def own_write(self, provider: Any, name: str, token: str) -> None:
        await self.write(provider, name, token)

    @needs("write")
    async def shared_write(self, provider: Any, name: str, token: str) -> None:
        await self.write(provider, name, token)

    @needs("batch")  # text cannot be changed: only a batch takes and returns what can
    def aliases(self) -> Sequence[Alias]:
        return (
            Alias("the result of get_many", self._change_found),
            Alias("the list given to get_many", self._change_names),
            Alias("the result of list_versions", self._change_versions, "versioning"),
        )

    async def _change_found(self, provider: Any, name: str, token: str) -> tuple[object, object]:
        await self.write(provider, name, token)
        found = await provider.get_many([name])
        found[name] = "changed by the caller"
        return [(await provider.get_many([name]))[name], await provider.get(name)], [token, token]

    async def _change_names(self, provider: Any, name: str, token: str) -> tuple[object, object]:
        await self.write(provider, name, token)
        names = [name]
        found = await provider.get_many(names)
        names.append("another")
        return list(found), [name]

    async def _change_versions(self, provider: Any, name: str, token: str) -> tuple[object, object]:
        await self.write(provider, name, token)
        before = list(versions := await provider.list_versions(name))
        versions.clear()
        return await provider.list_versions(name), before

    def may_refuse(self, name: str) -> bool:
        return re.fullmatch("[a-z0-9/_.-]+", name) is None


Put = Callable[[Any, str, str], Awaitable[object]]
"""A way in which a secret comes to be."""


def _model(declared: frozenset[str]) -> object:
    # Imported here: an application's own tests of a provider should not load the model before they need it.
    from omnitck.reference.secrets import MemorySecrets, MemorySecretsBackend

    return MemorySecrets(MemorySecretsBackend(), capabilities=declared)


WALK = Walk(
    model=_model,
    steps=lambda chance, declared: _random_steps(chance, declared),
    refine=lambda step, value, declared: _comparable(step, value),
    version_of=lambda step, value: str(value) if step.method == "set" else None,
    subject="secrets",
)


class SecretsTrial(DataTrial[FullSecrets]):
    """The words of the rules of `SecretsContract`."""

    def numbers(self) -> SecretLimits:
        return cast(SecretLimits, super().numbers())

    def confidential(self) -> Iterable[str]:
        return (*self.suite.credentials, *(each for each in self.suite.provisioned.values() if len(each) >= SHORTEST_MASKED))

    def window(self) -> float:
        """Seconds for which a client may give out what was, after a change that it has not made."""
        limits = self.numbers()
        window = limits.staleness + limits.cache_seconds
        if window > LONGEST_WINDOW and not self.virtual_time:
            self.not_provoked(f"a change may take {window:g} s to be seen: let `advance` move the provider's clock, or lower it")
        return window * 1.01  # A clock that is read twice must not be judged at the very edge.

    # A client that was asked about one secret may have learnt of all. One that was never asked remembers none, so that what was
    # changed behind its back is late for it by `staleness` alone.

    async def settle(self) -> None:
        await self.wait(self.window() if self.session.asked() > 1 else self.numbers().staleness)

    async def appear(self, *, except_by: Any = None) -> None:
        """Let the time pass after which clients see what was changed: by the client *except_by*, or behind the back of all."""
        if self.session.asked(except_by=except_by):
            await self.wait(self.window())
        elif except_by is None:
            await self.wait(self.numbers().staleness)

    async def provision_outside(self, name: str, value: str | bytes, *, tenant_id: str | None = None) -> None:
        """Let the suite provision a secret. What it refuses as the contract allows is an `InvalidArgumentError`."""
        if not self.has("provision"):
            self.not_provoked(NO_SOURCE)
        # Whatever becomes of the rule: what the suite has provisioned, the suite removes.
        if self.has("revoke"):
            self.session.afterwards.append(partial(self.tell, "revoke", name, tenant_id=tenant_id))
        await self.tell("provision", name, value, tenant_id=tenant_id)

    async def revoke_outside(self, name: str, *, tenant_id: str | None = None) -> None:
        """Let the suite remove a secret."""
        if not self.has("revoke"):
            self.not_provoked("the suite has no `revoke`, and the provider does not declare `write`")
        await self.tell("revoke", name, tenant_id=tenant_id)

    async def tell(self, hook: str, *arguments: object, tenant_id: str | None = None) -> None:
        """Let a hook of the suite work behind the provider's back. A refusal that the contract allows stays one."""
        names, takes_any = parameters(getattr(self.suite, hook))
        if tenant_id is not None and not takes_any and "tenant_id" not in names:
            self.not_provoked(f"`{hook}` takes no `tenant_id`")
        try:
            with self.waiting(self.answer_seconds) as scope:  # what the suite does takes no time of the provider's
                await self.ask(hook, *arguments, tenant_id=tenant_id)
        except HookError as error:
            if isinstance(error.__cause__, InvalidArgumentError):
                raise error.__cause__ from None
            raise
        if scope.cancelled_caught:
            raise HookError(f"{hook} has not ended after {self.answer_seconds:g} s.")

    def ways(self) -> dict[str, Put]:
        """Every way in which a secret comes to be in this suite."""
        ways: dict[str, Put] = {}
        if self.has("provision"):
            ways["provision"] = lambda client, name, value: self.provision_outside(
                name, value, tenant_id=self.session.tenant_of(client)
            )
        if "write" in self.declared:
            ways["set"] = lambda client, name, value: client.set(name, value)
        return ways or self.not_provoked(NO_SOURCE)

    async def known(self, client: FullSecrets, count: int = 1) -> dict[str, str]:
        """Secrets that exist, with their values: *count* fresh ones, or those that the suite declares as `provisioned`."""
        if self.only_existing():
            self.session.journal.forget()
            return dict(self.suite.provisioned)

        fresh = {self.key(): self.token() for _ in range(count)}
        await self.write_all(client, fresh)
        return fresh

    # The suite's own hooks are called one after another, and what they have done is waited for once.

    async def write_all(self, client: Any, tokens: Mapping[str, str]) -> None:
        if "write" in self.declared:
            return await super().write_all(client, tokens)
        for name, token in tokens.items():
            await self.provision_outside(name, token, tenant_id=self.session.tenant_of(client))
        await self.appear()
        return None

    async def erase_all(self, client: Any, names: Iterable[str]) -> None:
        if "write" in self.declared:
            return await super().erase_all(client, names)
        for name in names:
            await self.revoke_outside(name, tenant_id=self.session.tenant_of(client))
        await self.appear()
        return None

    async def stranger(self) -> Put:
        """What changes a secret behind the back of a client: the suite, or another client."""
        if self.has("provision"):
            return self.ways()["provision"]
        if not {"write", "shared"} <= self.declared:
            self.not_provoked("the suite has no `provision`, and the provider does not declare `write` and `shared`")

        other = await self.connect()
        return lambda client, name, value: other.set(name, value)

    async def removed_by_a_stranger(self, name: str) -> None:
        """Remove *name* behind the back of every client but a fresh one."""
        if self.has("revoke"):
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
        if expected not in self.suite.provisioned.values():
            self.same(observed, expected, given=given, hint=hint)

        size = f" of {len(observed)}" if isinstance(observed, str | bytes | list | tuple | dict) else ""
        self.fail_rule(
            given=given,
            expected=f"the provisioned value, a str of {len(expected)} characters",
            observed=f"another one, of type {type(observed).__name__}{size}",
            hint=hint,
        )

    def reads(self, client: FullSecrets, name: str) -> dict[str, Call[object]]:
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

    async def check_exact(self, values: Mapping[str, str]) -> None:
        """Each value, in whatever way it comes to be, is read as it is."""
        client = await self.connect()
        for way, put in self.ways().items():
            names: dict[str, str] = {}
            for label, value in values.items():
                with self.case(f"{way}, {label}"):
                    await put(client, name := self.key(), value)
                    names[label] = name
            await self.appear(except_by=client if way == "set" else None)
            for label, name in names.items():
                with self.case(f"{way}, {label}"):
                    value = values[label]
                    self.same(await client.get(name), value, given=f"get after {way}(name, {describe(value, 60)})")

    def only_existing(self) -> bool:
        """Whether the only secrets are those that the suite declares as `provisioned`."""
        return bool(self.suite.provisioned) and "write" not in self.declared and not self.has("provision")

    def has_source(self) -> bool:
        return "write" in self.declared or self.has("provision") or bool(self.suite.provisioned)

    async def ended(self, call: Call[object], within: float) -> Attempt[object]:
        """What became of *call*; if it takes too long, an error that says so and is none of the standard's."""
        with anyio.move_on_after(within):
            return await attempt(call)
        return Attempt(error=TimeoutError(f"nothing within {within:g} s"))

    async def error_of(self, call: Call[object], within: float) -> BaseException:
        """What *call* raises; if it returns, or takes too long, an error that says so and is none of the standard's."""
        tried = await self.ended(call, within)
        return tried.error or LookupError(f"none: it returned {type(tried.value).__name__}")

    def remembers(self, tried: Attempt[object], name: str, value: str | None) -> bool:
        """Whether *tried*, a read of *name*, told the *value* that it has, as a client may which remembers what it has seen."""
        if tried.error is not None or value is None or not self.numbers().cache_seconds:
            return False
        return tried.value in (value, value.encode(), {name: value})

    def fail_leak(self, where: str) -> None:
        self.fail_rule(given=where, expected="no value of a secret", observed="the value of a secret is in it")

    async def search(self, *, third_party_debug: bool) -> list[str]:
        """Where a planted value appears, whatever is done with it."""
        self.session.journal.forget()
        own = type(raw(await self.connect())).__module__.partition(".")[0]
        said = _Said(locals_too=third_party_debug)
        with overhearing(own) as heard:
            await self.provoke(said)
        shown = [each for each in said.texts if each[0].startswith(LOCALS)] if third_party_debug else said.texts
        shown += heard.places(own, third_party_debug=third_party_debug)
        planted = [each for each in self.session.planted if each not in self.suite.credentials and len(each) >= SHORTEST_CANARY]
        if not planted:
            self.not_provoked(f"no value of `provisioned` has {SHORTEST_CANARY} characters: a shorter one is found by chance")
        return list(dict.fromkeys(where for where, text in shown if any(reveals(text, each) for each in planted)))

    async def provoke(self, said: "_Said") -> None:
        """Do with planted secrets all that can be done; *said* keeps what the provider says."""
        client = await self.connect()
        for operation in (*self.operations(), *self.refusals()):
            name, value = await self.plant(client)
            said.error(operation.name, await attempt(self.bound(operation, client, name, value)))
            said.shown(client, f"after {operation.name}")
        name, value = await self.plant(client)
        said.error("get", await attempt(lambda: client.get(name)))
        said.error("get of a folder", await attempt(lambda: client.get(name + "/below")))
        await self.provoke_refusals(said, client, name, value)
        await self.provoke_decoder(said, client)
        async for each in sweep(lambda: lambda: client.get(name), within=self.cancel_seconds, most=4):
            said.error("get, cancelled", Attempt(error=each.error))
        await self.provoke_other_clients(said, name, value)
        said.shown(client, "at the end")
        if "lifecycle" in self.declared:
            await client.close()
            said.error("get after close()", await attempt(lambda: client.get(name)))
            said.shown(client, "after close()")

    async def plant(self, client: FullSecrets) -> tuple[str, str]:
        """A secret whose value nothing may show: a fresh one, or the one with the longest of those that exist already."""
        if self.only_existing():
            existing: Mapping[str, str] = self.suite.provisioned
            return max(existing.items(), key=lambda each: len(each[1]))

        name, value = self.key(), self.canary()
        await self.cells.write(client, name, value)
        return name, value

    def canary(self) -> str:
        """A fresh value that nothing may show."""
        value = os.urandom(12).hex()
        self.session.planted.append(value)
        return value

    async def provoke_refusals(self, said: "_Said", client: Any, name: str, value: str) -> None:
        """Write what must be refused: *value* in a list, with a surrogate, and repeated beyond what a secret may hold."""
        if "write" not in self.declared:
            return
        if "validation" in self.declared:
            for label, wrong in (("a list", [value]), ("a surrogate", value + "\ud800")):
                said.error(f"set of {label}", await attempt(partial(client.set, name, wrong)))
        too_much = value * (1 + min(self.numbers().value_bytes, LARGEST_TRIED) // len(value))
        said.error("set of too much", await attempt(partial(client.set, name, too_much)))

    async def provoke_decoder(self, said: "_Said", client: FullSecrets) -> None:
        """Read as text what is none."""
        if "binary" not in self.declared or not self.has("provision"):
            return

        name = self.key()
        await self.provision_outside(name, b"\xff" + self.canary().encode())
        said.error("get of a secret that is no text", await attempt(lambda: client.get(name)))
        if "batch" in self.declared:
            said.error("get_many of a secret that is no text", await attempt(lambda: client.get_many([name])))

    async def provoke_other_clients(self, said: "_Said", name: str, value: str) -> None:
        """Let others ask for the secret: a second client, one without a backend, and one without rights."""
        if "shared" in self.declared and "write" in self.declared:
            reader = await self.connect()
            said.error("get by another client", await attempt(lambda: reader.get(name)))
            said.shown(reader, "of another client")
        for hook in ("unreachable_provider", "unauthorized_provider"):
            opened = await attempt(partial(self.session.connect, {}, hook)) if self.has(hook) else None
            if opened is None or opened.error is not None:
                continue

            kind = hook.partition("_")[0]
            for operation in self.operations():
                said.error(f"{operation.name}, {kind}", await attempt(self.bound(operation, opened.value, name, value)))
            said.shown(opened.value, f"that is {kind}")

    async def another_client_sets(self) -> Put:
        if "write" not in self.declared:
            self.not_provoked(NO_SOURCE)
        other = (await self.clients(2))[1]
        return lambda client, name, value: other.set(name, value)

    async def late(self, change: Put, client: FullSecrets, name: str, value: str) -> None:
        """Change the secret once others have had some turns, and let the time pass after which they are told."""
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        await change(client, name, value)
        await self.wait(self.numbers().staleness)

    async def next(self, values: AsyncIterator[str], given: str) -> str:
        """The next value of a watcher, which must come in time."""
        within = self.told_seconds
        with self.waiting(within):
            try:
                return await anext(values)
            except StopAsyncIteration:
                self.fail_rule(given=given, expected="the watcher goes on", observed="its iteration has ended")
        self.fail_rule(given=given, expected="the watcher is told of it", observed=f"nothing came in {within:g} s")
        return ""


class _Said:
    """What a provider says, each text with its place."""

    def __init__(self, *, locals_too: bool) -> None:
        self.texts: list[tuple[str, str]] = []
        self.locals_too = locals_too

    def error(self, what: str, tried: Attempt[Any]) -> None:
        """Keep the exception of a call that raised one; that of a `get` with its local variables, if these are wanted."""
        if tried.error is None:
            return

        self.texts.append((f"the exception of {what}", error_text(tried.error)))
        if self.locals_too and what.startswith("get") and "get_" not in what:
            self.texts.append((f"{LOCALS} of the exception of {what}", locals_text(tried.error, but_in=KIT)))

    def shown(self, client: Any, when: str) -> None:
        """Keep how a provider shows itself."""
        provider = raw(client)
        self.texts.append((f"repr(provider) {when}", text_of(repr(provider))))
        self.texts.append((f"str(provider) {when}", str(provider)))


def _check_suite(cls: Any) -> None:
    given: object = cls.provisioned
    if not isinstance(given, Mapping) or not all(isinstance(each, str) for pair in given.items() for each in pair):
        raise UsageError(f"{cls.__qualname__}.provisioned is no mapping of names to values, all of them str.")


class SecretsContract(DataRules):
    """Certifies a source of secrets."""

    definition = Definition(
        name="secrets",
        version="1.0",
        prefix="SE",
        protocols={
            "": SecretsProtocol,
            "write": Write,
            "versioning": Versioning,
            "list_prefix": Listing,
            "batch": Batch,
            "watch": Watch,
            "binary": Binary,
            "quiet_debug": QuietDebug,
            "lifecycle": Lifecycle,
        },
        limits=SecretLimits,
        hooks=("provision", "revoke", "unauthorized_provider"),
        data=("provisioned",),
        cells=SecretCells,
        check=_check_suite,
    )
    trial: ClassVar[type[Trial[Any]]] = SecretsTrial

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

    # Values

    @rule("SE-01")
    async def test_se_01_a_secret_is_its_exact_value(self, t: SecretsTrial) -> None:
        """`get` of a secret that exists returns exactly its value, of the type `str`.

        Catches the whole answer of the SDK in place of the value (Vault wraps it in `data.data`), bytes, and JSON that was parsed
        on the way.
        """
        client = await t.connect()
        secrets = {**await t.known(client, 3), **t.suite.provisioned}
        if t.suite.provisioned:
            t.session.journal.forget()
        for name, value in secrets.items():
            with t.case(describe(name)):
                t.same_secret(await client.get(name), value, given=f"get({describe(name)}), which exists")

    @rule("SE-02")
    async def test_se_02_an_absent_secret_is_an_error(self, t: SecretsTrial) -> None:
        """An absent secret raises `SecretNotFoundError`, which tells of no other secret.

        In every operation that reads one. That it names this one is demanded by `validation`, in SE-COM-13. Catches `None` and
        the empty string, which an application would send as a password; the vendor's own 404; and "access denied", which AWS says
        of what does not exist to who may not list.
        """
        client = await t.connect()
        others = await t.known(client)
        for label, read in t.reads(client, t.key("absent")).items():
            with t.case(label):
                error = await t.absent(read, f"{label} of a secret that does not exist")
                said = error_text(error)
                shown = [other for other, value in others.items() if other in said or _is_shown(said, value)]
                t.check(not shown, given=f"{label}: the error", expected="it names no other secret", observed=shown)

    @rule("SE-03")
    async def test_se_03_each_task_gets_its_own_secret(self, t: SecretsTrial) -> None:
        """50 concurrent tasks that read 10 secrets, again and again, each get the value that they asked for.

        Catches a slot of a cache that all names share.
        """
        client = await t.connect()
        secrets = list((await t.known(client, 10)).items())
        asked = [secrets[number % len(secrets)] for number in range(50)]
        for round in ("at first", "again"):
            answers = await gather(partial(client.get, name) for name, _ in asked)
            for (name, value), answer in zip(asked, answers, strict=True):
                t.same_secret(answer, value, given=f"get({describe(name)}), {round}, beside 49 others")

    @rule("SE-04", deadline=60)
    async def test_se_04_white_space_survives(self, t: SecretsTrial) -> None:
        """White space at either end, line ends of both kinds, and the final newline of a PEM block survive.

        Catches `.strip()`, which looks right on a mounted file until a key needs its last newline or a password ends in a space.
        """
        await t.check_exact(WHITE_SPACE)

    @rule("SE-05", deadline=60)
    async def test_se_05_values_are_not_interpreted(self, t: SecretsTrial) -> None:
        """`$VAR`, `${x}`, `{{x}}`, `%s`, quotes, backslashes, `#`, what looks like JSON, YAML or a number: none is interpreted.

        Catches the expansion of environment variables, a template engine, the types of YAML, and JSON that decodes itself.
        """
        await t.check_exact(INTERPRETED)

    @rule("SE-06", deadline=60)
    async def test_se_06_any_text_survives(self, t: SecretsTrial) -> None:
        """Text beyond ASCII, and text of many lines and 16 KiB, or as long as `value_bytes` says, survives.

        Catches latin-1, surrogates for what lies beyond the basic plane, and the parameter tier that ends at 4 KiB. U+0000 is not
        asked for: no secret is written with it, and an environment variable cannot hold it.
        """
        line = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+/\n"
        bundle = ("-----BEGIN CERTIFICATE-----\n" + line * 24 + "-----END CERTIFICATE-----\n") * 12
        limits = t.numbers()
        most = min(limits.value_bytes, LARGEST_TRIED)
        values = {label: text.replace("\x00", "") for label, text in TEXTS.items()}
        values |= {
            "5,000 characters": t.token(5_000),
            "a bundle of 16 KiB": bundle[:16_384],
            "16 KiB of two bytes a character": "\u00e9" * 8_192,
            f"{most} bytes": t.token(most)[:most],
        }
        await t.check_exact(values)

    @rule("SE-07")
    async def test_se_07_empty_is_not_absent(self, t: SecretsTrial) -> None:
        """The empty value is returned as `""`, or refused with `InvalidArgumentError` when written; it is never "not found".

        Catches `if not value`. AWS refuses it.
        """
        client = await t.connect()
        for way, put in t.ways().items():
            with t.case(way):
                name = t.key()
                try:
                    await put(client, name, "")
                except InvalidArgumentError:
                    await t.absent(partial(client.get, name), "get of a secret whose empty value was refused")
                    continue
                await t.appear(except_by=client if way == "set" else None)
                t.same(await client.get(name), "", given=f'get after {way}(name, "")', hint="test for None, not for truth")
                if "batch" in t.declared:
                    t.same(await client.get_many([name]), {name: ""}, given=f'get_many after {way}(name, "")')

    # Names

    @rule("SE-08")
    async def test_se_08_similar_names_are_different_secrets(self, t: SecretsTrial) -> None:
        """`a/b`, `a.b`, `a-b` and `a_b` are four secrets; `A-b` is a fifth, or refused.

        Catches an adapter for Azure Key Vault, which has letters, digits and `-` only and folds case: it must escape.
        """
        client = await t.connect()
        start, values = t.key(), dict[str, str]()
        for middle in ("a/b", "a.b", "a-b", "a_b", "A-b"):
            with t.case(middle), t.refusable(start + middle):
                value = t.token()
                await t.cells.write(client, start + middle, value)
                values[middle] = value
        for middle, value in values.items():
            with t.case(middle):
                t.same(
                    await t.cells.read(client, start + middle),
                    value,
                    given=f"get({describe(start + middle)}) after all five were written",
                )

    @rule("SE-09")
    async def test_se_09_a_folder_is_no_secret(self, t: SecretsTrial) -> None:
        """A path that only begins the names of secrets is absent, with and without a slash at its end; so is one below a secret.

        Catches a folder that is returned as a value, and a lookup by prefix.
        """
        client = await t.connect()
        folder = t.key()
        await t.cells.write(client, f"{folder}/y", t.token())
        await t.cells.write(client, f"{folder}/deep/z", t.token())
        for name in (folder, f"{folder}/", f"{folder}/deep", f"{folder}/y/", f"{folder}/y/x", f"{folder}//y"):
            for label, read in t.reads(client, name).items():
                with t.case(f"{label}, {name.removeprefix(folder)!r}"):
                    await t.absent(read, f"{label}({describe(name)}) beside {describe(f'{folder}/y')}")

    # Rights

    @rule("SE-10", hook="unauthorized_provider", deadline=60)
    async def test_se_10_missing_rights_are_said(self, t: SecretsTrial) -> None:
        """Without rights, or with bad credentials, every operation raises `PermissionDeniedError`, in time, whatever exists.

        Never `SecretNotFoundError`, on which an application would create the secret or go on without; and never without an end
        of retries. Catches the 403 that is mapped to 404. A provider may deny the connection itself.
        """
        owner = await t.connect()
        existing = next(iter(await t.known(owner))) if t.has_source() else None
        try:
            client = await t.session.connect({}, "unauthorized_provider")
        except HookError as error:
            if isinstance(error.__cause__, PermissionDeniedError):
                return
            raise

        within = t.answer_seconds
        for kind, name in (("a secret that exists", existing), ("an absent secret", t.key("absent"))):
            for operation in t.operations() if name is not None else ():
                with t.case(f"{operation.name}, {kind}"):
                    raised = await t.error_of(t.bound(operation, client, name), within)
                    t.check(
                        isinstance(raised, PermissionDeniedError),
                        given=f"{operation.name} of {kind}, without rights",
                        expected="PermissionDeniedError",
                        observed=Plain(describe_error(raised)),
                        hint="403 and 401 are no 404, and no reason to try again",
                    )

    # Leaks

    @rule("SE-11", exclusive=True, deadline=30)
    async def test_se_11_a_value_is_shown_nowhere(self, t: SecretsTrial) -> None:
        """A secret's value appears in no `repr`, exception, warning, standard stream, nor log record that production keeps.

        Of an exception: its arguments, notes, attributes, causes and context. Of log records: those at INFO or above, and those
        of the provider's own package at DEBUG. In plain, base64, hexadecimal, URL or JSON form. Every operation is tried, as it
        succeeds and as it fails. Catches an error that echoes the body of the answer, a decoder's error, which carries what it
        could not decode, and a dataclass that prints its cache.
        """
        shown = await t.search(third_party_debug=False)
        for where in shown:
            with t.case(where):
                t.fail_leak(where)

    @rule("SE-12", "quiet_debug", exclusive=True, deadline=30)
    async def test_se_12_a_value_is_not_shown_to_debuggers(self, t: SecretsTrial) -> None:
        """A secret's value appears in no DEBUG record of a library, and in no local variable of an exception that `get` raises.

        A capability, because a provider cannot owe what its SDK says when it is debugged: botocore logs whole answers. Who
        declares it has silenced the SDK, by the level of its logger or a filter. Reports with local variables are what error
        trackers send by default: a `get` that fails with the answer still in a variable hands it over.
        """
        shown = await t.search(third_party_debug=True)
        for where in shown:
            with t.case(where):
                t.fail_leak(where)

    # Changes from outside

    @rule("SE-13", deadline=120)
    async def test_se_13_a_changed_secret_is_seen(self, t: SecretsTrial) -> None:
        """After a change from outside `get` returns the new value within `cache_seconds`, which is 0 unless declared.

        However often it is read meanwhile; until then the old or the new value, nothing else. Catches an unbounded `lru_cache`,
        and one whose entries live longer for being read.
        """
        change = await t.stranger()
        client = await t.connect()
        name, window = t.key(), 0.0
        old: str | None = None
        for number in range(3):
            new = t.token()
            await change(client, name, new)
            if old is None:
                await t.settle()
            window = t.window()
            for _ in range(4) if old is not None else ():
                seen = await client.get(name)
                t.check(seen in (old, new), given="get after a change from outside", expected="old or new", observed=seen)
                await t.wait(window / 4)
            t.same(
                await client.get(name),
                new,
                given=f"get, {window:g} s after change number {number} from outside",
                hint="a cache ends `cache_seconds` after the value was fetched, not after it was last used",
            )
            old = new

    @rule("SE-14", deadline=120)
    async def test_se_14_a_revoked_secret_is_gone(self, t: SecretsTrial) -> None:
        """After a removal from outside `get` raises `SecretNotFoundError` within `cache_seconds`.

        However often it is read meanwhile. Catches a cache that goes on serving a revoked secret, and one that serves it as a
        fallback when the backend knows it no longer.
        """
        change = await t.stranger()
        client = await t.connect()
        name, value = t.key(), t.token()
        await change(client, name, value)
        await t.settle()
        t.same(await client.get(name), value, given="get before the removal")
        await t.removed_by_a_stranger(name)
        window = t.window()
        for _ in range(4):
            seen = await t.cells.read(client, name)
            t.check(seen in (value, None), given="get after a removal from outside", expected="the value, or none", observed=seen)
            await t.wait(window / 4)
        for label, read in t.reads(client, name).items():
            with t.case(label):
                await t.absent(read, f"{label}, {window:g} s after a removal from outside")

    @rule("SE-15", deadline=120)
    async def test_se_15_a_new_secret_is_found(self, t: SecretsTrial) -> None:
        """A secret that was absent when it was asked for is found within `cache_seconds` once it exists.

        Catches a cache of absence without an end: the application waits for its secret for ever.
        """
        change = await t.stranger()
        client = await t.connect()
        name, value = t.key(), t.token()
        for _ in range(2):
            await t.absent(lambda: client.get(name), "get before the secret exists")
        await change(client, name, value)
        window = t.window()
        for _ in range(4):
            seen = await t.cells.read(client, name)
            t.check(seen in (value, None), given="get of a new secret", expected="the value, or not yet", observed=seen)
            await t.wait(window / 4)
        t.same(await t.cells.read(client, name), value, given=f"get, {window:g} s after the secret was provisioned")

    @rule("SE-16", "availability", deadline=60)
    async def test_se_16_an_outage_is_not_remembered(self, t: SecretsTrial) -> None:
        """A failure of the backend is never reported as "not found", and is forgotten when the backend is back.

        Needs `backend_address`, or `cut` and `heal`. What a client has seen or set it may give out meanwhile, for as long as its
        `cache_seconds` allow. Catches a poisoned cache, and the `except Exception` that makes every error a 404.
        """
        async with t.faulty() as (client, cut, heal):
            secrets = await t.known(client, 2)
            absent = t.key("absent")
            await cut()
            within = t.answer_seconds
            asked = [(f"secret {number}", name) for number, name in enumerate(secrets, 1)]
            for label, name in (*asked, ("an absent one", absent)):
                for kind, read in t.reads(client, name).items():
                    with t.case(f"{kind}, {label}"):
                        tried = await t.ended(read, within)
                        t.check(
                            isinstance(tried.error, UnavailableError) or t.remembers(tried, name, secrets.get(name)),
                            given=f"{kind} of {label} during an outage",
                            expected="UnavailableError",
                            observed=Plain(describe_error(tried.error) if tried.error else f"a {type(tried.value).__name__}"),
                        )
            await heal()
            for name, value in secrets.items():
                with t.case(describe(name)):
                    answer = await t.eventually(partial(client.get, name))
                    t.same_secret(answer, value, given="get after the outage, of a secret that was asked for meanwhile")
            tried = await attempt(lambda: t.eventually(partial(client.get, absent)))
            t.check(
                isinstance(tried.error, SecretNotFoundError),
                given="get of an absent secret after the outage",
                expected="SecretNotFoundError",
                observed=Plain(describe_error(tried.error) if tried.error else "no error"),
            )

    # write

    @rule("SE-17", "write")
    async def test_se_17_set_creates_and_replaces(self, t: SecretsTrial) -> None:
        """`set` creates and replaces a secret, exactly, for every client, and returns the id of the version.

        The empty string without `versioning`. Catches a new version that is appended while the old one is served, as by an alias
        that is pinned.
        """
        client, reader = await t.clients(2)
        name = t.key()
        for size in (40, 4_000, 1, 200):
            value = t.token(size)[:size] if size > 1 else "x"
            version = await client.set(name, value)
            t.check(
                isinstance(version, str) and bool(version) is ("versioning" in t.declared),
                given="the result of set",
                expected="the id of the version" if "versioning" in t.declared else "the empty string",
                observed=version,
            )
            t.same(await client.get(name), value, given=f"get after set of {size} characters")
            if reader is not client:
                await t.settle()
                t.same(await reader.get(name), value, given=f"get by another client after set of {size} characters")

    @rule("SE-18", "write")
    async def test_se_18_delete_removes_the_secret(self, t: SecretsTrial) -> None:
        """After `delete` the secret is absent with all its versions, for every read; deleting it again is fine.

        Catches the soft delete: Vault keeps a marked version, which is still listed and, read by its id, still served.
        """
        client: Any = await t.connect()
        name = t.key()
        versions = [await client.set(name, t.token()) for _ in range(2)]
        neighbour = t.key()
        value = t.token()
        await client.set(neighbour, value)
        for given in ("delete(name)", "delete(name) again"):
            t.same(await client.delete(name), None, given=f"the result of {given}")
            for label, read in t.reads(client, name).items():
                with t.case(f"{label} after {given}"):
                    await t.absent(read, f"{label} after {given}")
            for version in versions if "versioning" in t.declared else ():
                with t.case(f"get with version after {given}"):
                    await t.absent(partial(client.get, name, version=version), f"get(name, version=...) after {given}")
        t.same(await client.delete(t.key()), None, given="the result of delete(a name never written)")
        t.same(await client.get(neighbour), value, given="get of another secret after delete")

    @rule("SE-19", "write", deadline=60)
    async def test_se_19_a_name_is_free_after_delete(self, t: SecretsTrial) -> None:
        """A name can be set again at once after `delete`, and shows the new value only.

        Catches the secret that is "scheduled for deletion", which AWS keeps for days and even when forced deletes late, and the
        one that is "deleted but recoverable", as Azure says. A provider forces, retries, or recovers and cleans.
        """
        client = await t.connect()
        name = t.key()
        before: list[str] = []
        for number in range(3):
            value = t.token()
            version = await client.set(name, value)
            t.same(await client.get(name), value, given=f"get after {number} deletes and another set")
            if "versioning" in t.declared:
                t.same(await client.list_versions(name), [version], given=f"list_versions after {number} deletes and one set")
            for old in set(before) - {version}:
                await t.absent(partial(client.get, name, version=old), "a version from before the delete")
            before.append(version)
            await client.delete(name)
            await t.absent(lambda: client.get(name), "get after delete")

    @rule("SE-20", "write", deadline=60)
    async def test_se_20_a_failed_set_changes_nothing(self, t: SecretsTrial) -> None:
        """A `set` that is refused leaves the previous value and its version.

        Catches a version that is created before its value is checked.
        """
        client = await t.connect()
        wrong: dict[str, Any] = {}
        if "validation" in t.declared:
            wrong = {describe(each): each for each in (b"bytes", bytearray(b"x"), 1, True, None, ["a"], {"a": 1}, "a\ud800")}
        if "limits" in t.declared and (most := t.numbers().value_bytes) < LARGEST_TRIED:
            wrong["a value that is too large"] = t.token(most)[:most] + "x"
        if not wrong:
            t.not_provoked(f"no value must be refused: neither `validation` nor `limits` below {LARGEST_TRIED} bytes is declared")
        name = t.key()
        await client.set(name, t.token())
        before = await t.cells.state(client, name, t.declared)
        for label, value in wrong.items():
            with t.case(label):
                await t.refused(
                    partial(client.set, name, value),
                    TooLargeError if label.startswith("a value") else InvalidArgumentError,
                    given=f"set of {label}",
                )
                t.same(
                    await t.cells.state(client, name, t.declared),
                    before,
                    given=f"the secret after set of {label} was refused",
                )

    # versioning

    @rule("SE-21", "versioning")
    async def test_se_21_versions_can_be_read(self, t: SecretsTrial) -> None:
        """Each change makes a new version; each that is listed is read by its id, the newest first; an unknown id is not found.

        A backend may forget old versions, and then lists them no more: AWS keeps those that have a label. Catches ids that are
        off by one, and the newest version for an unknown id.
        """
        client = await t.connect()
        name, other = t.key(), t.key()
        values = [t.token() for _ in range(3)]
        ids: list[str] = []
        for value in values:
            if "write" in t.declared:
                ids.append(await client.set(name, value))
            else:
                await t.cells.write(client, name, value)
                ids.append(next(iter(await client.list_versions(name)), ""))
        t.check(
            len(set(ids)) == len(ids) and all(type(each) is str and each for each in ids),
            given="the ids of three versions",
            expected="three different texts",
            observed=ids,
        )
        listed = await client.list_versions(name)
        t.same([each for each in reversed(ids) if each in listed], listed, given="list_versions after three changes")
        t.same(listed[:1], ids[-1:], given="the first of list_versions")
        for id, value in zip(ids, values, strict=True):
            if id in listed:
                with t.case(f"version {describe(id)}"):
                    t.same(await client.get(name, version=id), value, given=f"get(name, version={describe(id)})")
        t.same(await client.get(name, version=None), values[-1], given="get(name, version=None)")
        await t.cells.write(client, other, t.token())
        foreign = [each for each in await client.list_versions(other) if each not in ids]
        for id in (each for each in ("unknown", "0", "-1", "999999999", "latest", *foreign) if each not in ids):
            with t.case(f"version {id!r}"):
                await t.absent(partial(client.get, name, version=id), f"get(name, version={describe(id)}), which is none")
        await t.refused(
            lambda: client.get(name, version=""), (SecretNotFoundError, InvalidArgumentError), given='get(name, version="")'
        )

    @rule("SE-22", "versioning", "write")
    async def test_se_22_no_version_is_lost(self, t: SecretsTrial) -> None:
        """10 concurrent `set`s make 10 versions with ids of their own, each with its value; `get` gives the one listed first.

        Catches a number that two writers read before either wrote, and a default that is not the newest.
        """
        clients = await t.clients(2)
        name = t.key()
        values = [t.token() for _ in range(10)]
        ids = await gather(partial(clients[number % 2].set, name, value) for number, value in enumerate(values))
        t.check(
            len(set(ids)) == 10,
            given="10 concurrent sets",
            expected="10 different ids",
            observed=Plain(f"{len(set(ids))} of them"),
        )
        reader = clients[0]
        await t.settle()
        listed = await reader.list_versions(name)
        t.check(
            bool(listed) and set(listed) <= set(ids), given="list_versions", expected="ids that set returned", observed=listed
        )
        held = dict(zip(ids, values, strict=True))
        for id in listed:
            t.same(await reader.get(name, version=id), held[id], given=f"get(name, version={describe(id)})")
        t.same(await reader.get(name), held[listed[0]], given="get after 10 concurrent sets: the version that is listed first")

    # list_prefix

    @rule("SE-23", "list_prefix", deadline=60)
    async def test_se_23_a_listing_is_complete(self, t: SecretsTrial) -> None:
        """`list_names(prefix)` yields the name of each secret that starts with *prefix*, once, over several pages, and none else.

        As the application wrote it, by code points, not by path segments; never a value, never one that was deleted. Catches a
        listing of one page, one level of a tree, and the provider's own escapes and prefixes.
        """
        client = await t.connect()
        size = within_reach(t.numbers().page_size)
        start = t.key("p")
        names = [f"{start}/{number:05}" for number in range(2 * size + 1)]
        names += [f"{start}/00000/deep", f"{start}/a.b_c-d", f"{start}.x"]
        await t.write_all(client, dict.fromkeys(names, "v"))
        await t.settle()
        for prefix in (start, f"{start}/", f"{start}/0000", f"{start}/00000", names[3], f"{start}."):
            with t.case(prefix.removeprefix(start) or "whole"):
                t.check_listing(
                    await drain(client.list_names(prefix)),
                    [each for each in names if each.startswith(prefix)],
                    f"list_names({describe(prefix)}) with a page of {size} and {len(names)} secrets",
                )
        t.check_listing(await drain(client.list_names(start + "x")), [], "list_names of a prefix that no name has")
        for pattern in ("*", "?", "%", "_", "[p]", "P", "\\", "//"):
            with t.case(pattern), t.refusable(start + pattern):
                listed = await drain(client.list_names(start + pattern))
                t.check_listing(listed, [], f"list_names with {pattern!r} in the prefix")
        if "write" not in t.declared and not t.has("revoke"):
            return

        gone = names[1::2]
        await t.erase_all(client, gone)
        await t.settle()
        t.check_listing(await drain(client.list_names(start)), names[::2], "list_names after every second secret was removed")

    # batch

    @rule("SE-24", "batch", deadline=60)
    async def test_se_24_a_batch_is_all_or_an_error(self, t: SecretsTrial) -> None:
        """`get_many` returns every distinct name with its value, or, if any is missing, raises one `SecretNotFoundError`.

        Of any number, from any iterable. With `validation` the error names all that are missing, and no other. Catches a missing
        secret that is silently left out, and a batch that is cut at what one request of the backend takes.
        """
        client = await t.connect()
        size = within_reach(t.numbers().batch_size)
        start = t.key()
        secrets = {f"{start}-{number:05}-there": t.token() for number in range(2 * size + 1)}
        await t.write_all(client, secrets)
        names = list(secrets)
        t.same(await client.get_many(names), secrets, given=f"get_many of {len(names)} names, {size} a request")
        three = {name: secrets[name] for name in names[:3]}
        t.same(await client.get_many(name for name in names[:3]), three, given="get_many of a generator")
        t.same(await client.get_many(names[:3] + names[:2]), three, given="get_many of names that repeat")
        t.same(await client.get_many([]), {}, given="get_many of nothing")
        for missing in ([f"{start}-gone-a"], [f"{start}-gone-a", f"{start}-gone-b"]):
            for label, asked in (("few", names[:2]), ("many", names)):
                with t.case(f"{len(missing)} missing among {label}"):
                    given = f"get_many of {len(asked)} secrets and {len(missing)} missing"
                    error = await t.absent(partial(client.get_many, [*missing[:1], *asked, *missing[1:]]), given)
                    t.check_names(error, *missing, but=names, given=given)

    # watch

    @rule("SE-25", "watch", deadline=60)
    async def test_se_25_a_watcher_is_told_of_each_change(self, t: SecretsTrial) -> None:
        """Once entered, a watcher yields a value after each change and none without one; a removal ends it, and so does `close`.

        With `SecretNotFoundError`, as watching an absent secret does. Of changes in quick succession the last is surely seen. All
        of this within `staleness`. Catches the gap between reading and subscribing, a loop that yields the same value again, and
        a removal that is not told.
        """
        change = t.ways().get("provision") or await t.another_client_sets()
        client = await t.connect()
        name = t.key("w")
        await t.absent(lambda: enter(client.watch(t.key("absent"))), "watch of a secret that does not exist")
        old, between, new, *quick = [t.token() for _ in range(6)]
        await change(client, name, old)
        await t.settle()
        async with client.watch(name) as values:
            await change(client, name, between)
            await t.wait(t.numbers().staleness)
            t.same(await t.next(values, "a change right after entering"), between, given="the first value of a watcher")
            # Asked before the change: what comes without one is heard.
            told, _ = await together(
                [lambda: t.next(values, "a change while the watcher waits"), lambda: t.late(change, client, name, new)]
            )
            t.same(told.result(), new, given="the next value of a watcher, which was asked before the change")
            for value in quick:
                await change(client, name, value)
            await t.wait(t.numbers().staleness)
            seen: list[object] = []
            while quick[-1] not in seen and len(seen) < len(quick):
                seen.append(await t.next(values, "three changes in quick succession"))
            t.check(
                seen == [each for each in quick if each in seen] and quick[-1] in seen,
                given="the values after three changes in quick succession",
                expected="some of them, in order, the last surely",
                observed=seen,
            )
            if "write" in t.declared:
                own = t.token()
                await client.set(name, own)
                t.same(await t.next(values, "set by the client that watches"), own, given="the value after an own set")
            if "write" in t.declared or t.has("revoke"):
                await t.cells.erase(client, name)
                await t.absent(partial(t.next, values, "a removal"), "the watcher after the secret was removed")
        if "lifecycle" in t.declared:
            name, closing = t.key(), await t.connect()
            await change(closing, name, t.token())
            await t.wait(t.numbers().staleness)
            await t.check_watch_ends(closing, closing.watch(name))

    # binary

    @rule("SE-26", "binary")
    async def test_se_26_bytes_are_exact(self, t: SecretsTrial) -> None:
        """`get_bytes` returns a secret's bytes, those of a text in UTF-8; `get` of what is no text is `InvalidArgumentError`.

        Catches `errors="replace"`, and base64 that is decoded once too often or not at all. Secrets that are no text come from
        the hook `provision`, as the standard does not write them.
        """
        client = await t.connect()
        name, text = t.key(), "\u00fcber \U0001f511 aGVsbG8=\n"
        await t.cells.write(client, name, text)
        t.same(await client.get_bytes(name), text.encode(), given="get_bytes of a text")
        t.same(await client.get(name), text, given="get of that text")
        if not t.has("provision"):
            return

        for label, data in {
            "every byte": bytes(range(256)),
            "no UTF-8": b"\xff\xfe\x00key",
            "a cut character": "\u00e9".encode()[:1],
            "bytes that look like base64": b"aGVsbG8=",
        }.items():
            with t.case(label):
                name = t.key()
                await t.provision_outside(name, data)
                await t.appear()
                t.same(await client.get_bytes(name), data, given=f"get_bytes of {label}")
                if label.startswith("bytes"):
                    t.same(await client.get(name), data.decode(), given=f"get of {label}")
                    continue
                error = await t.refused(partial(client.get, name), InvalidArgumentError, given=f"get of {label}")
                t.check_names(error, name, given=f"get of {label}")

    # Everything at once

    test_se_27_a_random_walk_agrees_with_the_reference = walk_rule("SE-27", WALK, "write")

    # write

    @rule("SE-28", "write", deadline=60)
    async def test_se_28_a_cancelled_set_is_whole_or_nothing(self, t: SecretsTrial) -> None:
        """A `set` that is cancelled leaves the previous value or the new one, whole, for every client.

        It may still arrive later. Catches a value in two parts.
        """
        client, reader = await t.clients(2)
        name, old = t.key(), t.token()
        await client.set(name, old)
        await t.settle()  # else the other client might not see even that
        legal = [old]

        def write() -> Call[object]:
            value = t.token(8_000)
            legal.append(value)
            return lambda: client.set(name, value)

        async for each in sweep(write, within=t.cancel_seconds):
            for who, one in (("the same client", client), ("another client", reader)):
                seen = await t.cells.read(one, name)
                t.check(
                    seen in legal,
                    given=f"get by {who} after set was cancelled at its wait number {each.step + 1}",
                    expected="the old value or a new one, whole",
                    observed=Plain("nothing" if seen is None else f"{describe(seen)}, which nobody wrote"),
                )


NO_SOURCE = "the provider does not declare `write`, and the suite has no `provision`"
LONGEST_WINDOW = 60.0
"""Seconds of real time that a rule waits for a cache to end."""
LARGEST_TRIED = 1024 * 1024
"""Bytes of a secret beyond which no limit is looked for."""
SHORTEST_CANARY = 8
"""Characters of a value below which it is found by chance."""
SHORTEST_MASKED = 4
"""Characters of a value below which its place is in so many words that no text could be read."""
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


def _is_shown(text: str, value: str) -> bool:
    return len(value) >= SHORTEST_CANARY and reveals(text, value)


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

"""`multi_tenancy`: tenants of one backend neither see nor change each other's data.

It composes with any data-holding contract, whose `Cells` it drives: tenant A writes an unguessable token, then tenant B runs
every operation that the contract lists. Two oracles follow: A's cell is as it was, and A's token is nowhere in what B got.

A tenant id is *isolated or refused* with `InvalidArgumentError` at construction. That is the whole policy for odd ids; making
two ids one, by folding, trimming, cutting or replacing characters, is neither. An injective escape, a length prefix
(`4:acme:key`), or a bucket, schema or database for each tenant satisfies it.

A rule whose operations a contract does not have is no rule of its suites: MT-21 needs watchers or consumers, MT-23 and
MT-25 locks, and MT-24 presigned URLs.
"""

import re
from functools import partial
from typing import Any, ClassVar
from urllib.parse import urlsplit, urlunsplit

import anyio

from omnitck.common.cells import Cells
from omnitck.instruments.canary import error_text, reveals, text_of
from omnitck.instruments.cancellation import sweep
from omnitck.instruments.corpus import ILLEGAL_TENANTS, ODD_TENANTS, SEPARATORS, TWIN_TENANTS
from omnitck.kit.concurrency import Attempt, attempt, gather
from omnitck.kit.contract import Policy
from omnitck.kit.definition import Definition, Operation
from omnitck.kit.rules import rule
from omnitck.kit.session import HookError
from omnitck.kit.text import describe, describe_error
from omnitck.kit.trial import Plain, Trial
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError, TCKError

__all__ = ["MultiTenancyPolicy"]


class MultiTenancyTrial(Trial[Any]):
    """The words of the rules of `MultiTenancyPolicy`."""

    def tenant(self, name: str = "a") -> str:
        """A fresh, ordinary tenant id."""
        return f"{self.namespace}{name}"

    async def two_tenants(self) -> tuple[Any, Any]:
        """Clients of two ordinary tenants."""
        return await self.connect(tenant_id=self.tenant("a")), await self.connect(tenant_id=self.tenant("b"))

    async def connect_or_none(self, tenant_id: Any) -> Any:
        """A client of this tenant, or None if the provider refuses the id as the contract allows."""
        try:
            return await self.connect(tenant_id=tenant_id)
        except HookError as error:
            if isinstance(error.__cause__, InvalidArgumentError):
                return None
            raise

    async def check_apart(self, one: Any, other: Any, given: str) -> None:
        """Two clients hold different cells under one name, in write, read and erase."""
        if one is None or other is None:
            return

        name, first, second = self.key(), self.token(), self.token()
        await self.cells.write(one, name, first)
        self.same(await self.cells.read(other, name), None, given=f"{given}: a name that only the other tenant wrote")
        await self.cells.write(other, name, second)
        self.same(await self.cells.read(one, name), first, given=f"{given}: a cell after the other tenant wrote one of its name")
        await self.cells.erase(other, name)
        self.same(await self.cells.read(one, name), first, given=f"{given}: a cell after the other tenant erased one of its name")

    async def probe(self, client: Any, operation: Operation, name: str) -> str:
        tried = await self.outcome(operation, client, name, "token")
        text = describe(tried.value) if tried.error is None else describe_error(tried.error)
        return text.replace(name, "<name>")

    def shown(self, tried: Attempt[Any]) -> str:
        return text_of(tried.value) if tried.error is None else error_text(tried.error)


class MultiTenancyPolicy(Policy):
    """Certifies that a provider keeps its tenants apart; `make_provider(tenant_id=...)` is all it asks for."""

    definition = Definition(
        name="multi_tenancy",
        version="1.0",
        prefix="MT",
        config=frozenset({"tenant_id"}),
        cells=Cells,
    )
    trial: ClassVar[type[Trial[Any]]] = MultiTenancyTrial

    @rule("MT-01")
    async def test_mt_01_one_name_two_values(self, t: MultiTenancyTrial) -> None:
        """The same name holds independent values in two tenants.

        Catches a provider that takes `tenant_id` and forgets it.
        """
        a, b = await t.two_tenants()
        name, first, second = t.key(), t.token(), t.token()
        await t.cells.write(a, name, first)
        await t.cells.write(b, name, second)
        t.same(await t.cells.read(a, name), first, given="tenant A's read after both tenants wrote one name")
        t.same(await t.cells.read(b, name), second, given="tenant B's read after both tenants wrote one name")

    @rule("MT-02", uses="shared_write")
    async def test_mt_02_erasing_stays_within_the_tenant(self, t: MultiTenancyTrial) -> None:
        """Erasing in one tenant leaves the other's cell.

        Catches a delete that is not scoped.
        """
        a, b = await t.two_tenants()
        name, token = t.key(), t.token()
        await t.cells.write(a, name, t.token())
        await t.cells.write(b, name, token)
        await t.cells.erase(a, name)
        t.same(await t.cells.read(b, name), token, given="tenant B's read after tenant A erased that name")
        t.same(await t.cells.read(a, name), None, given="tenant A's read after its erase")

    @rule("MT-03", uses="probes")
    async def test_mt_03_another_tenants_name_is_simply_absent(self, t: MultiTenancyTrial) -> None:
        """A name that only another tenant wrote gives, in every operation, what any absent name gives.

        The same result, or the same error in the same words. Words that differ between two absent names, too, tell nothing: the
        number of a request, a time. Catches "forbidden" beside "not found": an oracle of existence.
        """
        a, b = await t.two_tenants()
        for operation in (each for each in t.cells.probes() if t.offers(each.capability)):
            with t.case(operation.name):
                names = [t.key("x") for _ in range(3)]
                await t.cells.write(a, names[0], t.token())
                theirs, absent, nobodys = [await t.probe(b, operation, name) for name in names]
                t.check(
                    _tells_nothing(theirs, absent, nobodys),
                    given=f"{operation.name} of a name that another tenant wrote",
                    expected=f"what an absent name gives: {absent}",
                    observed=Plain(theirs),
                )

    @rule("MT-04")
    async def test_mt_04_no_operation_reaches_another_tenant(self, t: MultiTenancyTrial) -> None:
        """No operation of one tenant changes the value, version, expiry or existence of another's cell.

        Every declared operation is tried. Catches the one that was forgotten: compare-and-set, increment, a batch.
        """
        a, b = await t.two_tenants()
        for operation in t.operations():
            with t.case(operation.name):
                name = t.key()
                await t.cells.write(a, name, t.token())
                before = await t.cells.state(a, name, t.declared)
                await t.cells.prepare(b, name)
                await attempt(t.bound(operation, b, name))
                t.same(
                    await t.cells.state(a, name, t.declared),
                    before,
                    given=f"tenant A's cell after tenant B's {operation.name} of its name",
                )

    @rule("MT-05")
    async def test_mt_05_nothing_of_another_tenant_is_shown(self, t: MultiTenancyTrial) -> None:
        """No result and no error of one tenant contains another's token, its tenant id, or a name that was not asked for.

        Catches the text of a duplicate-key error, and a query that ignores the tenant: Dapr returned every application's keys.
        """
        a, b = await t.two_tenants()
        refusals = t.refusals()
        for operation in (*t.operations(), *refusals):
            with t.case(operation.name):
                name, token = t.key(), t.token()
                hidden = f"{name}-hidden"
                await t.cells.write(a, name, token)
                await t.cells.write(a, hidden, token)
                if operation in refusals:
                    await t.cells.write(b, name, t.token())
                    tried = await attempt(await t.arranged(operation, b, name))
                else:
                    await t.cells.prepare(b, name)
                    tried = await t.outcome(operation, b, name)
                text = t.shown(tried)
                for what, secret in {"token": token, "tenant id": t.tenant("a"), "other name": hidden}.items():
                    t.check(
                        not reveals(text, secret),
                        given=f"tenant B's {operation.name} of a name of tenant A",
                        expected=f"nothing of A's {what}",
                        observed=Plain(f"A's {what} is in it: {describe(text)}"),
                    )

    @rule("MT-06", uses="names")
    async def test_mt_06_enumeration_shows_own_names_only(self, t: MultiTenancyTrial) -> None:
        """Enumeration, with any prefix, yields a tenant's own names, as the application wrote them.

        The empty prefix, patterns, paths, the other tenant's id. Catches an unscoped scan, and the tenant's prefix that shows in
        the names.
        """
        a, b = await t.two_tenants()
        start = t.key()
        await t.cells.write(a, f"{start}-theirs", t.token())
        own = [f"{start}-{number}" for number in range(3)]
        for name in own:
            await t.cells.write(b, name, t.token())
        for prefix in ("", start, "*", "%", "_", "..", "/", ":", t.tenant("a"), t.tenant("b"), f"{t.tenant('a')}:", "a"):
            with t.case(describe(prefix)):
                t.same(
                    sorted(await t.cells.names(b, prefix)),
                    sorted(name for name in own if name.startswith(prefix)),
                    given=f"the names of tenant B that begin with {describe(prefix)}",
                )

    @rule("MT-07", deadline=60)
    async def test_mt_07_separators_cannot_be_injected(self, t: MultiTenancyTrial) -> None:
        """For every separator s, tenant `a`+s+`b` with name `c` and tenant `a` with name `b`+s+`c` are different cells.

        In write, read, erase and enumeration; or the id is refused. Catches `f"{tenant}:{key}"`.
        """
        for separator in SEPARATORS:
            with t.case(repr(separator)):
                a, b, c = t.namespace, f"b{t.key()}", f"c{t.key()}"
                outer = await t.connect_or_none(f"{a}{separator}{b}")
                inner = await t.connect_or_none(a)
                if outer is None or inner is None:
                    continue

                deep, token = f"{b}{separator}{c}", t.token()
                given = f"the cell {describe(c)} of tenant {describe(f'{a}{separator}{b}')}"
                await t.cells.write(outer, c, token)
                with t.refusable(deep):
                    read = await t.cells.read(inner, deep)
                    t.same(read, None, given=f"{given}, read as tenant {a}, name {describe(deep)}")
                    await t.cells.write(inner, deep, t.token())
                t.same(await t.cells.read(outer, c), token, given=f"{given} after tenant {a} wrote {describe(deep)}")
                if t.can("names"):
                    t.same(await t.cells.names(outer, ""), [c], given="the names of the tenant with a separator in its id")
                with t.refusable(deep):
                    await t.cells.erase(inner, deep)
                t.same(await t.cells.read(outer, c), token, given=f"{given} after tenant {a} erased {describe(deep)}")

    @rule("MT-08")
    async def test_mt_08_a_tenant_is_no_prefix_of_another(self, t: MultiTenancyTrial) -> None:
        """A tenant whose id begins another's (`acme`, `acme2`, `acme/x`) neither reads nor lists the other's cells.

        Catches `startswith` without an end, and ids that are joined to names without anything between.
        """
        short = await t.connect(tenant_id=t.tenant())
        for rest in ("2", "/x", ":"):
            with t.case(rest):
                long = await t.connect_or_none(t.tenant() + rest)
                if long is None:
                    continue

                name, token = t.key(), t.token()
                await t.cells.write(long, name, token)
                with t.refusable(rest + name):
                    t.same(
                        await t.cells.read(short, rest + name),
                        None,
                        given=f"tenant T reads {describe(rest + name)}, which tenant T{rest} wrote as {describe(name)}",
                    )
                if t.can("names"):
                    t.same(await t.cells.names(short, ""), [], given="the names of the tenant with the shorter id")

    @rule("MT-09", deadline=60)
    async def test_mt_09_similar_ids_are_different_tenants(self, t: MultiTenancyTrial) -> None:
        """Ids that differ in case, normal form, a trailing space or dot, or a leading zero are different tenants, or refused.

        Catches a bucket or schema name that folds, and a slug that drops what it does not like.
        """
        for label, (one, other) in TWIN_TENANTS.items():
            with t.case(label):
                # What makes the pair unique stands in front, where it does not disturb the trap at the end.
                first = await t.connect_or_none(f"{t.namespace}{one}")
                second = await t.connect_or_none(f"{t.namespace}{other}")
                await t.check_apart(first, second, f"tenants {describe(one)} and {describe(other)}")

    @rule("MT-10")
    async def test_mt_10_long_ids_are_not_cut(self, t: MultiTenancyTrial) -> None:
        """Two ids of 200 bytes that differ in the last one are different tenants, or refused.

        Catches an identifier cut at 63 characters, and a short hash.
        """
        start = t.namespace.ljust(199, "x")
        await t.check_apart(
            await t.connect_or_none(start + "1"),
            await t.connect_or_none(start + "2"),
            given="two tenants whose ids differ in the last of 200 bytes",
        )

    @rule("MT-11", "validation")
    async def test_mt_11_illegal_ids_are_refused(self, t: MultiTenancyTrial) -> None:
        """An id that is empty, white space, no `str`, or holds U+0000 or a surrogate is refused with `InvalidArgumentError`.

        It never means "no tenant". Catches `if tenant_id:`.
        """
        for label, tenant_id in ILLEGAL_TENANTS.items():
            with t.case(label):
                client = await t.connect_or_none(tenant_id)
                t.check(
                    client is None,
                    given=f"make_provider(tenant_id={describe(tenant_id)})",
                    expected="InvalidArgumentError",
                    observed=Plain("a provider"),
                )

    @rule("MT-12", deadline=60)
    async def test_mt_12_odd_ids_are_ordinary(self, t: MultiTenancyTrial) -> None:
        """`default`, `public`, `None`, `*`, `..`, `%`, `a' --` and their like are isolated tenants, or refused.

        Catches the schema `public`, the pattern, the path and the statement.
        """
        name = t.key()
        ordinary, kept = await t.connect(tenant_id=t.tenant()), t.token()
        await t.cells.write(ordinary, name, kept)
        nobody = await t.connect_or_none(None)
        if nobody is not None:
            await t.cells.write(nobody, name, t.token())
        wrote = {}
        for odd in ODD_TENANTS:
            with t.case(odd):
                client = await t.connect_or_none(odd)
                if client is None:
                    continue

                t.same(await t.cells.read(client, name), None, given=f"tenant {odd!r} reads what other tenants wrote")
                wrote[odd] = (client, t.token())
                await t.cells.write(client, name, wrote[odd][1])
        for odd, (client, token) in wrote.items():
            with t.case(odd):
                t.same(
                    await t.cells.read(client, name),
                    token,
                    given=f"tenant {odd!r} reads what it wrote, after all others wrote",
                )
        t.same(await t.cells.read(ordinary, name), kept, given="an ordinary tenant's cell, after the odd ones wrote its name")

    @rule("MT-13", deadline=30)
    async def test_mt_13_no_tenant_is_not_every_tenant(self, t: MultiTenancyTrial) -> None:
        """A provider without a tenant and the tenants do not see each other; or `None` is refused.

        Catches the global scope that is a superuser's.
        """
        nobody = await t.connect_or_none(None)
        if nobody is None:
            return

        for given, id in (("no tenant and a tenant", t.tenant()), ('no tenant and the tenant "None"', "None")):
            with t.case(given):
                tenant = await t.connect_or_none(id)
                await t.check_apart(nobody, tenant, given)
                await t.check_apart(tenant, nobody, given)
        if t.can("names"):
            name = t.key()
            await t.cells.write(await t.connect(tenant_id=t.tenant()), name, t.token())
            listed = await t.cells.names(nobody, t.namespace)
            t.check(name not in listed, given="a listing without a tenant", expected="no tenant's names", observed=listed)

    @rule("MT-14")
    async def test_mt_14_concurrency_does_not_mix_tenants(self, t: MultiTenancyTrial) -> None:
        """Tenants stay apart with 20 interleaved tasks of each on one event loop.

        Catches a "current tenant" in a global or a context variable that does not follow the task.
        """
        clients = await t.two_tenants()
        t.tell_apart()
        names = [t.key() for _ in range(20)]

        async def one(which: int, name: str) -> bool:
            token = t.token()
            await t.cells.write(clients[which], name, token)
            await anyio.lowlevel.checkpoint()
            return bool(await t.cells.read(clients[which], name) == token)

        right = await gather(partial(one, which, name) for name in names for which in (0, 1))
        t.check(
            all(right),
            given="20 tasks of each of two tenants, which write and read the same names",
            expected="each reads what its tenant wrote",
            observed=Plain(f"{right.count(False)} of 40 did not"),
            about=next((names[number // 2] for number, each in enumerate(right) if not each), None),
        )

    @rule("MT-15", deadline=60)
    async def test_mt_15_cancellation_does_not_change_the_tenant(self, t: MultiTenancyTrial) -> None:
        """After cancelled or failed operations of one tenant, another's operations still act on its own cells.

        Catches a pooled connection that keeps `SET search_path`, or the setting of row-level security.
        """
        a, b = await t.two_tenants()
        name, of_a, of_b = t.key(), t.token(), t.token()
        await t.cells.write(a, name, of_a)
        await t.cells.write(b, name, of_b)
        for operation in (each for each in t.operations() if not each.wide):
            with t.case(operation.name):
                victim = t.key()
                async for _ in sweep(partial(t.bound, operation, a, victim), within=t.cancel_seconds):
                    given = f"after tenant A's {operation.name} was cancelled"
                    t.same(await t.cells.read(b, name), of_b, given=f"tenant B's read {given}")
                    t.same(await t.cells.read(a, name), of_a, given=f"tenant A's read {given}")

    @rule("MT-16", "lifecycle")
    async def test_mt_16_closing_is_per_tenant(self, t: MultiTenancyTrial) -> None:
        """Closing one tenant's client leaves another's usable.

        Catches a shared client.
        """
        a, b = await t.two_tenants()
        name, token = t.key(), t.token()
        await t.cells.write(b, name, token)
        await a.close()
        t.same(await t.cells.read(b, name), token, given="tenant B's read after tenant A's client has closed")

    @rule("MT-17", "shared")
    async def test_mt_17_a_tenant_is_not_an_instance(self, t: MultiTenancyTrial) -> None:
        """Two clients of the same tenant share its data.

        Catches isolation that comes from a dictionary per instance.
        """
        one, other = await t.connect(tenant_id=t.tenant()), await t.connect(tenant_id=t.tenant())
        name, token = t.key(), t.token()
        await t.cells.write(one, name, token)
        await t.settle()
        t.same(await t.cells.read(other, name), token, given="a read by another client of the same tenant")

    @rule("MT-18", uses="create")
    async def test_mt_18_uniqueness_is_per_tenant(self, t: MultiTenancyTrial) -> None:
        """A tenant may create a name that another has already; its own second creation is a conflict.

        Catches a unique index without the tenant.
        """
        a, b = await t.two_tenants()
        name, first, second = t.key(), t.token(), t.token()
        await t.cells.create(a, name, first)
        created = await attempt(lambda: t.cells.create(b, name, second))
        if created.error is not None:
            t.fail_rule(
                given="tenant B creates a name that only tenant A has",
                expected="it is created",
                observed=describe_error(created.error),
            )
        t.same(await t.cells.read(b, name), second, given="tenant B's read of what it created")
        t.same(await t.cells.read(a, name), first, given="tenant A's read after tenant B created that name")
        await t.refused(lambda: t.cells.create(b, name, t.token()), ConflictError, given="tenant B creates it again")

    @rule("MT-19", uses="handles")
    async def test_mt_19_handles_do_not_travel(self, t: MultiTenancyTrial) -> None:
        """A version, cursor or id that was taken from one tenant is refused in another, or acts on its own data only.

        Catches a handle that holds the whole address of what it stands for.
        """
        a, b = await t.two_tenants()
        name, token = t.key(), t.token()
        await t.cells.write(a, name, token)
        before = await t.cells.state(a, name, t.declared)
        for handle in await t.cells.handles(a, name):
            tried = await attempt(partial(t.cells.replay, b, name, handle, t.token()))
            if tried.error is not None and not isinstance(tried.error, TCKError):
                tried.result()
            t.same(
                await t.cells.state(a, name, t.declared),
                before,
                given="tenant A's cell after tenant B used A's version of it",
            )
            t.check(
                not reveals(t.shown(tried), token),
                given="what tenant B got",
                expected="no token of A",
                observed=t.shown(tried),
            )

    @rule("MT-20", deadline=30)
    async def test_mt_20_a_name_cannot_choose_the_tenant(self, t: MultiTenancyTrial) -> None:
        """A tenant that is spelled inside a name selects nothing: the name is only a name.

        In the forms that providers use: joined, quoted, as a path, with its length, percent-encoded. Catches a provider that
        parses what it has joined.
        """
        a, b = await t.two_tenants()
        name, token = t.key(), t.token()
        await t.cells.write(a, name, token)
        tenant = t.tenant("a")
        for spelled in (
            f"{tenant}:{name}",
            f"{tenant}/{name}",
            f"/{tenant}/{name}",
            f"../{tenant}/{name}",
            f"{tenant}||{name}",
            f"{len(tenant)}:{tenant}:{name}",
            f"{tenant}%3A{name}",
            f"{tenant}\x1f{name}",
            f"{tenant}.{name}",
            f"tenant_id={tenant};{name}",
        ):
            with t.case(describe(spelled)):
                with t.refusable(spelled):
                    t.same(await t.cells.read(b, spelled), None, given=f"tenant B reads {describe(spelled)}")
                    await t.cells.write(b, spelled, t.token())
                    await t.cells.erase(b, spelled)
                t.same(
                    await t.cells.read(a, name),
                    token,
                    given=f"tenant A's cell after tenant B wrote and erased {describe(spelled)}",
                )

    @rule("MT-21", uses="watch")
    async def test_mt_21_a_watcher_is_told_of_its_own_tenant(self, t: MultiTenancyTrial) -> None:
        """A watcher, or a consumer, of one tenant receives nothing of another.

        Catches a channel that all tenants share. A last write of its own proves that the watcher listened.
        """
        a, b = await t.two_tenants()
        name, token, sentinel = t.key(), t.token(), t.token()
        await t.cells.write(b, name, t.token())
        seen = []
        async with t.cells.watch(b, name) as changes:
            await t.cells.write(a, name, token)
            await t.cells.erase(a, name)
            await t.cells.write(b, name, sentinel)
            with t.waiting(t.told_seconds):
                async for change in changes:
                    seen.append(text_of(change))
                    if sentinel in seen[-1]:
                        break
        t.check(
            any(sentinel in each for each in seen),
            given="a write of the watcher's own tenant",
            expected="the watcher is told of it",
            observed=seen,
        )
        shown = [each for each in seen if sentinel not in each]
        t.check(not shown, given="what tenant B's watcher received", expected="nothing of tenant A", observed=shown)

    @rule("MT-22", uses="erase_many")
    async def test_mt_22_bulk_removal_stays_within_the_tenant(self, t: MultiTenancyTrial) -> None:
        """Removing many cells at once in one tenant leaves every cell of another.

        Catches a flush, and a bulk statement without the tenant.
        """
        a, b = await t.two_tenants()
        tokens = {t.key(): t.token() for _ in range(5)}
        for name, token in tokens.items():
            await t.cells.write(b, name, token)
            await t.cells.write(a, name, t.token())
        await t.cells.erase_many(a, [*tokens, t.key()])
        for name, token in tokens.items():
            t.same(await t.cells.read(b, name), token, given="tenant B's cell after tenant A removed that name among others")
            t.same(await t.cells.read(a, name), None, given="tenant A's cell after it removed it")

    @rule("MT-23", uses="hold", deadline=20)
    async def test_mt_23_each_tenant_has_a_lock_of_that_name(self, t: MultiTenancyTrial) -> None:
        """Two tenants hold locks of one name at once, and neither frees or extends the other's.

        Catches a lock whose record, or whose renewal, knows only its name.
        """
        a, b = await t.two_tenants()
        numbers = t.numbers()
        ttl = max(numbers.min_ttl, 2 * numbers.ttl_resolution, 0.25)
        name = t.key()
        for tenant, client in (("A", a), ("B", b)):
            given = f"tenant {tenant}'s acquire of a lock, whose name the other may hold"
            t.same(await t.cells.hold(client, name, 600.0), True, given=given)
        await t.cells.erase(a, name)
        t.same(await t.cells.hold(a, name, 600.0), True, given="tenant A's acquire after its own release")
        await t.cells.erase(a, name)
        t.check(
            await t.cells.read(b, name) is not None,
            given="tenant B's lock after tenant A released that of its name, twice",
            expected="B holds it",
            observed=Plain("nobody does"),
        )
        name, ends = t.key(), t.now()
        for tenant, client, seconds in (("B", b, 600.0), ("A", a, ttl)):
            t.same(await t.cells.hold(client, name, seconds), True, given=f"tenant {tenant}'s acquire of another lock")
            ends = t.now() + seconds
        if t.can("extend"):
            t.same(await t.cells.extend(b, name, 600.0), True, given="tenant B's renewal of its own lock")
        await t.wait(ends + numbers.ttl_resolution + ttl / 10 - t.now())
        t.same(await t.cells.hold(a, name, ttl), True, given="tenant A's acquire after its own lease, where B holds that name")
        t.check(
            await t.cells.read(b, name) is not None,
            given="tenant B's lock after the lease of tenant A's of its name",
            expected="B holds it",
            observed=Plain("nobody does"),
        )

    @rule("MT-24", uses="url")
    async def test_mt_24_a_url_is_bound_to_its_tenant(self, t: MultiTenancyTrial) -> None:
        """A URL made by one tenant never yields another's bytes, also when its path is replaced by that of the other's URL.

        Catches a signature that does not cover the part of the path which names the tenant. The tenant's own cell, read through
        the same URL, shows that it works.
        """
        a, b = await t.two_tenants()
        name, token, own = t.key(), t.token(), t.token()
        await t.cells.write(a, name, token)
        theirs, mine = await t.cells.url(a, name), await t.cells.url(b, name)
        tried = {
            "a URL of tenant B for a name that only tenant A wrote": mine,
            "tenant B's URL with the path of tenant A's": urlunsplit(
                urlsplit(mine)._replace(netloc=urlsplit(theirs).netloc, path=urlsplit(theirs).path)
            ),
            "tenant B's URL with the id of tenant A": mine.replace(t.tenant("b"), t.tenant("a")),
        }
        for given, url in tried.items():
            with t.case(given):
                _, body = await t.cells.fetch(url)
                t.check(
                    not reveals(text_of(body), token), given=given, expected="not tenant A's bytes", observed=Plain("its bytes")
                )
        await t.cells.write(b, name, own)
        for given, url in tried.items():
            status, body = await t.cells.fetch(url)
            shown = text_of(body)
            t.check(
                not reveals(shown, token),
                given=f"{given}, after both wrote it",
                expected="not tenant A's bytes",
                observed=Plain("its bytes"),
            )
            if url == mine:
                t.same(shown, own, given=f"tenant B's own URL for its own cell (status {status})")

    @rule("MT-25", uses="agree")
    async def test_mt_25_all_operations_are_of_one_tenant(self, t: MultiTenancyTrial) -> None:
        """Within a tenant, each operation acts on what the others see.

        Catches the one operation that forgets the tenant, and works where nobody looks.
        """
        for client in await t.two_tenants():
            await t.cells.agree(client, t.key())


def _tells_nothing(told: str, absent: str, nobodys: str) -> bool:
    """Whether what was *told* is what is told of two absent names, but for the words in which those differ."""
    words = [re.split(r"(\s+)", each) for each in (told, absent, nobodys)]
    return len({*map(len, words)}) == 1 and all(one == other for one, other, word in zip(*words, strict=True) if other == word)

"""`multi_tenancy`: tenants of one backend neither see nor change each other's data.

It composes with any data-holding contract, whose `Cells` it drives: tenant A writes an unguessable token, then tenant B runs
every operation that the contract lists. Two oracles follow: A's cell is as it was, and A's token is nowhere in what B got.

A tenant id is *isolated or refused* with `InvalidArgumentError` at construction. That is the whole policy for odd ids; making
two ids one, by folding, trimming, cutting or replacing characters, is neither. An injective escape, a length prefix
(`4:acme:key`), or a bucket, schema or database for each tenant satisfies it.

A rule whose operations a contract does not have is no rule of its suites: MT-21 needs watchers or consumers, MT-24 presigned
URLs, and MT-23 will need locks.
"""

from functools import partial
from typing import Any, ClassVar
from urllib.parse import urlsplit, urlunsplit

import anyio

from omnitck.kit.canary import error_text, reveals, text_of
from omnitck.kit.cancellation import sweep
from omnitck.kit.cells import Operation
from omnitck.kit.concurrency import Attempt, attempt, gather
from omnitck.kit.contract import Plain, Policy, rule
from omnitck.kit.corpus import ILLEGAL_TENANTS, ODD_TENANTS, SEPARATORS, TWIN_TENANTS
from omnitck.kit.session import HookError
from omnitck.kit.text import describe, describe_error
from omnitck.shared.exceptions import ConflictError, InvalidArgumentError, TCKError

__all__ = ["MultiTenancyPolicy"]


class MultiTenancyPolicy(Policy):
    """Certifies that a provider keeps its tenants apart; `make_provider(tenant_id=...)` is all it asks for."""

    name = "multi_tenancy"
    version = "1.0"
    prefix = "MT"
    config: ClassVar = frozenset({"tenant_id"})

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

    @rule("MT-01")
    async def test_mt_01_one_name_two_values(self) -> None:
        """The same name holds independent values in two tenants.

        Catches a provider that takes `tenant_id` and forgets it.
        """
        a, b = await self.two_tenants()
        name, first, second = self.key(), self.token(), self.token()
        await self.cells.write(a, name, first)
        await self.cells.write(b, name, second)
        self.same(await self.cells.read(a, name), first, given="tenant A's read after both tenants wrote one name")
        self.same(await self.cells.read(b, name), second, given="tenant B's read after both tenants wrote one name")

    @rule("MT-02")
    async def test_mt_02_erasing_stays_within_the_tenant(self) -> None:
        """Erasing in one tenant leaves the other's cell.

        Catches a delete that is not scoped.
        """
        a, b = await self.two_tenants()
        name, token = self.key(), self.token()
        await self.cells.write(a, name, self.token())
        await self.cells.write(b, name, token)
        await self.cells.erase(a, name)
        self.same(await self.cells.read(b, name), token, given="tenant B's read after tenant A erased that name")
        self.same(await self.cells.read(a, name), None, given="tenant A's read after its erase")

    @rule("MT-03")
    async def test_mt_03_another_tenants_name_is_simply_absent(self) -> None:
        """A name that only another tenant wrote gives, in every operation, what any absent name gives.

        The same result, or the same error in the same words. Catches "forbidden" beside "not found": an oracle of existence.
        """
        a, b = await self.two_tenants()
        for operation in (each for each in self.operations() if not each.writes):
            with self.case(operation.name):
                theirs, nobodys = self.key("x"), self.key("x")
                await self.cells.write(a, theirs, self.token())
                probed = [await self._probe(b, operation, name) for name in (theirs, nobodys)]
                self.check(
                    probed[0] == probed[1],
                    given=f"{operation.name} of a name that another tenant wrote",
                    expected=f"what an absent name gives: {probed[1]}",
                    observed=Plain(probed[0]),
                )

    async def _probe(self, client: Any, operation: Operation, name: str) -> str:
        tried = await attempt(lambda: operation.call(client, name, "token"))
        text = describe(tried.value) if tried.error is None else describe_error(tried.error)
        return text.replace(name, "<name>")

    @rule("MT-04")
    async def test_mt_04_no_operation_reaches_another_tenant(self) -> None:
        """No operation of one tenant changes the value, version, expiry or existence of another's cell.

        Every declared operation is tried. Catches the one that was forgotten: compare-and-set, increment, a batch.
        """
        a, b = await self.two_tenants()
        for operation in self.operations():
            with self.case(operation.name):
                name = self.key()
                await self.cells.write(a, name, self.token())
                before = await self.cells.state(a, name, self.declared)
                await self.cells.prepare(b, name)
                await attempt(self.bound(operation, b, name))
                self.same(
                    await self.cells.state(a, name, self.declared),
                    before,
                    given=f"tenant A's cell after tenant B's {operation.name} of its name",
                )

    @rule("MT-05")
    async def test_mt_05_nothing_of_another_tenant_is_shown(self) -> None:
        """No result and no error of one tenant contains another's token, its tenant id, or a name that was not asked for.

        Catches the text of a duplicate-key error, and a query that ignores the tenant: Dapr returned every application's keys.
        """
        a, b = await self.two_tenants()
        for operation in (*self.operations(), *self.refusals()):
            with self.case(operation.name):
                name, token = self.key(), self.token()
                hidden = f"{name}-hidden"
                await self.cells.write(a, name, token)
                await self.cells.write(a, hidden, token)
                await self.cells.prepare(b, name)
                tried = await attempt(self.bound(operation, b, name))
                text = self._shown(tried)
                for what, secret in {"token": token, "tenant id": self.tenant("a"), "other name": hidden}.items():
                    self.check(
                        not reveals(text, secret),
                        given=f"tenant B's {operation.name} of a name of tenant A",
                        expected=f"nothing of A's {what}",
                        observed=Plain(f"A's {what} is in it: {describe(text)}"),
                    )

    def _shown(self, tried: Attempt[Any]) -> str:
        return text_of(tried.value) if tried.error is None else error_text(tried.error)

    @rule("MT-06")
    async def test_mt_06_enumeration_shows_own_names_only(self) -> None:
        """Enumeration, with any prefix, yields a tenant's own names, as the application wrote them.

        The empty prefix, patterns, paths, the other tenant's id. Catches an unscoped scan, and the tenant's prefix that shows in
        the names.
        """
        a, b = await self.two_tenants()
        start = self.key()
        await self.cells.write(a, f"{start}-theirs", self.token())
        own = [f"{start}-{number}" for number in range(3)]
        for name in own:
            await self.cells.write(b, name, self.token())
        for prefix in ("", start, "*", "%", "_", "..", "/", ":", self.tenant("a"), self.tenant("b"), f"{self.tenant('a')}:", "a"):
            with self.case(describe(prefix)):
                self.same(
                    sorted(await self.cells.names(b, prefix)),
                    sorted(name for name in own if name.startswith(prefix)),
                    given=f"the names of tenant B that begin with {describe(prefix)}",
                )

    @rule("MT-07", deadline=60)
    async def test_mt_07_separators_cannot_be_injected(self) -> None:
        """For every separator s, tenant `a`+s+`b` with name `c` and tenant `a` with name `b`+s+`c` are different cells.

        In write, read, erase and enumeration; or the id is refused. Catches `f"{tenant}:{key}"`.
        """
        for separator in SEPARATORS:
            with self.case(repr(separator)):
                a, b, c = self.namespace, f"b{self.key()}", f"c{self.key()}"
                outer = await self.connect_or_none(f"{a}{separator}{b}")
                inner = await self.connect_or_none(a)
                if outer is None or inner is None:
                    continue

                deep, token = f"{b}{separator}{c}", self.token()
                given = f"the cell {describe(c)} of tenant {describe(f'{a}{separator}{b}')}"
                await self.cells.write(outer, c, token)
                with self.refusable(deep):
                    read = await self.cells.read(inner, deep)
                    self.same(read, None, given=f"{given}, read as tenant {a}, name {describe(deep)}")
                    await self.cells.write(inner, deep, self.token())
                self.same(await self.cells.read(outer, c), token, given=f"{given} after tenant {a} wrote {describe(deep)}")
                if self.enumerates():
                    self.same(await self.cells.names(outer, ""), [c], given="the names of the tenant with a separator in its id")
                with self.refusable(deep):
                    await self.cells.erase(inner, deep)
                self.same(await self.cells.read(outer, c), token, given=f"{given} after tenant {a} erased {describe(deep)}")

    @rule("MT-08")
    async def test_mt_08_a_tenant_is_no_prefix_of_another(self) -> None:
        """A tenant whose id begins another's (`acme`, `acme2`, `acme/x`) neither reads nor lists the other's cells.

        Catches `startswith` without an end, and ids that are joined to names without anything between.
        """
        short = await self.connect(tenant_id=self.tenant())
        for rest in ("2", "/x", ":"):
            with self.case(rest):
                long = await self.connect_or_none(self.tenant() + rest)
                if long is None:
                    continue

                name, token = self.key(), self.token()
                await self.cells.write(long, name, token)
                with self.refusable(rest + name):
                    self.same(
                        await self.cells.read(short, rest + name),
                        None,
                        given=f"tenant T reads {describe(rest + name)}, which tenant T{rest} wrote as {describe(name)}",
                    )
                if self.enumerates():
                    self.same(await self.cells.names(short, ""), [], given="the names of the tenant with the shorter id")

    @rule("MT-09", deadline=60)
    async def test_mt_09_similar_ids_are_different_tenants(self) -> None:
        """Ids that differ in case, normal form, a trailing space or dot, or a leading zero are different tenants, or refused.

        Catches a bucket or schema name that folds, and a slug that drops what it does not like.
        """
        for label, (one, other) in TWIN_TENANTS.items():
            with self.case(label):
                # What makes the pair unique stands in front, where it does not disturb the trap at the end.
                first = await self.connect_or_none(f"{self.namespace}{one}")
                second = await self.connect_or_none(f"{self.namespace}{other}")
                await self.check_apart(first, second, f"tenants {describe(one)} and {describe(other)}")

    @rule("MT-10")
    async def test_mt_10_long_ids_are_not_cut(self) -> None:
        """Two ids of 200 bytes that differ in the last one are different tenants, or refused.

        Catches an identifier cut at 63 characters, and a short hash.
        """
        start = self.namespace.ljust(199, "x")
        await self.check_apart(
            await self.connect_or_none(start + "1"),
            await self.connect_or_none(start + "2"),
            given="two tenants whose ids differ in the last of 200 bytes",
        )

    @rule("MT-11", "validation")
    async def test_mt_11_illegal_ids_are_refused(self) -> None:
        """An id that is empty, white space, no `str`, or holds U+0000 or a surrogate is refused with `InvalidArgumentError`.

        It never means "no tenant". Catches `if tenant_id:`.
        """
        for label, tenant_id in ILLEGAL_TENANTS.items():
            with self.case(label):
                client = await self.connect_or_none(tenant_id)
                self.check(
                    client is None,
                    given=f"make_provider(tenant_id={describe(tenant_id)})",
                    expected="InvalidArgumentError",
                    observed=Plain("a provider"),
                )

    @rule("MT-12", deadline=60)
    async def test_mt_12_odd_ids_are_ordinary(self) -> None:
        """`default`, `public`, `None`, `*`, `..`, `%`, `a' --` and their like are isolated tenants, or refused.

        Catches the schema `public`, the pattern, the path and the statement.
        """
        name = self.key()
        ordinary, kept = await self.connect(tenant_id=self.tenant()), self.token()
        await self.cells.write(ordinary, name, kept)
        nobody = await self.connect_or_none(None)
        if nobody is not None:
            await self.cells.write(nobody, name, self.token())
        wrote = {}
        for odd in ODD_TENANTS:
            with self.case(odd):
                client = await self.connect_or_none(odd)
                if client is None:
                    continue

                self.same(await self.cells.read(client, name), None, given=f"tenant {odd!r} reads what other tenants wrote")
                wrote[odd] = (client, self.token())
                await self.cells.write(client, name, wrote[odd][1])
        for odd, (client, token) in wrote.items():
            with self.case(odd):
                self.same(
                    await self.cells.read(client, name),
                    token,
                    given=f"tenant {odd!r} reads what it wrote, after all others wrote",
                )
        self.same(
            await self.cells.read(ordinary, name), kept, given="an ordinary tenant's cell, after the odd ones wrote its name"
        )

    @rule("MT-13", deadline=30)
    async def test_mt_13_no_tenant_is_not_every_tenant(self) -> None:
        """A provider without a tenant and the tenants do not see each other; or `None` is refused.

        Catches the global scope that is a superuser's.
        """
        nobody = await self.connect_or_none(None)
        if nobody is None:
            return

        for given, id in (("no tenant and a tenant", self.tenant()), ('no tenant and the tenant "None"', "None")):
            with self.case(given):
                tenant = await self.connect_or_none(id)
                await self.check_apart(nobody, tenant, given)
                await self.check_apart(tenant, nobody, given)
        if self.enumerates():
            name = self.key()
            await self.cells.write(await self.connect(tenant_id=self.tenant()), name, self.token())
            listed = await self.cells.names(nobody, self.namespace)
            self.check(name not in listed, given="a listing without a tenant", expected="no tenant's names", observed=listed)

    @rule("MT-14")
    async def test_mt_14_concurrency_does_not_mix_tenants(self) -> None:
        """Isolation holds with 20 interleaved tasks of each tenant on one event loop.

        Catches a "current tenant" in a global or a context variable that does not follow the task.
        """
        clients = await self.two_tenants()
        names = [self.key() for _ in range(20)]

        async def one(which: int, name: str) -> bool:
            token = self.token()
            await self.cells.write(clients[which], name, token)
            await anyio.lowlevel.checkpoint()
            return await self.cells.read(clients[which], name) == token

        right = await gather(partial(one, which, name) for name in names for which in (0, 1))
        self.check(
            all(right),
            given="20 tasks of each of two tenants, which write and read the same names",
            expected="each reads what its tenant wrote",
            observed=Plain(f"{right.count(False)} of 40 did not"),
        )

    @rule("MT-15", deadline=60)
    async def test_mt_15_cancellation_does_not_change_the_tenant(self) -> None:
        """After cancelled or failed operations of one tenant, another's operations still act on its own cells.

        Catches a pooled connection that keeps `SET search_path`, or the setting of row-level security.
        """
        a, b = await self.two_tenants()
        name, of_a, of_b = self.key(), self.token(), self.token()
        await self.cells.write(a, name, of_a)
        await self.cells.write(b, name, of_b)
        for operation in (each for each in self.operations() if not each.wide):
            with self.case(operation.name):
                victim = self.key()
                async for _ in sweep(partial(self.bound, operation, a, victim)):
                    given = f"after tenant A's {operation.name} was cancelled"
                    self.same(await self.cells.read(b, name), of_b, given=f"tenant B's read {given}")
                    self.same(await self.cells.read(a, name), of_a, given=f"tenant A's read {given}")

    @rule("MT-16", "lifecycle")
    async def test_mt_16_closing_is_per_tenant(self) -> None:
        """Closing one tenant's client leaves another's usable.

        Catches a shared client.
        """
        a, b = await self.two_tenants()
        name, token = self.key(), self.token()
        await self.cells.write(b, name, token)
        await a.close()
        self.same(await self.cells.read(b, name), token, given="tenant B's read after tenant A's client has closed")

    @rule("MT-17", "shared")
    async def test_mt_17_a_tenant_is_not_an_instance(self) -> None:
        """Two clients of the same tenant share its data.

        Catches isolation that comes from a dictionary per instance.
        """
        one, other = await self.connect(tenant_id=self.tenant()), await self.connect(tenant_id=self.tenant())
        name, token = self.key(), self.token()
        await self.cells.write(one, name, token)
        await self.settle()
        self.same(await self.cells.read(other, name), token, given="a read by another client of the same tenant")

    @rule("MT-18")
    async def test_mt_18_uniqueness_is_per_tenant(self) -> None:
        """A tenant may create a name that another has already; its own second creation is a conflict.

        Catches a unique index without the tenant.
        """
        a, b = await self.two_tenants()
        name, first, second = self.key(), self.token(), self.token()
        await self.cells.create(a, name, first)
        created = await attempt(lambda: self.cells.create(b, name, second))
        if created.error is not None:
            self.fail_rule(
                given="tenant B creates a name that only tenant A has",
                expected="it is created",
                observed=describe_error(created.error),
            )
        self.same(await self.cells.read(b, name), second, given="tenant B's read of what it created")
        self.same(await self.cells.read(a, name), first, given="tenant A's read after tenant B created that name")
        await self.refused(lambda: self.cells.create(b, name, self.token()), ConflictError, given="tenant B creates it again")

    @rule("MT-19")
    async def test_mt_19_handles_do_not_travel(self) -> None:
        """A version, cursor or id that was taken from one tenant is refused in another, or acts on its own data only.

        Catches a handle that holds the whole address of what it stands for.
        """
        a, b = await self.two_tenants()
        name, token = self.key(), self.token()
        await self.cells.write(a, name, token)
        before = await self.cells.state(a, name, self.declared)
        for handle in await self.cells.handles(a, name):
            tried = await attempt(partial(self.cells.replay, b, name, handle, self.token()))
            if tried.error is not None and not isinstance(tried.error, TCKError):
                tried.result()
            self.same(
                await self.cells.state(a, name, self.declared),
                before,
                given="tenant A's cell after tenant B used A's version of it",
            )
            self.check(
                not reveals(self._shown(tried), token),
                given="what tenant B got",
                expected="no token of A",
                observed=self._shown(tried),
            )

    @rule("MT-20", deadline=30)
    async def test_mt_20_a_name_cannot_choose_the_tenant(self) -> None:
        """A tenant that is spelled inside a name selects nothing: the name is only a name.

        In the forms that providers use: joined, quoted, as a path, with its length, percent-encoded. Catches a provider that
        parses what it has joined.
        """
        a, b = await self.two_tenants()
        name, token = self.key(), self.token()
        await self.cells.write(a, name, token)
        tenant = self.tenant("a")
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
            with self.case(describe(spelled)):
                with self.refusable(spelled):
                    self.same(await self.cells.read(b, spelled), None, given=f"tenant B reads {describe(spelled)}")
                    await self.cells.write(b, spelled, self.token())
                    await self.cells.erase(b, spelled)
                self.same(
                    await self.cells.read(a, name),
                    token,
                    given=f"tenant A's cell after tenant B wrote and erased {describe(spelled)}",
                )

    @rule("MT-21")
    async def test_mt_21_a_watcher_is_told_of_its_own_tenant(self) -> None:
        """A watcher, or a consumer, of one tenant receives nothing of another.

        Catches a channel that all tenants share. A last write of its own proves that the watcher listened.
        """
        a, b = await self.two_tenants()
        name, token, sentinel = self.key(), self.token(), self.token()
        await self.cells.write(b, name, self.token())
        seen = []
        async with self.cells.watch(b, name) as changes:
            await self.cells.write(a, name, token)
            await self.cells.erase(a, name)
            await self.cells.write(b, name, sentinel)
            with anyio.move_on_after(5 * self.patience):
                async for change in changes:
                    seen.append(text_of(change))
                    if sentinel in seen[-1]:
                        break
        self.check(
            any(sentinel in each for each in seen),
            given="a write of the watcher's own tenant",
            expected="the watcher is told of it",
            observed=seen,
        )
        shown = [each for each in seen if sentinel not in each]
        self.check(not shown, given="what tenant B's watcher received", expected="nothing of tenant A", observed=shown)

    @rule("MT-22")
    async def test_mt_22_bulk_removal_stays_within_the_tenant(self) -> None:
        """Removing many cells at once in one tenant leaves every cell of another.

        Catches a flush, and a bulk statement without the tenant.
        """
        a, b = await self.two_tenants()
        tokens = {self.key(): self.token() for _ in range(5)}
        for name, token in tokens.items():
            await self.cells.write(b, name, token)
            await self.cells.write(a, name, self.token())
        await self.cells.erase_many(a, [*tokens, self.key()])
        for name, token in tokens.items():
            self.same(
                await self.cells.read(b, name), token, given="tenant B's cell after tenant A removed that name among others"
            )
            self.same(await self.cells.read(a, name), None, given="tenant A's cell after it removed it")

    @rule("MT-24", "presigned_url")
    async def test_mt_24_a_url_is_bound_to_its_tenant(self) -> None:
        """A URL made by one tenant never yields another's bytes, also when its path is replaced by that of the other's URL.

        Catches a signature that does not cover the part of the path which names the tenant. The tenant's own cell, read through
        the same URL, shows that it works.
        """
        a, b = await self.two_tenants()
        name, token, own = self.key(), self.token(), self.token()
        await self.cells.write(a, name, token)
        theirs, mine = await self.cells.url(a, name), await self.cells.url(b, name)
        tried = {
            "a URL of tenant B for a name that only tenant A wrote": mine,
            "tenant B's URL with the path of tenant A's": urlunsplit(
                urlsplit(mine)._replace(netloc=urlsplit(theirs).netloc, path=urlsplit(theirs).path)
            ),
            "tenant B's URL with the id of tenant A": mine.replace(self.tenant("b"), self.tenant("a")),
        }
        for given, url in tried.items():
            with self.case(given):
                _, body = await self.cells.fetch(url)
                self.check(
                    not reveals(text_of(body), token), given=given, expected="not tenant A's bytes", observed=Plain("its bytes")
                )
        await self.cells.write(b, name, own)
        for given, url in tried.items():
            status, body = await self.cells.fetch(url)
            shown = text_of(body)
            self.check(
                not reveals(shown, token),
                given=f"{given}, after both wrote it",
                expected="not tenant A's bytes",
                observed=Plain("its bytes"),
            )
            if url == mine:
                self.same(shown, own, given=f"tenant B's own URL for its own cell (status {status})")

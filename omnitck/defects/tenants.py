"""What can go wrong between tenants, in the order of the rules. Mixins: `break_with` puts one on a reference."""

from collections.abc import Mapping
from typing import Any

import anyio

from omnitck.defects.clients import Delete, Read, ReadElsewhere
from omnitck.reference.client import Cell, MemoryClient


def elsewhere(client: MemoryClient[Any], key: str) -> list[Cell]:
    """Where other tenants have something under the same *key*."""
    mine = client.cell(key)
    return [each for each in client.backend.cells() if each != mine and (each.name, each.space) == (mine.name, mine.space)]


class IgnoredTenant(MemoryClient[Any]):
    """`tenant_id` is taken and forgotten."""

    def cell(self, key: str) -> Cell:
        return super().cell(key)._replace(tenant=None)


class DeleteEverywhere(Delete):
    """A deletion has no tenant in its condition."""

    async def erase(self, key: str, *arguments: Any, **keywords: Any) -> Any:
        answer = await super().erase(key, *arguments, **keywords)
        for cell in elsewhere(self, key):
            self.backend.remove(cell)
        return answer


class UnscopedScan(MemoryClient[Any]):
    """A listing of short prefixes shows all tenants' names."""

    def following(self, prefix: str, after: str) -> list[str]:
        if len(prefix) >= 20:
            return super().following(prefix, after)
        names = {cell.name for cell in self.backend.cells()}
        return sorted(name for name in names if name.startswith(prefix) and name > after)[: self.limits.page_size]


class JoinedByColon(MemoryClient[Any]):
    """The tenant's prefix ends with a colon, and so may a tenant."""

    def cell(self, key: str) -> Cell:
        if self.tenant_id is None:
            return super().cell(key)
        tenant, _, name = f"{self.tenant_id}:{key}".partition(":")
        return super().cell(key)._replace(tenant=tenant, name=name)


class JoinedByNothing(ReadElsewhere):
    """Tenant and name are joined without anything between, when one is read."""

    def instead_of(self, cell: Cell) -> Cell:
        if cell.tenant is None or cell in self.backend.cells():
            return cell
        joined = f"{cell.tenant}{cell.name}"
        alike = [each for each in self.backend.cells() if each.space == cell.space and f"{each.tenant}{each.name}" == joined]
        return alike[0] if alike else cell


class FoldedTenant(MemoryClient[Any]):
    """The tenant is the name of a schema, which folds case."""

    def __init__(self, *arguments: Any, tenant_id: Any = None, **keywords: Any) -> None:
        super().__init__(*arguments, tenant_id=tenant_id.lower() if isinstance(tenant_id, str) else tenant_id, **keywords)


class CutTenant(MemoryClient[Any]):
    """Identifiers end at 63 characters."""

    def __init__(self, *arguments: Any, tenant_id: Any = None, **keywords: Any) -> None:
        super().__init__(*arguments, tenant_id=tenant_id[:63] if isinstance(tenant_id, str) else tenant_id, **keywords)


class FalsyTenant(MemoryClient[Any]):
    """`if tenant_id:` sends an empty id to the global scope."""

    def __init__(self, *arguments: Any, tenant_id: Any = None, **keywords: Any) -> None:
        super().__init__(*arguments, tenant_id=tenant_id or None, **keywords)


class PublicTenant(MemoryClient[Any]):
    """The tenant `public` is the scope of all who have none."""

    def __init__(self, *arguments: Any, tenant_id: Any = None, **keywords: Any) -> None:
        super().__init__(*arguments, tenant_id=None if tenant_id == "public" else tenant_id, **keywords)


class GlobalSuperuser(ReadElsewhere):
    """Without a tenant one reads what every tenant has."""

    def instead_of(self, cell: Cell) -> Cell:
        others = [] if cell.tenant is not None or cell in self.backend.cells() else self.backend.cells()
        alike = [each for each in others if (each.name, each.space) == (cell.name, cell.space)]
        return alike[0] if alike else cell


class GlobalTenant(ReadElsewhere):
    """The current tenant is a global that is set before each read."""

    async def read(self, *arguments: Any, **keywords: Any) -> Any:
        self.backend.__dict__["tenant"] = self.tenant_id
        return await super().read(*arguments, **keywords)

    def instead_of(self, cell: Cell) -> Cell:
        return cell._replace(tenant=self.backend.__dict__["tenant"])


class StickySetting(Read):
    """A cancelled call leaves the connection with its tenant set; the next one reads as that."""

    async def turn(self) -> None:
        try:
            await super().turn()
        except anyio.get_cancelled_exc_class():
            self.backend.__dict__["stuck"] = self.tenant_id
            raise

    async def read(self, *arguments: Any, **keywords: Any) -> Any:
        own = self.tenant_id
        self.tenant_id = self.backend.__dict__.pop("stuck", own)
        try:
            return await super().read(*arguments, **keywords)
        finally:
            self.tenant_id = own


class ClosesNeighbours(MemoryClient[Any]):
    """Closing a tenant's client closes those of the other tenants."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.backend.__dict__.setdefault("clients", []).append(self)

    async def close(self) -> None:
        for client in self.backend.__dict__["clients"]:
            client.closed = client.closed or client.tenant_id != self.tenant_id
        await super().close()


class InstanceIsTenant(MemoryClient[Any]):
    """With a tenant, each client has data of its own."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.tenant_id = self.tenant_id and f"{self.tenant_id}#{id(self)}"


class ParsedTenant(MemoryClient[Any]):
    """A tenant's prefix is added unless the name seems to have one already."""

    def cell(self, key: str) -> Cell:
        cell = super().cell(key)
        tenant, separator, name = key.partition("/")
        known = separator and tenant in {each.tenant for each in self.backend.cells()}
        return cell._replace(tenant=tenant, name=name) if known else cell


EVERYWHERE: Mapping[type[MemoryClient[Any]], str] = {
    FoldedTenant: "MT-09",
    CutTenant: "MT-10",
    FalsyTenant: "MT-11",
    PublicTenant: "MT-12",
    InstanceIsTenant: "MT-17",
}
"""What the same rule rejects under every contract."""

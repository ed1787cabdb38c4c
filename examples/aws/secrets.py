"""`secrets` on AWS Secrets Manager, through aiobotocore.

A name is a name of the service, with `=XX` for each byte that it does not take. Deleting forces: the default would keep the
name for weeks. Forced deletion ends late, so writing a name anew waits for it, within bounds.

Of versions the service keeps the current and the previous one for sure; no other is listed here or given out.

botocore logs whole requests and answers at DEBUG, in loggers that all services share. They are held at INFO unless somebody has
set their level: `quiet_debug` is declared on that condition.

An empty secret is refused, as the service does. `watch` is not declared: the service tells nobody of a change. Moto lists at
once; AWS itself may take minutes to list a new name, which is more than the standard's `staleness` allows: there, do not
declare `list_prefix`. Moto also lets everybody in, so missing rights are not provoked.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, ClassVar, Self

from examples import servers
from examples.aws.client import DENIED, AWSClient, code_of
from examples.common import arguments
from examples.common.client import together
from examples.common.secrets import Content, escape, text_of, texts_of, unescape
from omnitck.shared.exceptions import InvalidArgumentError, PermissionDeniedError, SecretNotFoundError, UnavailableError
from omnitck.shared.models import SecretLimits

__all__ = ["AWSSecrets", "Space", "make_store"]

LONGEST_SPACE = 240
ATTEMPTS = 8
"""Tries to write a name whose deletion is not finished; the pauses between them add up to 6 s."""

NOT_THERE = {"ResourceNotFoundException"}
DELETED = {"InvalidRequestException"}
"""What is said of a secret that is marked for deletion."""

for _each in ("botocore.endpoint", "botocore.parsers"):  # the bodies of requests, the bodies of answers
    if logging.getLogger(_each).level == logging.NOTSET:
        logging.getLogger(_each).setLevel(logging.INFO)


class Space:
    """The names of one tenant among all those of the account."""

    def __init__(self, tenant_id: str | None) -> None:
        tenant = arguments.encode_tenant(tenant_id)
        self.start = f"omnitck/tenants/{escape(tenant, '_.-')}/" if tenant else "omnitck/common/"
        if len(self.start) > LONGEST_SPACE:
            raise InvalidArgumentError(f"tenant {tenant_id!r} takes {len(self.start)} characters; the limit is {LONGEST_SPACE}")

    def name(self, encoded: bytes) -> str:
        """The service's name of a secret, or of a prefix."""
        return self.start + escape(encoded, "/_.-")

    def original(self, name: str) -> str | None:
        """The secret with this name of the service; None if it is none of the space."""
        return unescape(name[len(self.start) :]) if name.startswith(self.start) else None


class AWSSecrets(AWSClient):
    """The secrets of one account and region."""

    service = "secretsmanager"

    capabilities: ClassVar[frozenset[str]] = frozenset(
        "write versioning list_prefix batch binary quiet_debug lifecycle validation shared availability limits".split()
    )
    limits: ClassVar[SecretLimits] = SecretLimits(key_bytes=85, value_bytes=65_536, page_size=50, batch_size=20)

    def __init__(self, *base: Any, tenant_id: str | None = None) -> None:
        super().__init__(*base)
        self._space = Space(tenant_id)

    @classmethod
    async def connect(cls, url: str, *, tenant_id: str | None = None) -> Self:
        """A client of the endpoint at *url*."""
        Space(tenant_id)  # refused before anything is opened
        return await cls.open(url, tenant_id=tenant_id)

    async def get(self, name: str, *, version: str | None = None) -> str:
        """The secret's newest value, or that of *version*."""
        if version is None:
            content = await self._content(name)
        else:
            content = await self._version(name, version)
        return text_of(name, content)

    async def get_bytes(self, name: str) -> bytes:
        """The secret's bytes."""
        return (await self._content(name)).data

    async def set(self, name: str, value: str) -> str:
        """Create or replace the secret; the id of the version."""
        id = self._name(name)
        text = arguments.encode_text(name, value, self.limits).decode()
        if not text:
            raise InvalidArgumentError(f"the value for {name!r} is empty, which the service refuses")

        for attempt in range(ATTEMPTS):
            stored = await self._call(f"set {name!r}", self._put(id, text))
            if stored is not None:
                return stored
            await asyncio.sleep(min(0.05 * 2**attempt, 1.5))
        raise UnavailableError(f"set {name!r}: its deletion has not ended") from TimeoutError(f"{ATTEMPTS} tries")

    async def delete(self, name: str) -> None:
        """Remove the secret."""
        id = self._name(name)
        await self._call(f"delete {name!r}", self._remove(id))

    async def list_versions(self, name: str) -> list[str]:
        """The ids of the current and the previous version."""
        id = self._name(name)
        listed = await self._call(f"list_versions {name!r}", self._labelled(id))
        if not listed:
            raise _absent(name)
        return listed

    async def list_names(self, prefix: str = "") -> AsyncIterator[str]:
        """Every name with *prefix*; the service looks for its beginning."""
        start = self._space.name(arguments.encode_prefix(prefix, self.limits))
        page: dict[str, Any] = {"Filters": [{"Key": "name", "Values": [start]}], "MaxResults": self.limits.page_size}
        while True:
            answer = await self._request(f"list_names {prefix!r}", "list_secrets", **page)
            for each in answer["SecretList"]:
                name = self._space.original(each["Name"])
                if name is not None and name.startswith(prefix):
                    yield name
            if "NextToken" not in answer:
                return
            page["NextToken"] = answer["NextToken"]

    async def get_many(self, names: Iterable[str]) -> dict[str, str]:
        """Each of *names* with its value."""
        self._check_open()
        ids = {name: self._name(name) for name in names}
        found: dict[str, Content] = {}
        for chunk in arguments.chunks(ids.values(), self.limits.batch_size):
            found |= await self._call(f"get_many of {len(chunk)}", self._batch(chunk))
        return texts_of({name: found.get(id) for name, id in ids.items()})

    def _name(self, name: object) -> str:
        return self._space.name(arguments.encode_key(name, self.limits))

    async def _content(self, name: str) -> Content:
        id = self._name(name)
        found = await self._call(f"get {name!r}", self._read(SecretId=id))
        if found is None:
            raise _absent(name)
        return found

    async def _version(self, name: str, version: object) -> Content:
        id = self._name(name)
        if not isinstance(version, str):
            raise InvalidArgumentError(f"the version of {name!r} is {type(version).__name__}, not str")

        async def work() -> Content | None:
            # Others may still be there, for a while, and the newest of two answers must not depend on which.
            return await self._read(SecretId=id, VersionId=version) if version in await self._labelled(id) else None

        found = await self._call(f"get {name!r}", work())
        if found is None:
            raise SecretNotFoundError(f"secret {name!r} has no version {version!r}")
        return found

    async def _ask(self, operation: str, absent: Iterable[str], **arguments: Any) -> Any:
        """The answer to a request; None if it is one of the errors that mean *absent*."""
        code = ""
        try:
            return await getattr(self._aws, operation)(**arguments)
        except Exception as error:
            code = code_of(error)
            if code in DENIED:
                raise PermissionDeniedError("the backend refused the credentials") from error
            if code not in absent:
                raise
        return None

    async def _read(self, **arguments: str) -> Content | None:
        answer = await self._ask("get_secret_value", NOT_THERE | DELETED, **arguments)
        return None if answer is None else _content_of(answer)

    async def _put(self, id: str, text: str) -> str | None:
        """The id of a new version; None if the name is still being deleted."""
        answer = await self._ask("put_secret_value", NOT_THERE | DELETED, SecretId=id, SecretString=text)
        if answer is None:
            answer = await self._ask("create_secret", {"ResourceExistsException", *DELETED}, Name=id, SecretString=text)
        if answer is None:
            await self._remove_marked(id)
            return None
        return str(answer["VersionId"])

    async def _remove(self, id: str) -> None:
        await self._ask("delete_secret", NOT_THERE, SecretId=id, ForceDeleteWithoutRecovery=True)

    async def _remove_marked(self, id: str) -> None:
        """Force the deletion of a secret that somebody deleted with the right to recover it."""
        described = await self._ask("describe_secret", NOT_THERE | DELETED, SecretId=id)
        if described is not None and described.get("DeletedDate") is not None:
            await self._remove(id)

    async def _labelled(self, id: str) -> list[str]:
        answer = await self._ask("describe_secret", NOT_THERE | DELETED, SecretId=id)
        if answer is None or answer.get("DeletedDate") is not None:
            return []
        labels: Mapping[str, list[str]] = answer.get("VersionIdsToStages", {})
        ordered = [[id for id, has in labels.items() if label in has] for label in ("AWSCURRENT", "AWSPREVIOUS")]
        return [id for ids in ordered for id in ids]

    async def _batch(self, ids: list[str]) -> dict[str, Content]:
        answer = await self._ask("batch_get_secret_value", (), SecretIdList=ids)
        found = {each["Name"]: _content_of(each) for each in answer["SecretValues"]}
        codes = {each["SecretId"]: each.get("ErrorCode", "") for each in answer.get("Errors", ())}
        if DENIED & set(codes.values()):
            raise PermissionDeniedError("the backend refused the credentials")
        failed = [code for code in codes.values() if code not in NOT_THERE | DELETED]
        if failed:
            raise OSError(f"the service answers {failed[0]}")
        # A large answer is cut short: who is neither there nor an error is asked for alone.
        rest = [id for id in ids if id not in found and id not in codes]
        for id, content in zip(rest, await together(self._read(SecretId=id) for id in rest), strict=True):
            if content is not None:
                found[id] = content
        return found


def _content_of(answer: Mapping[str, Any]) -> Content:
    return Content(answer["SecretString"].encode() if "SecretString" in answer else answer["SecretBinary"])


def _absent(name: str) -> SecretNotFoundError:
    return SecretNotFoundError(f"secret {name!r} does not exist")


async def make_store(*, tenant_id: str | None = None, address: tuple[str, int] | None = None, **config: object) -> AWSSecrets:
    """A client of the example's own server, or of the one at ``OMNITCK_AWS_URL``."""
    return await AWSSecrets.connect(await servers.connect_info(servers.moto, address), tenant_id=tenant_id)

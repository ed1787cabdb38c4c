"""A contract and a policy of another distribution, which adds them to the kit by entry point."""

from typing import Any, Protocol

from omnitck import Definition, Operation, Policy, Trial, rule
from omnitck.common.clients import ClientRules


class MailProtocol(Protocol):
    """Sends mail."""

    async def send(self, address: str, text: str) -> str:
        """Hand *text* over for *address*; the message's id."""
        ...


class MailContract(ClientRules):
    """Certifies what sends mail."""

    definition = Definition(
        name="acme_mail",
        prefix="ACM",
        protocols={"": MailProtocol},
        operations=(Operation("send", lambda p, n, t: p.send(n, t), "send", writes=True),),
    )

    @rule("ACM-01")
    async def test_acm_01_ids_differ(self, t: Trial[MailProtocol]) -> None:
        """Each message has an id of its own."""
        mail = await t.connect()
        ids = [await mail.send("a@example.org", "text") for _ in range(2)]
        t.check(ids[0] != ids[1], given="two equal messages", expected="two ids", observed=ids)


class ShoutingPolicy(Policy):
    """Certifies that results are shouted."""

    definition = Definition(name="acme_shouting", prefix="ACS")

    @rule("ACS-01")
    async def test_acs_01_results_are_upper_case(self, t: Trial[Any]) -> None:
        """Every result that is text is in upper case."""
        client = await t.connect()
        for operation in t.operations():
            result = await (await t.arranged(operation, client, t.key()))()
            t.check(not isinstance(result, str) or result.isupper(), given=operation.name, expected="upper case", observed=result)


class Mail:
    """A correct provider."""

    sent = 0

    async def send(self, address: str, text: str) -> str:
        Mail.sent += 1
        return f"MAIL-{Mail.sent}"


async def make_mail(**config: Any) -> Mail:
    """Connect to it."""
    return Mail()


class QuietMail(Mail):
    """Breaks the policy."""

    async def send(self, address: str, text: str) -> str:
        return (await super().send(address, text)).lower()


async def make_quiet_mail(**config: Any) -> QuietMail:
    """Connect to it."""
    return QuietMail()


class ForgedContract(ClientRules):
    """Takes ids that are the kit's."""

    definition = Definition(name="acme_forged", prefix="KV", operations=())

    @rule("KV-03")
    async def test_kv_03_nothing(self, t: Trial[Any]) -> None:
        """Nothing is checked."""

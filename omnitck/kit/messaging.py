"""What producers, consumers and delayed publishers share: topics as cells, and the words in which their rules are written.

A message is looked for from two ends. Where the provider under test publishes and does not consume, its suite brings
`get_message_from_topic`; where it consumes and does not publish, `publish`; a provider that does both needs neither. That
something did *not* come is known once a sentinel did, which was published after it, and `settle` has passed.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cached_property, partial
from typing import Any, ClassVar, cast

import anyio
import anyio.lowlevel

from omnitck.kit.cells import Cells
from omnitck.kit.common import ANSWER_SECONDS, CommonRules
from omnitck.kit.concurrency import Call, attempt
from omnitck.kit.contract import Plain, has_hook
from omnitck.kit.history.queues import Delivery, Fate, Order, Publication, judge
from omnitck.kit.session import HookError, parameters, raw
from omnitck.kit.text import describe, describe_error
from omnitck.shared.exceptions import UnavailableError
from omnitck.shared.models import ConsumedMessage, MessageLimits, ProcessingOutcome

__all__ = ["Inbox", "MessagingRules", "TopicCells", "Traffic", "Worker"]

MANY = 20
"""Times that a deadline begins anew because there was progress: 100 messages may take longer than one."""

TURNS = 200
"""Turns of the event loop that a message within this process may take: on a busy machine they last longer than any deadline."""

Content = tuple[bytes, str | None, Mapping[str, str]]
Act = Callable[[Any, int], Awaitable[object]]
"""What a handler does with a message, given the number of the delivery, from 1."""


def content(message: Any) -> Content:
    """What was published, as it arrived."""
    return message.payload, message.key, message.headers


class Inbox:
    """Everything that arrives at one topic of one tenant from the moment on at which it is opened."""

    def __init__(self, suite: "MessagingRules", topic: str, tenant_id: str | None) -> None:
        self.suite = suite
        self.topic = topic
        self.tenant_id = tenant_id
        self.written: list[str] = []
        """The tokens that the cell was made to hold, in their order."""
        self.shown: str | None = None
        """The token that the cell holds, as far as it was looked."""
        self.listener: Any = None
        self.subscription: Any = None
        self._turn = anyio.Lock()
        self._came: list[Any] = []
        self._arrival = anyio.Event()

    async def handle(self, message: ConsumedMessage) -> ProcessingOutcome:
        """Take a message, as the handler of a subscription."""
        self._came.append(message)
        self._arrival.set()
        return ProcessingOutcome.SUCCESS

    async def next(self, within: float | None = None) -> Any:
        """The next message; None if none comes *within* so many seconds, by default within `deliver`."""
        if within is None:
            within = self.suite.numbers().deliver * self.suite.patience
        if not self.suite.subscribes:
            return await self._asked(within)

        if not self._came:
            with anyio.move_on_after(within):
                await self._arrival.wait()
        for _ in range(TURNS):
            if self._came:
                break
            await anyio.lowlevel.checkpoint()
        self._arrival = anyio.Event()
        return self._came.pop(0) if self._came else None

    async def pause(self) -> None:
        """Let what arrives wait in the topic."""
        if self.subscription is not None:
            await self.subscription.stop()

    async def resume(self) -> None:
        """Take what arrives again."""
        if self.subscription is not None:
            self.subscription = await self.listener.subscribe(self.topic, self.handle)

    async def one(self, given: str) -> Any:
        """The next message, which must come."""
        message = await self.next()
        if message is None:
            self.suite.fail_rule(
                given=given,
                expected="the message arrives",
                observed=f"nothing within {self.suite.numbers().deliver * self.suite.patience:g} s",
            )
        return message

    async def rest(self, provider: Any) -> list[Any]:
        """Everything that has come, once a sentinel has that *provider* was told to publish now.

        If the client is gone that listened, *provider* listens from now on.
        """
        if self.listener is not None and not self.suite.session.is_open(self.listener):
            await self.suite.listen(provider, self)
        sentinel = self.suite.token().encode()
        await self.suite.send(provider, self.topic, sentinel)
        came = []
        while (message := await self.one("a sentinel, published last")).payload != sentinel:
            came.append(message)
        if self.suite.numbers().settle:
            await self.suite.wait(self.suite.numbers().settle)
            came += await self.at_hand()
        return came

    async def at_hand(self) -> list[Any]:
        """Everything that has come."""
        if self.suite.subscribes:
            for _ in range(TURNS):
                await anyio.lowlevel.checkpoint()
            came, self._came = self._came, []
            return came

        came = []
        while (message := await self._asked(0.0)) is not None:
            came.append(message)
        return came

    async def _asked(self, within: float) -> Any:
        """The next message, by the suite's hook."""
        message = await self.suite.ask(
            "get_message_from_topic", self.topic, within, tenant_id=self.tenant_id, instead="subscribe"
        )
        if message is not None and not all(hasattr(message, each) for each in ("payload", "key", "headers")):
            raise HookError(f"get_message_from_topic returned {describe(message)}: give None, or payload, key and headers.")
        return message

    async def look(self, provider: Any) -> str | None:
        """The token that was written last among those that have come."""
        async with self._turn:
            for message in await self.rest(provider):
                token = message.payload.decode(errors="replace")
                if self.shown not in self.written or token not in self.written or self._newer(token):
                    self.shown = token
            return self.shown

    def _newer(self, token: str) -> bool:
        return self.shown is None or self.written.index(token) >= self.written.index(self.shown)


class TopicCells(Cells[Any]):
    """The topics of one suite as a set of cells: each holds the payload that was published to it last."""

    def __init__(self, suite: "MessagingRules") -> None:
        self.suite = suite

    async def prepare(self, provider: Any, name: str) -> None:
        await self.suite.inbox(provider, name)

    async def write(self, provider: Any, name: str, token: str) -> None:
        inbox = await self.suite.inbox(provider, name)
        await self.suite.send(provider, name, token.encode())
        inbox.written.append(token)

    async def read(self, provider: Any, name: str) -> str | None:
        return await (await self.suite.inbox(provider, name)).look(provider)

    async def alias(self, provider: Any, name: str, token: str) -> str | None:
        headers = {"h": token}
        inbox = await self.suite.inbox(provider, name)
        await self.suite.send(provider, name, token.encode(), None, headers)
        inbox.written.append(token)
        headers["h"] = "changed by the caller"
        message = await inbox.one("a message with a header")
        inbox.shown = token
        return (
            None if message.headers == {"h": token} else "headers given to publish were changed by their caller, and arrived so"
        )

    async def erase(self, provider: Any, name: str) -> None:
        await self.read(provider, name)
        (await self.suite.inbox(provider, name)).shown = None

    async def tidy(self, provider: Any, touched: str) -> None:
        if has_hook(type(self.suite), "delete_topic"):
            await self.suite.ask("delete_topic", touched, tenant_id=self.suite.session.tenant_of(provider), client=raw(provider))


class MessagingRules(CommonRules):
    """Base of the three contracts."""

    hooks: ClassVar[tuple[str, ...]] = ("create_topic", "delete_topic", "crash", "cut", "heal", "get_message_from_topic")
    limits_type = MessageLimits

    # What the author of a suite may supply. Each hook is given what its signature takes.

    async def get_message_from_topic(self, topic: str, timeout: float, *, tenant_id: str | None = None) -> Any:
        """Take the next message from *topic* by other means than the provider's; None if none comes within *timeout* seconds.

        What it returns has `payload`, `key` and `headers`. A provider that has `subscribe` needs no such hook.
        """
        raise NotImplementedError

    async def create_topic(self, topic: str, *, tenant_id: str | None = None, client: Any = None) -> None:
        """Make *topic*, where a broker makes none on its own. Optional. *client* is the one that is about to use it."""
        raise NotImplementedError

    async def delete_topic(self, topic: str, *, tenant_id: str | None = None, client: Any = None) -> None:
        """Remove what is left of *topic*; an absent one is fine. Optional: where a broker keeps them for ever.

        *client* is an open one, of this tenant.
        """
        raise NotImplementedError

    async def crash(self, client: Any) -> None:
        """Let *client* vanish as if its process had been killed: its sockets and tasks end, and it tells nobody. Optional."""
        raise NotImplementedError

    async def cut(self) -> None:
        """Make the broker unreachable for every client until `heal`. Optional; a suite with `backend_address` needs neither."""
        raise NotImplementedError

    async def heal(self) -> None:
        """Make it reachable again."""
        raise NotImplementedError

    # The words in which the rules are written.

    @cached_property
    def inboxes(self) -> dict[tuple[str | None, str], Inbox]:
        """Those that this test has opened, by tenant and topic."""
        return {}

    @cached_property
    def happened(self) -> anyio.Event:
        """Set, and replaced, when a handler begins or ends."""
        return anyio.Event()

    @property
    def subscribes(self) -> bool:
        """Whether messages are read by the provider's own `subscribe`."""
        return callable(getattr(self.session.first_provider(), "subscribe", None))

    def numbers(self) -> MessageLimits:
        return cast(MessageLimits, super().numbers())

    async def ask(self, hook: str, *arguments: object, instead: str = "", **keywords: object) -> Any:
        """What a hook of the suite answers; *instead* of which the provider might have had a method of its own."""
        if not has_hook(type(self), hook):
            provider = type(self.session.first_provider()).__qualname__
            raise HookError(
                f"{type(self).__qualname__} has no {hook}, and {provider} has no {instead}: write the hook with `async def`."
            )
        method = getattr(self, hook)
        given = {"namespace": self.namespace, **{name: value for name, value in keywords.items() if value is not None}}
        names, _ = parameters(method)
        given = {name: value for name, value in given.items() if name in names}
        return await self.session.hook(hook, method(*arguments, **given))

    async def inbox(self, provider: Any, topic: str) -> Inbox:
        """The inbox of *topic* for the tenant of *provider*; opened before anything is published there."""
        tenant_id = self.session.tenant_of(provider)
        inbox = self.inboxes.get((tenant_id, topic))
        if inbox is None:
            await self.need_topic(provider, topic)
            inbox = Inbox(self, topic, tenant_id)
            await self.listen(provider, inbox)
            self.inboxes[tenant_id, topic] = inbox
        return inbox

    async def need_topic(self, provider: Any, topic: str) -> None:
        """Let *topic* be there, for the tenant of *provider*."""
        if has_hook(type(self), "create_topic"):
            await self.ask("create_topic", topic, tenant_id=self.session.tenant_of(provider), client=raw(provider))

    async def listen(self, provider: Any, inbox: Inbox) -> None:
        """Let *inbox* get what arrives."""
        if self.subscribes:
            inbox.listener = raw(provider)
            inbox.subscription = await inbox.listener.subscribe(inbox.topic, inbox.handle)

    async def send(
        self, provider: Any, topic: str, payload: bytes, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Publish a message on behalf of *provider*."""
        return await provider.publish(topic, payload, key, headers)

    async def vanish(self, client: Any) -> None:
        """Let *client* crash."""
        self.session.closes(client)
        await self.ask("crash", raw(client))

    async def check_traffic(self, traffic: "Traffic", inbox: Inbox, provider: Any, *, order: Order = Order.NONE) -> None:
        """Fail the rule unless an honest queue delivered what came to *inbox* of *traffic*."""
        traffic.came(await inbox.rest(provider))
        self.check_history(traffic, order=order)

    def check_history(self, traffic: "Traffic", *, order: Order = Order.NONE, most_repeated: int | None = None) -> None:
        """Fail the rule unless an honest queue could have done all that is in *traffic*, to which nothing more will come."""
        queue = judge(
            traffic.publications, traffic.deliveries, order=order, drained=time.monotonic_ns(), most_repeated=most_repeated
        )
        self.check(
            not queue.findings,
            given=f"{len(traffic.publications)} messages that were published, and {len(traffic.deliveries)} that came",
            expected="what an honest queue delivers",
            observed=Plain(str(queue)),
        )

    @asynccontextmanager
    async def faulty(self) -> AsyncIterator[tuple[Any, Call[object], Call[object]]]:
        """A client, and what cuts its connections and lets them be made again."""
        if has_hook(type(self), "backend_address"):
            async with self._proxy() as proxy:
                client = await self.connect(address=proxy.address)

                async def cut() -> None:
                    proxy.cut()

                async def heal() -> None:
                    proxy.heal()

                yield client, cut, heal
                await self.session.release(client)
        elif has_hook(type(self), "cut") and has_hook(type(self), "heal"):
            yield await self.connect(), partial(self.ask, "cut"), partial(self.ask, "heal")
        else:
            self.not_provoked("the suite has neither backend_address nor cut and heal")

    async def works_again(self, call: Call[object], given: str) -> None:
        """Fail the rule unless *call* succeeds once the network is back."""
        observed = "nothing"
        with anyio.move_on_after(ANSWER_SECONDS * self.patience):
            while True:
                tried = await attempt(call)
                if tried.error is None:
                    return
                if not isinstance(tried.error, UnavailableError):
                    raise tried.error
                observed = describe_error(tried.error)
                await anyio.sleep(0.02)
        self.fail_rule(given=given, expected="it works again", observed=observed)

    def check_message(self, message: Any, expected: Content, given: str) -> None:
        """Fail the rule unless *message* is what was published."""
        payload, key, headers = expected
        self.same(message.payload, payload, given=f"{given}: the payload")
        self.same(message.key, key, given=f"{given}: the key")
        self.check(
            dict(message.headers) == dict(headers)
            and all(type(each) is str for pair in message.headers.items() for each in pair),
            given=f"{given}: the headers",
            expected=describe(dict(headers)),
            observed=dict(message.headers),
        )

    def check_nothing(self, messages: list[Any], given: str, expected: str = "nothing arrives") -> None:
        """Fail the rule if there are *messages*."""
        self.check(
            not messages,
            given=given,
            expected=expected,
            observed=Plain(f"{len(messages)} arrived, the first: {''.join(describe(content(each)) for each in messages[:1])}"),
        )


class Worker:
    """A handler that notes what it is given, and does with the n-th message what *act* says: succeed, by default.

    Each of its calls is a delivery in *traffic*, if there is one.
    """

    def __init__(
        self, suite: MessagingRules, act: Act | None = None, *, traffic: "Traffic | None" = None, client: int = 0
    ) -> None:
        self.suite = suite
        self.act = act
        self.traffic = traffic
        self.client = client
        self.messages: list[Any] = []
        """Every message, in the order in which handlers began."""
        self.ended: list[object] = []
        """What was said of each whose handler has ended, in the order of the ends."""
        self.running = 0
        self.most = 0
        """How many handlers ran at once, at most."""
        self.subscription: Any = None

    async def __call__(self, message: Any) -> Any:
        self.messages.append(message)
        self.running += 1
        self.most = max(self.most, self.running)
        self._notify()
        said: object = ProcessingOutcome.RETRY
        began = time.monotonic_ns()
        try:
            said = ProcessingOutcome.SUCCESS if self.act is None else await self.act(message, len(self.messages))
            return said
        finally:
            self.running -= 1
            self.ended.append(said)
            if self.traffic is not None:
                self.traffic.handled(message, self.client, began, said)
            self._notify()

    def payloads(self) -> list[bytes]:
        """The payloads of all deliveries."""
        return [each.payload for each in self.messages]

    def _notify(self) -> None:
        """Something happened; who waits may wait for another worker of the same rule."""
        self.suite.happened.set()
        self.suite.happened = anyio.Event()

    async def until(self, holds: Callable[[], bool], *, redeliveries: int = 0) -> bool:
        """Wait until *holds*, for as long as a delivery may take and so many *redeliveries*; whether it does."""
        limits = self.suite.numbers()
        if self.suite.virtual_time:
            for step in range(redeliveries + 1):
                if step:
                    await self.suite.wait(limits.redeliver)
                if await self._soon(holds, limits.deliver):
                    return True
            return False
        return await self._soon(holds, limits.deliver + redeliveries * limits.redeliver)

    async def _soon(self, holds: Callable[[], bool], within: float) -> bool:
        """Whether it *holds* soon: as long as something happens *within* seconds it may, but not for ever."""
        for _ in range(MANY):
            came = len(self.messages), len(self.ended)
            with anyio.move_on_after(within * self.suite.patience):
                while not holds():
                    await self.suite.happened.wait()
            if came == (len(self.messages), len(self.ended)):
                break
        for _ in range(TURNS):
            if holds():
                return True
            await anyio.lowlevel.checkpoint()
        return holds()

    async def expect(self, count: int, given: str, *, redeliveries: int = 0) -> None:
        """Fail the rule unless *count* deliveries come in time."""
        await self.until(lambda: len(self.messages) >= count, redeliveries=redeliveries)
        self.suite.check(
            len(self.messages) >= count,
            given=given,
            expected=f"{count} deliveries",
            observed=Plain(f"{len(self.messages)} within the time that they may take"),
        )


class Traffic:
    """What was published and what reached handlers, on one clock, for `judge`."""

    def __init__(self) -> None:
        self.publications: list[Publication] = []
        self.deliveries: list[Delivery] = []

    async def publish(self, suite: MessagingRules, provider: Any, topic: str, id: str, key: str | None = None) -> None:
        """Publish a message that carries *id* in each of its parts; what raises leaves the publication open."""
        sent = (id.encode(), key, {"id": id})
        place = len(self.publications)
        self.publications.append(Publication(id, sent, key, time.monotonic_ns(), None))
        await suite.send(provider, topic, *sent)
        call = self.publications[place].call
        self.publications[place] = Publication(id, sent, key, call, time.monotonic_ns())

    def came(self, messages: list[Any]) -> None:
        """Messages that were read one after another."""
        for each in messages:
            now = time.monotonic_ns()
            self.deliveries.append(Delivery(self.id_of(each), content(each), 0, now, now, Fate.DONE))

    def handled(self, message: Any, client: int, began: int, said: object) -> None:
        """A message whose handler has ended."""
        fate = Fate.DONE if said in (ProcessingOutcome.SUCCESS, ProcessingOutcome.FAIL) else Fate.AGAIN
        self.deliveries.append(Delivery(self.id_of(message), content(message), client, began, time.monotonic_ns(), fate))

    @staticmethod
    def id_of(message: Any) -> str:
        """The workload's id in *message*."""
        return str(message.payload.decode(errors="replace"))

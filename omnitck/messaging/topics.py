"""What producers, consumers and delayed publishers share: topics as cells, and the words in which their rules are written.

A message is looked for from two ends. Where the provider under test publishes and does not consume, its suite brings
`get_message_from_topic`; where it consumes and does not publish, `publish`; a provider that does both needs neither. That
something did *not* come is known once a sentinel did, which was published after it, and `settle` has passed.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, ClassVar, TypeVar, cast

import anyio
import anyio.lowlevel

from omnitck.common.cells import Alias, Cells
from omnitck.common.data import LARGEST_TRIED, DataRules, DataTrial
from omnitck.instruments.history.queues import Delivery, Fate, Order, Publication, judge
from omnitck.kit.clients import raw
from omnitck.kit.concurrency import Call, attempt
from omnitck.kit.definition import Operation
from omnitck.kit.session import HookError
from omnitck.kit.text import describe, describe_error
from omnitck.kit.trial import Plain, Trial
from omnitck.shared.exceptions import UnavailableError
from omnitck.shared.models import ConsumedMessage, MessageLimits, ProcessingOutcome

__all__ = [
    "ROUNDING_SECONDS",
    "TOPIC_HOOKS",
    "Act",
    "Content",
    "Inbox",
    "MessagingRules",
    "MessagingTrial",
    "TopicCells",
    "Traffic",
    "Worker",
]

P = TypeVar("P")

MANY = 20
"""Times that a wait begins anew because there was progress: 100 messages may take longer than one."""

OUTAGE_SECONDS = 1.0
"""After this, times the suite's patience, a backend that was cut off comes back, whatever still waits for it."""

ROUNDING_SECONDS = 1e-5
"""Sums of times that are equal differ by less: a clock that counts from 1970 is rounded to a quarter of a microsecond."""

TOPIC_HOOKS = ("create_topic", "delete_topic", "get_message_from_topic")
"""What the suites of all three contracts may supply."""

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

    def __init__(self, t: "MessagingTrial[Any]", topic: str, tenant_id: str | None) -> None:
        self.t = t
        self.topic = topic
        self.tenant_id = tenant_id
        self.written: list[str] = []
        """The tokens that the cell was made to hold, in their order."""
        self.shown: str | None = None
        """The token that the cell holds, as far as it was looked."""
        self.listeners: list[Any] = []
        """The clients that have a subscription for it, which goes on."""
        self.subscription: Any = None
        self._turn = anyio.Lock()
        self._sentinels: list[bytes] = []
        self._came: list[Any] = []
        self._arrival = anyio.Event()
        """Set, and replaced, when a message comes."""

    async def handle(self, message: ConsumedMessage) -> ProcessingOutcome:
        """Take a message, as the handler of a subscription."""
        self._came.append(message)
        self._arrival.set()
        self._arrival = anyio.Event()
        self.t.note_handler(message, ProcessingOutcome.SUCCESS)
        return ProcessingOutcome.SUCCESS

    async def next(self, within: float | None = None, *, counted: bool = False) -> Any:
        """The next message; None if none comes *within* so many seconds, by default within `deliver`.

        If the wait is *counted* in the rule's deadline, that is its bound too.
        """
        if within is None:
            within = self.t.numbers().deliver * self.t.patience
        if not self.t.subscribes:
            return await self._asked(within, counted=counted)

        if not self._came:
            with anyio.move_on_after(within) if counted else self.t.waiting(within):
                while not self._came:
                    await self._arrival.wait()
        for _ in range(TURNS):
            if self._came:
                break
            await anyio.lowlevel.checkpoint()
        return self._came.pop(0) if self._came else None

    async def pause(self) -> None:
        """Let what arrives wait in the topic. The rule is not provoked where a subscription, once made, goes on."""
        if not self.t.subscribes:
            return
        if not callable(getattr(self.subscription, "stop", None)):
            self.t.not_provoked("the provider's own subscription, which takes what arrives, cannot be stopped")
        await self.subscription.stop()

    async def resume(self) -> None:
        """Take what arrives again."""
        if self.subscription is not None:
            self.subscription = await self.listeners[-1].subscribe(self.topic, self.handle)

    async def one(self, given: str, *, counted: bool = False) -> Any:
        """The next message, which must come."""
        message = await self.next(counted=counted)
        if message is None:
            self.t.fail_rule(
                given=given,
                expected="the message arrives",
                observed=f"nothing within {self.t.numbers().deliver * self.t.patience:g} s",
            )
        return message

    async def rest(self, provider: Any) -> list[Any]:
        """Everything that has come, once a sentinel has that *provider* was told to publish now.

        If the client is gone that listened, *provider* listens from now on. Where messages come without an end, the rule's
        deadline ends the wait.
        """
        if self.listeners and not any(map(self.t.session.is_open, self.listeners)):
            await self.t.listen(provider, self)
        sentinel = self.t.token().encode()
        await self.t.send(provider, self.topic, sentinel)
        came: list[Any] = []
        since = anyio.current_time()
        while True:
            long = anyio.current_time() - since > MANY * self.t.numbers().deliver * self.t.patience
            message = await self.one("a sentinel, published last", counted=long)
            if message.payload == sentinel:
                break
            came.append(message)
        if self.t.numbers().settle:
            await self.t.wait(self.t.numbers().settle)
            came += await self.at_hand()
        self._sentinels.append(sentinel)
        return [each for each in came if not (self.t.may_repeat and each.payload in self._sentinels)]

    async def at_hand(self) -> list[Any]:
        """Everything that has come."""
        if self.t.subscribes:
            for _ in range(TURNS):
                await anyio.lowlevel.checkpoint()
            came, self._came = self._came, []
            return came

        came = []
        while (message := await self._asked(0.0, counted=True)) is not None:
            came.append(message)
        return came

    async def _asked(self, within: float, *, counted: bool) -> Any:
        """The next message, by the suite's hook, which is told how long to wait, and may take a little longer."""
        hook, most = "get_message_from_topic", within + self.t.answer_seconds
        with anyio.move_on_after(most) if counted else self.t.waiting(most) as scope:
            message = await self.t.ask(hook, self.topic, within, tenant_id=self.tenant_id, instead="subscribe")
        if scope.cancelled_caught:
            raise HookError(f"{hook} had not ended after {most:g} s: return None once none came within {within:g} s.")
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

    def __init__(self, t: "MessagingTrial[Any]") -> None:
        self.t = t

    async def prepare(self, provider: Any, name: str) -> None:
        await self.t.inbox(provider, name)

    async def write(self, provider: Any, name: str, token: str) -> None:
        inbox = await self.t.inbox(provider, name)
        await self.t.send(provider, name, token.encode())
        inbox.written.append(token)

    async def read(self, provider: Any, name: str) -> str | None:
        return await (await self.t.inbox(provider, name)).look(provider)

    def aliases(self) -> Sequence[Alias]:
        return (Alias("the headers given to publish", self._change_headers),)

    async def _change_headers(self, provider: Any, name: str, token: str) -> tuple[object, object]:
        headers = {"h": token}
        inbox = await self.t.inbox(provider, name)
        await self.t.send(provider, name, token.encode(), None, headers)
        inbox.written.append(token)
        headers["h"] = "changed by the caller"
        message = await inbox.one("a message with a header")
        inbox.shown = token
        return dict(message.headers), {"h": token}

    async def erase(self, provider: Any, name: str) -> None:
        await self.read(provider, name)
        (await self.t.inbox(provider, name)).shown = None

    async def tidy(self, provider: Any, touched: str) -> None:
        if self.t.has("delete_topic"):
            await self.t.ask("delete_topic", touched, tenant_id=self.t.session.tenant_of(provider), client=raw(provider))


class MessagingTrial(DataTrial[P]):
    """The words of the rules of `MessagingRules`."""

    @cached_property
    def inboxes(self) -> dict[tuple[str | None, str], Inbox]:
        """Those that this test has opened, by tenant and topic."""
        return {}

    @cached_property
    def happened(self) -> anyio.Event:
        """Set, and replaced, when a handler begins or ends."""
        return anyio.Event()

    may_repeat = False
    """Whether a message may come once more although it was done with, now and then."""
    steps = 0
    """How often a handler has begun or ended."""

    @cached_property
    def succeeded(self) -> list[tuple[object, object]]:
        """Each message of which a handler has said SUCCESS: what it came from, and its payload."""
        return []

    repeated = 0
    """How often one of them has come again to where it came from."""

    def happens(self) -> None:
        """A handler begins or ends: whoever waits for it looks again."""
        self.steps += 1
        self.happened.set()
        self.happened = anyio.Event()

    def note_handler(self, message: Any, said: object) -> None:
        """Show in a failure that a handler was given *message*, and what it *said*."""
        try:
            shown = [describe(message.payload, 60), *([] if message.key is None else [f"key={describe(message.key, 60)}"])]
        except Exception:
            shown = [describe(message, 60)]
        self.session.journal.note(f"handler({', '.join(shown)})", said)

    @property
    def told_seconds(self) -> float:
        return max(self.answer_seconds, self.numbers().deliver * self.patience)

    @property
    def subscribes(self) -> bool:
        """Whether messages are read by the provider's own `subscribe`."""
        return callable(getattr(self.session.first_provider(), "subscribe", None))

    def numbers(self) -> MessageLimits:
        return cast(MessageLimits, super().numbers())

    def largest(self) -> int:
        """Bytes of the largest payload that is tried."""
        return min(self.numbers().value_bytes, LARGEST_TRIED)

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
        if self.has("create_topic"):
            await self.ask("create_topic", topic, tenant_id=self.session.tenant_of(provider), client=raw(provider))

    async def listen(self, provider: Any, inbox: Inbox) -> None:
        """Let *inbox* get what arrives."""
        if self.subscribes:
            inbox.subscription = await provider.subscribe(inbox.topic, inbox.handle)
            inbox.listeners.append(provider)

    async def send(
        self, provider: Any, topic: str, payload: bytes, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> object:
        """Publish a message on behalf of *provider*."""
        return await provider.publish(topic, payload, key, headers)

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

    async def arranged(self, operation: Operation, client: Any, name: str, token: str | None = None) -> Call[object]:
        await self.cells.prepare(client, name)
        return await super().arranged(operation, client, name, token)

    @asynccontextmanager
    async def outage(self, cut: Call[object], heal: Call[object]) -> AsyncIterator[None]:
        """The backend is out of reach until the end of the context, or for `OUTAGE_SECONDS`: a call may wait until it is back."""

        async def come_back() -> None:
            await anyio.sleep(OUTAGE_SECONDS * self.patience)
            await heal()

        await cut()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(come_back)
            yield
            tasks.cancel_scope.cancel()
        await heal()

    async def works_again(self, call: Call[object], given: str) -> None:
        """Fail the rule unless *call* succeeds once the network is back."""
        observed = "nothing"
        with anyio.move_on_after(self.answer_seconds):
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


class MessagingRules(DataRules):
    """Base of the three contracts."""

    trial: ClassVar[type[Trial[Any]]] = MessagingTrial

    # What the author of a suite may supply. Each hook is given what its signature takes.

    async def get_message_from_topic(self, topic: str, timeout: float, *, tenant_id: str | None = None) -> Any:
        """Take the next message from *topic* by other means than the provider's; None if none comes within *timeout* seconds.

        A *timeout* of 0 asks for what is there now. What it returns has `payload`, `key` and `headers`. A provider that has
        `subscribe` needs no such hook.
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


class Worker:
    """A handler that notes what it is given, and does with the n-th message what *act* says: succeed, by default.

    Each of its calls is a delivery in *traffic*, if there is one. Those that read one *queue* share its messages.
    """

    def __init__(
        self,
        t: "MessagingTrial[Any]",
        act: Act | None = None,
        *,
        queue: object = None,
        traffic: "Traffic | None" = None,
        client: int = 0,
    ) -> None:
        self.t = t
        self.queue = queue
        self.act = act
        self.traffic = traffic
        self.client = client
        self.messages: list[Any] = []
        """Every message, in the order in which handlers began."""
        self.ended: list[tuple[object, object]] = []
        """The payload of each whose handler has ended, and what was said of it, in the order of the ends."""
        self.running = 0
        self.most = 0
        """How many handlers ran at once, at most."""
        self.subscription: Any = None

    async def __call__(self, message: Any) -> Any:
        source = self.queue, getattr(message, "payload", None)
        self.t.repeated += source in self.t.succeeded
        self.messages.append(message)
        self.running += 1
        self.most = max(self.most, self.running)
        self.t.happens()
        said: object = ProcessingOutcome.RETRY
        began = time.monotonic_ns()
        raised: BaseException | None = None
        try:
            said = ProcessingOutcome.SUCCESS if self.act is None else await self.act(message, len(self.messages))
            return said
        except BaseException as error:
            raised = error
            raise
        finally:
            self.running -= 1
            self.ended.append((source[1], said))
            if said is ProcessingOutcome.SUCCESS:
                self.t.succeeded.append(source)
            if self.traffic is not None:
                self.traffic.handled(message, self.client, began, said)
            self.t.note_handler(message, said if raised is None else raised)
            self.t.happens()

    def handled(self) -> list[object]:
        """The payloads of all that were done with at the end of their handlers."""
        return [payload for payload, said in self.ended if said in (ProcessingOutcome.SUCCESS, ProcessingOutcome.FAIL)]

    def payloads(self) -> list[bytes]:
        """The payloads of all deliveries."""
        return [each.payload for each in self.messages]

    async def until(self, holds: Callable[[], bool], *, redeliveries: int = 0) -> bool:
        """Wait until *holds*, for as long as a delivery may take and so many *redeliveries*; whether it does."""
        limits = self.t.numbers()
        if self.t.virtual_time:
            for step in range(redeliveries + 1):
                if step:
                    await self.t.wait(limits.redeliver)
                if await self._soon(holds, limits.deliver):
                    return True
            return False
        return await self._soon(holds, limits.deliver + redeliveries * limits.redeliver)

    async def _soon(self, holds: Callable[[], bool], within: float) -> bool:
        """Whether it *holds* soon: as long as something happens *within* seconds it may, but not for ever."""
        for _ in range(MANY):
            before = self.t.steps
            with self.t.waiting(within * self.t.patience):
                while not holds():
                    await self.t.happened.wait()
            if self.t.steps == before:
                break
        for _ in range(TURNS):
            if holds():
                return True
            await anyio.lowlevel.checkpoint()
        return holds()

    async def expect(self, count: int, given: str, *, redeliveries: int = 0) -> None:
        """Fail the rule unless *count* deliveries come in time."""
        await self.until(lambda: len(self.messages) >= count, redeliveries=redeliveries)
        self.t.check(
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

    async def publish(self, t: "MessagingTrial[Any]", provider: Any, topic: str, id: str, key: str | None = None) -> None:
        """Publish a message that carries *id* in each of its parts; what raises leaves the publication open."""
        sent = (id.encode(), key, {"id": id})
        place = len(self.publications)
        self.publications.append(Publication(id, sent, key, time.monotonic_ns(), None))
        await t.send(provider, topic, *sent)
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

"""Waits end by the numbers that a provider declares, rules by the time that they work, and neither goes on for ever."""

import random
import time
import unittest
from collections.abc import Collection
from typing import Any

import anyio
import anyio.lowlevel

from omnitck.concurrent import ConcurrentSuite
from omnitck.kit.contract import plan_of
from omnitck.kit.outcomes import Outcome, Status, listening
from omnitck.messaging.consumer import ConsumerContract
from omnitck.messaging.producer import ProducerContract
from omnitck.messaging.topics import Inbox
from omnitck.reference.broker import Entry, MemoryBroker
from omnitck.reference.client import Cell
from omnitck.reference.consumer import MemorySubscription
from omnitck.shared.capabilities import known_capabilities
from omnitck.shared.exceptions import InvalidArgumentError
from omnitck.shared.models import ConsumedMessage, DelayLimits, MessageLimits
from tests.helpers import outcome_of
from tests.messaging.providers import Broker, Consumer, InRealTime, MemoryMessaging, Producer

ALL = MemoryMessaging.everything & known_capabilities("consumer")


def outcomes_of(*tests: unittest.TestCase) -> dict[str, Outcome]:
    """Run rules, 16 at a time; their outcomes by id."""
    outcomes: dict[str, Outcome] = {}
    with listening(lambda cls, outcome: outcomes.__setitem__(outcome.rule, outcome)):
        ConcurrentSuite(tests, jobs=16).run(unittest.TestResult())
    return outcomes


def rules(suite: Any, *ids: str) -> list[unittest.TestCase]:
    """The tests of *suite* for these rules; for all if none are given."""
    return [suite(each.rule.method) for each in plan_of(suite).rules if not ids or each.id in ids]


def suite_of(
    contract: type[Any],
    provider: type[MemoryMessaging],
    limits: DelayLimits,
    *,
    capabilities: Collection[str] = (),
    broker: type[MemoryBroker] = MemoryBroker,
    **members: Any,
) -> Any:
    """A suite of *provider*, in real time."""

    def set_up(self: Any) -> None:
        self.memory = broker(limits=limits)

    async def make_provider(self: Any, **config: Any) -> Any:
        return provider(self.memory, capabilities=capabilities)

    async def unreachable_provider(self: Any) -> Any:
        return provider(broker(reachable=False), capabilities=capabilities)

    hooks = {name: getattr(InRealTime, name) for name in ("crash", "cut", "heal")}
    members |= {"setUp": set_up, "make_provider": make_provider, **hooks, "capabilities": frozenset(capabilities)}
    if "availability" in capabilities:
        members["unreachable_provider"] = unreachable_provider
    return type("Suite", (contract, unittest.IsolatedAsyncioTestCase), members)


class SlowBroker(MemoryBroker):
    """A broker that delivers a message a while after it was published."""

    seconds = 0.0

    def deliver(self, cell: Cell, message: ConsumedMessage, **options: Any) -> None:
        super().deliver(cell, message, **options)
        for queue in self.topics[cell].values():
            queue.entries[-1].due = self.clock.now() + self.seconds


class TestWhatIsSlowAndSaysSo(unittest.TestCase):
    def test_a_rule_may_last_as_long_as_its_deliveries(self) -> None:
        class Late(SlowBroker):
            seconds = 1.2

        class Soon(SlowBroker):  # for a rule with one delivery after another for each of many topics
            seconds = 0.1

        late = suite_of(ConsumerContract, MemoryMessaging, DelayLimits(deliver=3.0), broker=Late, deadline=1.0)
        soon = suite_of(ConsumerContract, MemoryMessaging, DelayLimits(deliver=2.0), broker=Soon, deadline=2.0)
        began = time.monotonic()
        outcomes = outcomes_of(*rules(late, "CON-01", "CON-22", "CON-23", "CON-COM-15"), *rules(soon, "CON-COM-20"))
        self.assertLess(time.monotonic() - began, 60)
        self.assertEqual({id: each.message for id, each in outcomes.items() if each.outcome is not Status.PASSED}, {})
        # Each of them has waited for longer than it may work.
        self.assertEqual(
            {id: each.seconds > (2 if id == "CON-COM-20" else 1) for id, each in outcomes.items()},
            dict.fromkeys(("CON-01", "CON-22", "CON-23", "CON-COM-15", "CON-COM-20"), True),
        )

    def test_what_comes_later_than_declared_is_still_rejected(self) -> None:
        class Late(SlowBroker):
            seconds = 2.0

        suite = suite_of(ConsumerContract, MemoryMessaging, DelayLimits(deliver=0.2), broker=Late)
        outcome, _ = outcome_of(suite, "test_con_23_a_handler_may_publish")
        self.assertIs(outcome.outcome, Status.FAILED)
        self.assertIn("0 within the time that they may take", outcome.message)

    def test_a_queue_without_an_early_return_of_messages_is_waited_for(self) -> None:
        """CON-10 looks after `redeliver`, which may be as long as a rule may work, or longer."""

        class Slow(ConsumerContract, unittest.IsolatedAsyncioTestCase):
            limits = MessageLimits(redeliver=1.0)
            deadline = 0.5

            def setUp(self) -> None:
                self.broker = Broker()

            async def make_provider(self, **config: Any) -> Consumer:
                return Consumer(self.broker)

            async def publish(self, topic: str, payload: bytes, *rest: Any, **config: Any) -> None:
                await Producer(self.broker).publish(topic, payload, *rest)

        outcome, _ = outcome_of(Slow, "test_con_10_fail_gives_up_at_once")
        self.assertEqual((outcome.outcome, outcome.message), (Status.PASSED, ""))
        self.assertGreater(outcome.seconds, 1.0)


class Hanging(MemoryMessaging):
    """Its `subscribe` never returns, whatever it is given."""

    async def subscribe(
        self,
        topic: str,
        handler: Any,
        *,
        max_attempts: int = 3,
        group: str = "default",
        concurrency: int = 1,
        dead_letter_topic: str | None = None,
        retry_delay: float = 0.0,
        visibility: float | None = None,
        batch_size: int | None = None,
    ) -> MemorySubscription:
        await anyio.sleep_forever()
        raise AssertionError


class HangingLater(Hanging):
    """Its `subscribe` refuses what it has to, and never returns where it should do something."""

    async def subscribe(self, topic: str, handler: Any, *, max_attempts: int = 3, **options: Any) -> MemorySubscription:
        self.check_key(topic)
        if not callable(handler) or type(max_attempts) is not int or max_attempts < 1:
            raise InvalidArgumentError(f"topic {topic!r}: a handler can be called, and an attempt is made")
        await self.turn()
        return await super().subscribe(topic, handler)


class TestWhatNeverEnds(unittest.TestCase):
    def verdict(self, provider: type[MemoryMessaging]) -> dict[str, str]:
        """What is said of the rules that *provider* fails; it gets its whole verdict, and soon."""
        suite = suite_of(ConsumerContract, provider, DelayLimits(redeliver=0.2), capabilities=ALL, deadline=2.0, patience=0.5)
        outcomes: dict[str, Outcome] = {}
        began = time.monotonic()
        with listening(lambda cls, outcome: outcomes.__setitem__(outcome.rule, outcome)):
            unittest.TestSuite(rules(suite)).run(unittest.TestResult())
        self.assertLess(time.monotonic() - began, 20)
        self.assertEqual(set(outcomes), {each.id for each in plan_of(suite).rules})
        # What is declared can be read without a subscription, a client can end without one, and the suite has no credentials.
        others = {"CON-COM-01", "CON-COM-02", "CON-COM-03", "CON-COM-04", "CON-COM-24", "CON-COM-25"}
        return {id: each.message if each.outcome is Status.FAILED else "" for id, each in outcomes.items() if id not in others}

    def test_a_subscribe_that_never_returns_gets_its_whole_verdict(self) -> None:
        self.assertEqual([id for id, said in self.verdict(Hanging).items() if not said], [])

    def test_so_does_one_that_only_refuses(self) -> None:
        """What refuses bad arguments, a closed client and an absent backend in time is right in that."""
        verdict, right = self.verdict(HangingLater), ("CON-COM-09", "CON-COM-11", "CON-COM-12", "CON-30")
        self.assertEqual({id: verdict.pop(id) for id in right}, dict.fromkeys(right, ""))
        self.assertEqual([id for id, said in verdict.items() if not said], [])

    def test_messages_without_an_end_do_not_hold_a_rule_for_ever(self) -> None:
        class Repeating(MemorySubscription):
            async def handle(self, entries: list[Entry]) -> None:
                while not self.stopping:
                    await self.handler(self.message(entries[0]))
                    await anyio.sleep(0.001)

        class Stuck(MemoryMessaging):
            subscription_type = Repeating

        limits = DelayLimits(deliver=0.02)
        suite = suite_of(ProducerContract, Stuck, limits, deadline=0.5)
        outcome, _ = outcome_of(suite, "test_prd_01_the_payload_arrives")
        self.assertIs(outcome.outcome, Status.FAILED)
        self.assertIn("a verdict within 0.5 s", outcome.message)
        self.assertLess(outcome.seconds, 10)

    def test_a_hook_that_is_told_how_long_to_wait_has_to_keep_to_it(self) -> None:
        async def get_message_from_topic(self: Any, topic: str, timeout: float) -> None:
            await anyio.sleep_forever()

        async def make_provider(self: Any, **config: Any) -> Producer:
            return Producer(Broker())

        members = {"get_message_from_topic": get_message_from_topic, "make_provider": make_provider, "patience": 0.1}
        suite = type("Suite", (ProducerContract, unittest.IsolatedAsyncioTestCase), members)
        outcome, _ = outcome_of(suite, "test_prd_01_the_payload_arrives")
        self.assertEqual(
            (outcome.outcome, outcome.message),
            (
                Status.ERROR,
                "PRD-01 could not be judged: HookError: get_message_from_topic had not ended after 1 s: "
                "return None once none came within 0.5 s.",
            ),
        )


class TestInbox(unittest.IsolatedAsyncioTestCase):
    async def test_a_wait_is_a_wait_although_something_came_before(self) -> None:
        """What has come is taken at once, and the next wait knows nothing of it."""

        class Words:
            """The words that an inbox uses."""

            subscribes = True

            def waiting(self, within: float) -> Any:
                return anyio.move_on_after(within)

            def note_handler(self, message: object, said: object) -> None:
                pass

        inbox = Inbox(Words(), "topic", None)  # type: ignore[arg-type]
        early, late = ConsumedMessage(b"early"), ConsumedMessage(b"late")
        await inbox.handle(early)
        self.assertEqual(await inbox.at_hand(), [early])

        async def publish() -> None:
            await anyio.sleep(0.3)
            await inbox.handle(late)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            self.assertEqual(await inbox.next(5.0), late)
        began = time.monotonic()
        self.assertIsNone(await inbox.next(0.2))
        self.assertGreaterEqual(time.monotonic() - began, 0.2)


class TestOneSubscription(unittest.TestCase):
    def test_a_consumer_that_cannot_stop_does_not_compete_with_itself(self) -> None:
        """Its messages come in order, however long each is on its way."""

        class OnItsWay(MemorySubscription):
            async def handle(self, entries: list[Entry]) -> None:
                await anyio.sleep(random.uniform(0, 0.02))
                await super().handle(entries)

        class Core(MemoryMessaging):
            subscription_type = OnItsWay

        suite = suite_of(ConsumerContract, Core, DelayLimits())
        for _ in range(3):
            outcomes = outcomes_of(*rules(suite, "CON-COM-15", "CON-COM-18", "CON-COM-20"))
            self.assertEqual({id: each.message for id, each in outcomes.items() if each.outcome is not Status.PASSED}, {})


class TestOutage(unittest.TestCase):
    def test_a_producer_may_wait_for_the_network(self) -> None:
        """The backend comes back after a while, also where the calls that were made meanwhile wait for it."""

        class Patient(MemoryMessaging):
            async def publishing(self) -> None:
                while not self.backend.reachable:
                    await self.backend.changed.wait()
                await super().publishing()

        suite = suite_of(ProducerContract, Patient, DelayLimits())
        outcome, _ = outcome_of(suite, "test_prd_25_a_cut_connection_loses_nothing_that_was_accepted")
        self.assertEqual((outcome.outcome, outcome.message), (Status.PASSED, ""))

    def test_a_publisher_for_a_consumer_may_wait_too(self) -> None:
        class Patient(MemoryMessaging):
            async def publishing(self) -> None:
                while not self.backend.reachable:
                    await self.backend.changed.wait()
                await super().publishing()

        suite = suite_of(ConsumerContract, Patient, DelayLimits(redeliver=0.2))
        outcome, _ = outcome_of(suite, "test_con_28_a_consumer_comes_back_by_itself")
        self.assertEqual((outcome.outcome, outcome.message), (Status.PASSED, ""))


class TestTrace(unittest.TestCase):
    def test_a_failed_rule_shows_what_handlers_were_given_and_what_they_said(self) -> None:
        class OneTooMany(MemorySubscription):
            def settle(self, entry: Entry, outcome: object) -> None:
                self.max_attempts += 1
                super().settle(entry, outcome)
                self.max_attempts -= 1

        class Broken(MemoryMessaging):
            subscription_type = OneTooMany

        suite = suite_of(ConsumerContract, Broken, DelayLimits(deliver=0.5, redeliver=0.2))
        outcome, _ = outcome_of(suite, "test_con_09_a_message_is_tried_max_attempts_times")
        self.assertIs(outcome.outcome, Status.FAILED)
        self.assertEqual(outcome.message.count("handler(b'poison') -> <ProcessingOutcome.RETRY: 2>"), 2, outcome.message)
        self.assertIn("handler(b'0') -> <ProcessingOutcome.SUCCESS: 1>", outcome.message)

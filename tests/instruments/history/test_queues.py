"""The queue checker: hand-made histories, a plain reading of its sentences to compare it with, and the words of what it finds."""

import random
import unittest
from collections.abc import Iterable
from itertools import combinations

from omnitck.instruments.history.queues import Delivery, Fate, Order, Publication, judge

MILLISECOND = 1_000_000


def sent(id: str, call: float, ret: float | None = -1, *, key: str | None = "k", content: object = None) -> Publication:
    """A publication; times in milliseconds, *ret* half a millisecond after *call* if it is not given."""
    returned = call + 0.5 if ret == -1 else ret
    end = None if returned is None else round(returned * MILLISECOND)
    return Publication(id, content or id, key, round(call * MILLISECOND), end)


def came(
    id: str, start: float, end: float | None = -1, fate: Fate = Fate.DONE, *, client: int = 0, content: object = None
) -> Delivery:
    """A delivery; times in milliseconds, *end* half a millisecond after *start* if it is not given."""
    ended = start + 0.5 if end == -1 else end
    stop = None if ended is None else round(ended * MILLISECOND)
    return Delivery(id, content or id, client, round(start * MILLISECOND), stop, fate)


class HandMade(unittest.TestCase):
    def kinds(self, publications: list[Publication], deliveries: list[Delivery], **promises: object) -> list[str]:
        return [each.kind for each in judge(publications, deliveries, **promises).findings]  # type: ignore[arg-type]

    def test_nothing_speaks_against_nothing(self) -> None:
        self.assertEqual(str(judge([], [], order=Order.STRICT, drained=0, most_repeated=0)), "")

    def test_an_honest_queue_may_do_all_this(self) -> None:
        published = [sent("a", 0), sent("b", 1), sent("open", 2, None), sent("never", 3, None), sent("c", 4)]
        delivered = [
            came("a", 1, 1.5, Fate.AGAIN),
            came("a", 2, 2.5),
            came("b", 3),
            came("open", 4),
            came("c", 5, None, Fate.OPEN),
        ]
        queue = judge(published, delivered, order=Order.STRICT, drained=9 * MILLISECOND, most_repeated=0)
        self.assertEqual((str(queue), queue.recovered, queue.repeated), ("", 1, 0))

    def test_what_nobody_published_is_invented(self) -> None:
        self.assertEqual(self.kinds([sent("a", 0)], [came("a", 1), came("b", 2)]), ["invented"])

    def test_what_came_otherwise_is_corrupt(self) -> None:
        self.assertEqual(self.kinds([sent("a", 0)], [came("a", 1, content="b")]), ["corrupt"])

    def test_what_was_accepted_and_did_not_come_is_lost_once_the_last_of_all_came(self) -> None:
        self.assertEqual(self.kinds([sent("a", 0)], [], drained=5), ["lost"])
        self.assertEqual(self.kinds([sent("a", 0)], []), [])

    def test_a_gap_is_a_loss_without_waiting(self) -> None:
        published = [sent("a", 0), sent("b", 1), sent("other", 2, key="l")]
        self.assertEqual(self.kinds(published, [came("b", 2)]), ["lost"])
        self.assertEqual(self.kinds(published, [came("a", 2), came("other", 3)]), [])

    def test_one_published_at_the_same_time_proves_no_gap(self) -> None:
        self.assertEqual(self.kinds([sent("a", 0, 5), sent("b", 1, 6)], [came("b", 2)]), [])

    def test_two_handlers_of_one_message_are_two_at_once(self) -> None:
        overlap = [came("a", 1, 3), came("a", 2, 4, client=1)]
        self.assertEqual(self.kinds([sent("a", 0)], overlap), ["two at once"])
        self.assertEqual(self.kinds([sent("a", 0)], overlap, exclusive=False), [])

    def test_the_end_of_one_may_be_the_start_of_the_next(self) -> None:
        self.assertEqual(self.kinds([sent("a", 0)], [came("a", 1, 2, Fate.AGAIN), came("a", 2, 3)]), [])

    def test_one_that_never_ends_excludes_every_other(self) -> None:
        self.assertEqual(self.kinds([sent("a", 0)], [came("a", 1, None, Fate.OPEN), came("a", 9)]), ["two at once"])

    def test_a_message_that_came_before_an_earlier_one_is_out_of_order(self) -> None:
        published, delivered = [sent("a", 0), sent("b", 1)], [came("b", 2), came("a", 3)]
        self.assertEqual(self.kinds(published, delivered, order=Order.FIRST), ["out of order"])
        self.assertEqual(self.kinds(published, delivered), [])

    def test_those_published_at_the_same_time_come_in_any_order(self) -> None:
        published, delivered = [sent("a", 0, 2), sent("b", 1, 3)], [came("b", 4), came("a", 5)]
        self.assertEqual(self.kinds(published, delivered, order=Order.STRICT), [])

    def test_messages_of_two_keys_or_without_one_have_no_order(self) -> None:
        delivered = [came("b", 2), came("a", 3)]
        self.assertEqual(self.kinds([sent("a", 0), sent("b", 1, key="l")], delivered, order=Order.STRICT), [])
        self.assertEqual(self.kinds([sent("a", 0, key=None), sent("b", 1, key=None)], delivered, order=Order.STRICT), [])

    def test_one_that_begins_while_another_of_its_key_is_tried_again_has_overtaken_it(self) -> None:
        published = [sent("a", 0), sent("b", 1)]
        delivered = [came("a", 2, 2.5, Fate.AGAIN), came("b", 3), came("a", 4)]
        self.assertEqual(self.kinds(published, delivered, order=Order.STRICT), ["overtaken"])
        self.assertEqual(self.kinds(published, delivered, order=Order.FIRST), [])

    def test_one_that_comes_again_after_it_was_done_is_repeated_and_overtakes_nobody(self) -> None:
        published, delivered = [sent("a", 0), sent("b", 1)], [came("a", 2), came("b", 3), came("a", 4)]
        self.assertEqual(self.kinds(published, delivered, order=Order.STRICT, most_repeated=0), ["repeated"])
        self.assertEqual(self.kinds(published, delivered, order=Order.STRICT, most_repeated=1), [])

    def test_one_that_was_given_up_after_several_tries_holds_its_key_until_then(self) -> None:
        published = [sent("a", 0), sent("b", 1)]
        tries = [came("a", 2, 2.5, Fate.AGAIN), came("a", 4, 4.5, Fate.AGAIN)]
        self.assertEqual(self.kinds(published, [*tries, came("b", 3)], order=Order.STRICT), ["overtaken"])
        self.assertEqual(self.kinds(published, [*tries, came("b", 5)], order=Order.STRICT), [])

    def test_two_publications_of_one_id_are_the_workloads_mistake(self) -> None:
        with self.assertRaisesRegex(ValueError, "one id"):
            judge([sent("a", 0), sent("a", 1)], [])


class Words(unittest.TestCase):
    def test_the_smallest_example_is_shown_and_the_others_are_counted(self) -> None:
        published = [sent(f"m{number}", number) for number in range(8)]
        delivered = [came(each.id, 10 + number) for number, each in enumerate(published) if each.id not in ("m2", "m5")]
        queue = judge(published, delivered, drained=30 * MILLISECOND)
        self.assertEqual(
            str(queue),
            "lost: m2 (key k) was accepted at 2.500 ms and never came; m1 came at 11.000 ms, m3 came at 13.000 ms, "
            "the last of all at 30.000 ms; 1 more",
        )
        self.assertEqual(queue.findings[0].ids, ("m2", "m1", "m3"))

    def test_each_kind_says_what_happened_when(self) -> None:
        for publications, deliveries, expected in (
            ([], [came("a", 1)], "invented: a came at 0.000 ms, and nobody published it"),
            (
                [sent("a", 0, content="x")],
                [came("a", 1, content="y")],
                "corrupt: a came at 1.000 ms as 'y', and was published as 'x'",
            ),
            (
                [sent("a", 0)],
                [came("a", 1, 3), came("a", 2, 4, client=1)],
                "two at once: a came at 1.000 ms to client 0 and was over at 3.000 ms; a came to client 1 at 2.000 ms",
            ),
            (
                [sent("a", 0), sent("b", 1)],
                [came("b", 2), came("a", 3)],
                "out of order: a (key k) was accepted at 0.500 ms and came at 3.000 ms; b was published after it, at 1.000 ms, "
                "and came at 2.000 ms",
            ),
            (
                [sent("a", 0)],
                [came("a", 1), came("a", 4)],
                "repeated: a came at 1.000 ms and was done at 1.500 ms; it came again at 4.000 ms",
            ),
        ):
            with self.subTest(expected):
                order = Order.FIRST if expected.startswith("out") else Order.NONE
                self.assertEqual(str(judge(publications, deliveries, order=order, most_repeated=0)), expected)


class BruteForce(unittest.TestCase):
    """Small random histories, judged by the sentences as they stand, each pair of events beside each other."""

    def test_the_verdicts_are_those_of_a_plain_reading(self) -> None:
        found: dict[str, int] = {}
        for seed in range(4000):
            chance = random.Random(seed)
            publications, deliveries = self.history(chance)
            drained = chance.choice((None, 100 * MILLISECOND))
            queue = judge(publications, deliveries, order=Order.STRICT, drained=drained, most_repeated=0)
            expected = self.plainly(publications, deliveries, drained)
            self.assertEqual({each.kind: each.kind in expected for each in queue.findings}, dict.fromkeys(expected, True), seed)
            for each in queue.findings:
                self.assertTrue(expected[each.kind] >= {each.ids[0]}, (seed, each))
                found[each.kind] = found.get(each.kind, 0) + 1
            found["none"] = found.get("none", 0) + (not queue.findings)
        self.assertGreater(min(found.values()), 50, found)
        self.assertEqual(len(found), 8, found)

    def history(self, chance: random.Random) -> tuple[list[Publication], list[Delivery]]:
        """Of an honest queue, with up to two accidents."""
        publications, deliveries, clock = [], [], 10.0
        for number in range(chance.randint(1, 5)):
            call = number * 2.0
            ret = chance.choice((call + 1, call + 1, call + 3, None))
            publications.append(sent(f"m{number}", call, ret, key=chance.choice(("k", "k", "l", None))))
        for each in publications:
            if each.ret is None and chance.random() < 0.5:
                continue
            while chance.random() < 0.3:
                deliveries.append(came(each.id, clock, clock + 1, Fate.AGAIN))
                clock += 1 + chance.random()
            deliveries.append(came(each.id, clock, clock + 1))
            clock += 1 + chance.random()
        for _ in range(chance.randint(0, 2)):
            self.accident(chance, deliveries)
        return publications, deliveries

    def accident(self, chance: random.Random, deliveries: list[Delivery]) -> None:
        if not deliveries:
            deliveries.append(came("nobody's", 50))
            return
        place = chance.randrange(len(deliveries))
        victim = deliveries[place]
        start = victim.start / MILLISECOND
        kind = chance.randrange(7)
        if kind == 0:
            deliveries[:] = [each for each in deliveries if each.id != victim.id]
        elif kind == 1:
            deliveries.append(came("nobody's", start))
        elif kind == 2:
            deliveries[place] = came(victim.id, start, fate=victim.fate, content="other")
        elif kind == 3:
            deliveries.append(came(victim.id, start + chance.choice((0.25, 30)), client=1))
        elif kind in (4, 5):
            deliveries[place] = came(victim.id, chance.choice((9, 90)), fate=victim.fate)
        else:
            deliveries[place] = came(victim.id, start, None, Fate.OPEN)

    def plainly(self, publications: list[Publication], deliveries: list[Delivery], drained: int | None) -> dict[str, set[str]]:
        """The kinds of violation, each with the messages that are an example of it."""
        known = {each.id: each for each in publications}
        in_time = sorted(deliveries, key=lambda each: each.start)
        begun = {id: min(each.start for each in deliveries if each.id == id) for id in {each.id for each in deliveries}}
        found: dict[str, set[str]] = {
            "invented": {each.id for each in deliveries if each.id not in known},
            "corrupt": {each.id for each in deliveries if each.id in known and each.content != known[each.id].content},
            "lost": {
                lost.id
                for lost in publications
                if lost.ret is not None
                and lost.id not in begun
                and (drained or any(each.key == lost.key and each.id in begun and each.call > lost.ret for each in publications))
            },
            "two at once": {one.id for one, two in combinations(in_time, 2) if one.id == two.id and two.start < self.end(one)},
            "repeated": {
                one.id
                for one, two in combinations(in_time, 2)
                if one.id == two.id and one.fate is Fate.DONE and two.start >= self.end(one)
            },
            "out of order": set(),
            "overtaken": set(),
        }
        for one, two in self.pairs_of_a_key(publications):
            if one.id in begun and two.id in begun:
                if one.ret is not None and one.ret < two.call and begun[two.id] < begun[one.id]:
                    found["out of order"].add(one.id)
                if begun[one.id] <= begun[two.id] < self.over(one.id, in_time):
                    found["overtaken"].add(one.id)
        return {kind: ids for kind, ids in found.items() if ids}

    def pairs_of_a_key(self, publications: list[Publication]) -> Iterable[tuple[Publication, Publication]]:
        return ((one, two) for one in publications for two in publications if one is not two and one.key == two.key is not None)

    def end(self, delivery: Delivery) -> float:
        return float("inf") if delivery.end is None else delivery.end

    def over(self, id: str, in_time: list[Delivery]) -> float:
        several = [each for each in in_time if each.id == id]
        return self.end(next((each for each in several if each.fate is Fate.DONE), several[-1]))


if __name__ == "__main__":
    unittest.main()

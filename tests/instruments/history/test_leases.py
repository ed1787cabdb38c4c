"""The lease checker: hand-made histories, a plain reading of its sentences to compare it with, simulated servers, its words."""

import random
import unittest
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations

from omnitck.instruments.history.leases import Grant, Renewal, judge

UNSET = -1.0


def granted(
    called: float,
    returned: float | None = UNSET,
    *renewals: Renewal,
    owner: object = "a",
    ttl: float = 10,
    released: float | None = None,
    token: int | None = None,
    name: str = "lock",
) -> Grant:
    """A grant, which returns half a second after *called* if it is not said."""
    return Grant(name, owner, called, called + 0.5 if returned == UNSET else returned, ttl, renewals, released, token)


def renewed(called: float, returned: float | None = UNSET, ttl: float = 10) -> Renewal:
    """A renewal, likewise."""
    return Renewal(called, called + 0.5 if returned == UNSET else returned, ttl)


class HandMade(unittest.TestCase):
    def check(self, verdict: str | None, *grants: Grant, fencing: bool = False, drift: float = 0.0) -> None:
        found = judge(grants, fencing=fencing, drift=drift)
        self.assertEqual(found and found.partition(":")[0], verdict, found)

    def test_nothing_speaks_against_nothing(self) -> None:
        self.check(None, fencing=True)

    def test_a_lease_that_ended_is_followed_by_another(self) -> None:
        self.check(None, granted(0), granted(10))
        self.check("two holders", granted(0), granted(9))

    def test_who_has_called_for_the_release_holds_nothing_more(self) -> None:
        self.check(None, granted(0, released=3), granted(2, 3))
        self.check("two holders", granted(0, released=3), granted(2, 2.9))

    def test_an_acquire_that_has_not_returned_holds_nothing_yet(self) -> None:
        self.check(None, granted(0, 5, released=6), granted(1, 4, released=4.5))

    def test_one_whose_outcome_is_unknown_holds_nothing(self) -> None:
        self.check(None, granted(0, None), granted(1))

    def test_an_answer_that_came_after_the_end_of_the_lease_grants_nothing(self) -> None:
        self.check(None, granted(0, 11), granted(10, 10.5))

    def test_but_a_renewal_shows_that_it_was_held_after_all(self) -> None:
        self.check("two holders", granted(0, 11, renewed(12)), granted(13))

    def test_a_renewal_counts_from_its_call(self) -> None:
        self.check("two holders", granted(0, 1, renewed(8)), granted(17))
        self.check(None, granted(0, 1, renewed(8, 9)), granted(17.8))

    def test_a_renewal_may_make_the_lease_shorter(self) -> None:
        self.check(None, granted(0, 1, renewed(2, ttl=3)), granted(4.8))
        self.check("two holders", granted(0, 1, renewed(2, ttl=3), renewed(3)), granted(4.8))

    def test_so_may_one_of_which_nobody_knows(self) -> None:
        self.check(None, granted(0, 1, renewed(2, None, ttl=3)), granted(4.8))
        self.check(None, granted(0, 1, renewed(2, None, ttl=3), renewed(3)), granted(4.8))

    def test_one_of_which_nobody_knows_makes_no_lease_longer(self) -> None:
        self.check(None, granted(0, 1, renewed(8, None)), granted(11))

    def test_of_two_renewals_at_one_time_each_may_be_the_last(self) -> None:
        self.check(None, granted(0, 1, renewed(2, 4, ttl=3), renewed(3, 4)), granted(4.8))

    def test_renewals_without_any_time_between_them_happen_in_their_order(self) -> None:
        self.check("two holders", granted(0, 0, renewed(0, 0, ttl=1), renewed(0, 0, ttl=9)), granted(5))
        self.check(None, granted(0, 0, renewed(0, 0, ttl=9), renewed(0, 0, ttl=1)), granted(5))

    def test_names_have_nothing_to_do_with_each_other(self) -> None:
        self.check(None, granted(0, token=2), granted(1, name="other", token=1), fencing=True)

    def test_a_second_grant_of_the_same_owner_is_one_too_many(self) -> None:
        self.check("two holders", granted(0), granted(1))

    def test_a_short_hold_within_a_long_one_hides_no_third(self) -> None:
        self.check("two holders", granted(0, ttl=100), granted(1, released=2), granted(50))

    def test_what_adding_times_makes_of_them_is_no_overlap(self) -> None:
        self.check(None, granted(0.1, 0.1, ttl=0.2), granted(0.3, 0.3))

    def test_a_clock_that_runs_faster_is_allowed_for(self) -> None:
        self.check("two holders", granted(0), granted(9.2), drift=0.02)
        self.check(None, granted(0), granted(9.4), drift=0.02)

    def test_tokens_grow_from_grant_to_grant(self) -> None:
        self.check(None, granted(0, released=1, token=7), granted(2, token=9), fencing=True)
        self.check("token falls", granted(0, released=1, token=9), granted(2, token=7), fencing=True)
        self.check(None, granted(0, released=1, token=9), granted(2, token=7))

    def test_grants_at_one_time_have_tokens_in_any_order_but_not_one(self) -> None:
        self.check(None, granted(0, 2, released=2, token=9), granted(1, 3, token=8), fencing=True)
        self.check("token reused", granted(0, 2, released=2, token=8), granted(1, 3, token=8), fencing=True)

    def test_a_token_is_compared_with_the_greatest_before_not_with_the_last(self) -> None:
        three = (granted(0, released=1, token=9), granted(0.2, 3, released=3, token=2), granted(4, token=5))
        self.check("token falls", *three, fencing=True)

    def test_a_grant_that_was_over_when_its_answer_came_has_its_token_all_the_same(self) -> None:
        self.check("token falls", granted(0, 20, token=9), granted(21, token=7), fencing=True)

    def test_a_grant_that_returned_has_a_token(self) -> None:
        self.check("no token", granted(0), fencing=True)
        self.check(None, granted(0, None), fencing=True)

    def test_a_call_that_returned_before_it_was_made_is_the_callers_mistake(self) -> None:
        for make in (lambda: renewed(2, 1), lambda: granted(2, 1)):
            with self.assertRaisesRegex(ValueError, "before it was made"):
                make()


class Words(unittest.TestCase):
    maxDiff = None

    def test_two_holders_are_shown_on_one_axis_of_time(self) -> None:
        grants = [
            Grant("jobs", "w0", 5.0, 5.001, 0.3, released=5.002),
            Grant("jobs", "w1", 5.01, 5.012, 0.3, [Renewal(5.1, 5.11, 0.3)]),
            Grant("jobs", "w2", 5.3, 5.36, 0.3, released=5.5),
        ]
        self.assertEqual(
            judge(grants),
            "two holders: 'jobs' was held twice for 40.000 ms (3 grants, 2 shown)\n"
            "  w1  acquire       10.000 ──▶ 12.000    ok, ttl 300.000 ms\n"
            "  w1  renew        100.000 ──▶ 110.000   ok, ttl 300.000 ms\n"
            "  w2  acquire      300.000 ──▶ 360.000   ok, ttl 300.000 ms   ◀ impossible\n"
            "  w1  lease ends   400.000               not earlier\n"
            "  w2  release      500.000               held until this call\n"
            "  missing: the refusal of w2's acquire, as the lease of w1 had not ended.\n"
            "  usual cause: whether the lock is free is asked and answered in two steps, "
            "or somebody freed a lock that was not his.",
        )

    def test_a_renewal_of_what_had_ended_is_the_impossible_one(self) -> None:
        grants = [
            Grant("jobs", "w1", 0.0, 0.01, 0.3, [Renewal(0.5, 0.51, 0.3)]),
            Grant("jobs", "w2", 0.35, 0.36, 0.3),
        ]
        self.assertEqual(
            judge(grants),
            "two holders: 'jobs' was held twice for 290.000 ms (2 grants, 2 shown)\n"
            "  w1  acquire        0.000 ──▶ 10.000    ok, ttl 300.000 ms\n"
            "  w2  acquire      350.000 ──▶ 360.000   ok, ttl 300.000 ms\n"
            "  w1  renew        500.000 ──▶ 510.000   ok, ttl 300.000 ms   ◀ impossible\n"
            "  w2  lease ends   650.000               not earlier\n"
            "  w1  lease ends   800.000               not earlier\n"
            "  missing: the refusal of w1's renewal, as the lease had ended and w2 held the lock.\n"
            "  usual cause: a renewal that does not compare the owner, or revives a lease that has ended.",
        )

    def test_the_smallest_example_is_shown_and_the_others_are_counted(self) -> None:
        grants = [granted(float(10 * number), owner=number, ttl=15, token=9 - number) for number in range(3)]
        found = judge([*grants, granted(31, owner=3, token=8)], fencing=True)
        assert found is not None
        titles = [line for line in found.splitlines() if not line.startswith("  ")]
        self.assertEqual(
            titles,
            [
                "two holders: 'lock' was held twice for 4500.000 ms (4 grants, 2 shown); 2 more",
                "token reused: two grants of 'lock' have 8 (4 grants, 2 shown)",
                "token falls: 'lock' was granted with 8 after 9 (4 grants, 2 shown); 2 more",
            ],
        )


class BruteForce(unittest.TestCase):
    """Every pair, and of each grant the sentence of what is definite."""

    def test_the_sweeps_agree_with_it(self) -> None:
        verdicts = {True: 0, False: 0}
        for seed in range(4_000):
            chance = random.Random(seed)
            grants = [self.some_grant(chance) for _ in range(chance.randint(0, 6))]
            fencing = chance.random() < 0.5
            expected = {kind for one, two in combinations(grants, 2) for kind in self.kinds(one, two, fencing)}
            if fencing and any(each.token is None and each.returned is not None for each in grants):
                expected.add("no token")
            found = judge(grants, fencing=fencing) or ""
            kinds = {line.partition(":")[0] for line in found.splitlines() if not line.startswith("  ")}
            self.assertEqual(kinds, expected, f"seed {seed}: {grants}")
            verdicts[bool(expected)] += 1
        self.assertGreater(min(verdicts.values()), 500, "the histories are nearly all of one kind")

    def some_grant(self, chance: random.Random) -> Grant:
        # On a grid, so that events often fall together; half a step apart, so that leases do not.
        called = float(chance.randint(0, 40))
        returned = None if chance.random() < 0.1 else called + chance.choice((0, 1, 3, 9))
        renewals = []
        at = called if returned is None else returned
        while chance.random() < 0.3:
            at += chance.choice((0, 1, 2))
            back = None if chance.random() < 0.2 else at + chance.choice((0, 1, 4))
            renewals.append(Renewal(at, back, chance.choice((1.5, 4.5, 8.5))))
        released = called + chance.randint(1, 12) if chance.random() < 0.6 else None
        token = chance.randint(1, 30) if chance.random() < 0.97 else None
        ttl = chance.choice((2.5, 5.5, 9.5))
        return Grant(chance.choice("nm"), chance.randint(1, 3), called, returned, ttl, renewals, released, token)

    def kinds(self, one: Grant, two: Grant, fencing: bool) -> Iterator[str]:
        if one.name != two.name:
            return
        if (first := self.hold(one)) and (second := self.hold(two)) and max(first[0], second[0]) < min(first[1], second[1]):
            yield "two holders"
        if fencing and one.token is not None and two.token is not None:
            if one.token == two.token:
                yield "token reused"
            for before, after, less in ((one, two, one.token > two.token), (two, one, two.token > one.token)):
                if before.returned is not None and before.returned < after.called and less:
                    yield "token falls"

    def hold(self, grant: Grant) -> tuple[float, float] | None:
        if grant.returned is None:
            return None
        events: list[Grant | Renewal] = [grant, *grant.renewals]
        possible = []
        for place, event in enumerate(events):
            followed = any(
                event.returned is not None and later.returned is not None and event.returned <= later.called
                for later in events[place + 1 :]
            )
            if not followed:
                possible.append(event.called + event.ttl)
        end = min([*possible, *([] if grant.released is None else [grant.released])])
        return (grant.returned, end) if grant.returned < end else None


@dataclass
class Server:
    """Leases by its own clock, which is that of the simulation."""

    checks_owner: bool = True
    revives: bool = False
    next_token: Callable[[int], int] = lambda last: last + 1
    owner: int | None = None
    expires: float = 0.0
    token: int = 0

    def acquire(self, owner: int, ttl: float, now: float) -> int | None:
        if self.owner is not None and now < self.expires:
            return None
        self.owner, self.expires, self.token = owner, now + ttl, self.next_token(self.token)
        return self.token

    def renew(self, owner: int, ttl: float, now: float) -> bool:
        if not self.revives and (self.owner != owner or now >= self.expires):
            return False
        self.owner, self.expires = owner, now + ttl
        return True

    def release(self, owner: int, now: float) -> bool:
        if self.checks_owner and self.owner != owner:
            return False
        self.owner = None
        return True


@dataclass
class Simulation:
    """Clients of one lock whose requests and replies take their time, and sometimes very long; some replies never come."""

    server: Server
    seed: int
    clients: int = 5
    rounds: int = 40
    chance: random.Random = field(init=False)
    grants: list[Grant] = field(default_factory=list)

    def run(self) -> list[Grant]:
        """The history of what was granted."""
        self.chance = random.Random(self.seed)
        clients = {client: self.client(client) for client in range(self.clients)}
        due: dict[int, tuple[float, Callable[[float], object]]] = {}
        answers: dict[int, object] = dict.fromkeys(clients)
        for client, steps in clients.items():
            due[client] = next(steps)
        while due:
            client = min(due, key=lambda each: due[each][0])
            instant, request = due.pop(client)
            answers[client] = request(instant)
            try:
                due[client] = clients[client].send(answers[client])
            except StopIteration:
                continue
        return self.grants

    def delay(self) -> float:
        return self.chance.choice((0.001, 0.002, 0.005, 0.02, 0.5)) * self.chance.random()

    def client(self, client: int) -> "Steps":
        """Its requests, each with the instant at which the server carries it out."""
        now = self.chance.random() * 0.1
        for number in range(self.rounds):
            owner = client * 1000 + number
            ttl = self.chance.choice((0.1, 0.3))
            called, arrives = now, now + self.delay()
            token = yield arrives, partial(self.server.acquire, owner, ttl)
            now = arrives + self.delay()
            if token is None:
                now += self.chance.random() * 0.05
                continue
            returned = None if self.chance.random() < 0.05 else now
            renewals: list[Renewal] = []
            released = None
            while self.chance.random() < 0.6:
                now += self.chance.random() * 0.2
                start, arrives = now, now + self.delay()
                done = yield arrives, partial(self.server.renew, owner, ttl)
                now = arrives + self.delay()
                if not done:
                    break
                renewals.append(Renewal(start, None if self.chance.random() < 0.05 else now, ttl))
            if self.chance.random() < 0.8:
                now += self.chance.random() * 0.2
                released, arrives = now, now + self.delay()
                yield arrives, partial(self.server.release, owner)
                now = arrives + self.delay()
            assert isinstance(token, int)
            self.grants.append(Grant("lock", owner, called, returned, ttl, renewals, released, token))


Steps = Generator[tuple[float, Callable[[float], object]], object, None]


class Servers(unittest.TestCase):
    def verdicts(self, **faults: object) -> list[str | None]:
        return [judge(Simulation(Server(**faults), seed).run(), fencing=True) for seed in range(200)]  # type: ignore[arg-type]

    def test_a_correct_one_is_never_suspected(self) -> None:
        grants = sum(len(Simulation(Server(), seed).run()) for seed in range(10))
        self.assertGreater(grants, 300, "hardly anything was granted")
        self.assertEqual([each for each in self.verdicts() if each], [])

    def test_a_release_without_a_look_at_the_owner_is_found_each_time(self) -> None:
        self.assertEqual([each for each in self.verdicts(checks_owner=False) if not each or "two holders" not in each], [])

    def test_a_renewal_of_what_has_ended_is_found_each_time(self) -> None:
        self.assertEqual([each for each in self.verdicts(revives=True) if not each or "two holders" not in each], [])

    def test_a_token_that_comes_again_is_found_each_time(self) -> None:
        again = self.verdicts(next_token=lambda last: last % 9 + 1)
        self.assertEqual([each for each in again if not each or "token reused" not in each], [])


if __name__ == "__main__":
    unittest.main()

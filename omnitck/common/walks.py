"""The rule that a provider agrees with its reference, whatever is done with it: written once, for every contract with a walk."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from omnitck.instruments.walk import WALK_NAMES, Step, VersionOf, walk
from omnitck.kit.rules import rule
from omnitck.kit.trial import Trial

__all__ = ["Walk", "walk_rule"]


@dataclass(frozen=True)
class Walk:
    """How a contract is walked over."""

    model: Callable[[frozenset[str]], object]
    """A fresh reference provider with these capabilities."""
    steps: Callable[[random.Random, frozenset[str]], Sequence[Step]]
    """A walk over the operations that these capabilities bring."""
    refine: Callable[[Step, Any, frozenset[str]], object] = lambda step, value, declared: value
    """A result without what may differ between good providers."""
    version_of: VersionOf = lambda step, value: None
    """The version of the first name among the arguments, if the result tells it."""
    subject: str = "store"
    """What the Python that is shown calls the provider."""
    begin: Callable[[Any, str], object] = lambda provider, place: provider
    """Called before each replay with the provider and a fresh name: what is walked over, at a place where nothing is yet."""


def walk_rule(id: str, walked: Walk, *needs: str, deadline: float = 60.0) -> Any:
    """The rule *id*: a walk agrees with the reference."""

    async def test(self: object, t: Trial[Any]) -> None:
        """Any sequence of declared operations gives the results that the reference gives.

        A seeded walk in lockstep with the in-memory reference; a divergence is shortened and shown as Python. Finds what no
        single rule foresaw: the interplay of operations. Versions, etags and times are the provider's own.
        """
        provider = await t.connect()

        divergence = await walk(
            lambda: walked.begin(provider, t.key()),
            lambda: walked.model(t.declared),
            walked.steps(random.Random(t.seed), t.declared),
            # None of them begins another, so that a prefix is one name.
            names=lambda: [t.key("w") for _ in range(WALK_NAMES)],
            refine=lambda step, value: walked.refine(step, value, t.declared),
            version_of=walked.version_of,
            subject=walked.subject,
        )
        if divergence is not None:
            t.fail_rule(
                given=f"a random walk, OMNITCK_SEED={t.seed}; shortened to\n{divergence.reproduction}",
                expected=divergence.expected,
                observed=divergence.observed,
            )

    test.__name__ = f"test_{id.lower().replace('-', '_')}_a_random_walk_agrees_with_the_reference"
    test.__qualname__ = test.__name__
    return rule(id, *needs, deadline=deadline)(test)

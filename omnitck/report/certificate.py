"""The certificate: what became of every rule, with the versions and settings under which it did.

Its digest shows a change of the document. It is a hash, not a signature: sign the file with a tool of your own.
"""

import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from omnitck.kit.outcomes import Outcome, Status
from omnitck.version import __version__

__all__ = ["Catalogue", "Certificate", "Claims", "RuleEntry", "SuiteReport", "Verdict", "Withdrawn", "digest_of"]

SCHEMA = "omnitck-certificate/1"
NOT_SELECTED = "not selected"
"""The message of a rule that was left out on purpose."""


class Verdict(StrEnum):
    """What a suite, or a whole run, is worth; the worst first."""

    NOT_CONFORMANT = "not conformant"
    """A rule failed."""
    INCONCLUSIVE = "inconclusive"
    """Nothing failed, but some rule that applies has no verdict."""
    NOTHING_RAN = "nothing ran"
    """No rule passed or failed."""
    PARTIAL = "partial"
    """Nothing that ran failed, but the run was restricted to some rules."""
    DEVIATES = "deviates, as known"
    """Nothing else failed, but a rule of the core deviates, as its author knows: the provider is not conformant."""
    CONFORMANT = "conformant"
    """Every rule of what is claimed passed."""

    @property
    def exit_status(self) -> int:
        """What a command that ends with this verdict returns."""
        return {Verdict.NOT_CONFORMANT: 1, Verdict.INCONCLUSIVE: 3, Verdict.NOTHING_RAN: 5}.get(self, 0)


@dataclass(frozen=True)
class RuleEntry:
    """A rule as a suite has it."""

    id: str
    level: str
    statement: str
    owner: str
    """The contract or policy that it comes from."""
    declared: bool
    """Whether the suite declares all that the rule needs."""
    deadline: float
    """Seconds of work, as the suite multiplies them."""
    audit: bool = False
    """Whether it is judged after every test of the suite, instead of by one."""
    lacks: str = ""
    """The optional hook without which it cannot be provoked, if the suite has none."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The capabilities that bring it; none for the core."""
        return () if self.level == "MUST" else tuple(self.level.split(" + "))


@dataclass(frozen=True)
class Catalogue:
    """The rules of one contract or policy in the version that was checked."""

    name: str
    kind: str
    version: str
    digest: str
    """SHA-256 over ids, levels and sentences."""


@dataclass(frozen=True)
class Claims:
    """What a suite is certified for."""

    contract: str
    profile: str
    capabilities: tuple[str, ...]
    policies: tuple[str, ...]


@dataclass(frozen=True)
class Withdrawn:
    """What a suite declares and is not certified for, as rules that belong to it deviate."""

    kind: str
    """`contract`, `policy`, `capability` or `profile`."""
    name: str
    rules: tuple[str, ...]
    """The ids of those rules."""


@dataclass(frozen=True)
class SuiteReport:
    """One suite, and what became of each of its rules."""

    name: str
    contract: str
    policies: tuple[str, ...]
    capabilities: tuple[str, ...]
    rules: tuple[RuleEntry, ...]
    catalogues: tuple[Catalogue, ...]
    known_deviations: Mapping[str, str]
    selected: bool = False
    """Whether the run was restricted to some rules."""
    provider: str = ""
    """Qualified name of the provider's class."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """The numbers in force."""
    outcomes: tuple[Outcome, ...] = ()
    """One for each rule, in the order of the rules."""
    problem: str = ""
    """What kept the suite from being judged whole."""
    misused: bool = False
    """Whether the problem is bad input."""
    left_behind: tuple[str, ...] = ()
    """A sentence for each thread and process that should have ended with the suite."""
    profile: str = "core"
    demanded: tuple[str, ...] = ()
    """The capabilities that the profile demands."""
    order: tuple[str, ...] = ()
    """The ids of the rules in the order in which they were judged."""

    @property
    def verdict(self) -> Verdict:
        """What the outcomes amount to: the worst of them decides."""
        statuses = {each.outcome for each in self.outcomes}
        if Status.FAILED in statuses:
            return Verdict.NOT_CONFORMANT
        if self.problem or Status.ERROR in statuses:
            return Verdict.INCONCLUSIVE
        if not statuses & {Status.PASSED, Status.KNOWN_DEVIATION}:
            return Verdict.NOTHING_RAN
        if self._owes_a_verdict():
            return Verdict.INCONCLUSIVE
        if self.selected:
            return Verdict.PARTIAL
        return Verdict.CONFORMANT if self._left() is not None else Verdict.DEVIATES

    def _owes_a_verdict(self) -> bool:
        """Whether a rule that was asked for was not run."""
        left_out = NOT_SELECTED if self.selected else None
        lost = {each.id for each in self.rules} - {each.rule for each in self.outcomes}
        not_run = {each.rule for each in self.outcomes if each.outcome is Status.NOT_RUN and each.message != left_out}
        if self.selected:  # An audit then watches only what was selected, which may be nothing that passed.
            not_run -= {each.id for each in self.rules if each.audit}
        return bool(lost | not_run)

    @property
    def claims(self) -> Claims | None:
        """What it is certified for: what it declares, without what is withdrawn. None under any verdict but `CONFORMANT`."""
        return self._left() if self.verdict is Verdict.CONFORMANT else None

    @property
    def withdrawn(self) -> tuple[Withdrawn, ...]:
        """What known deviations take off the claims: the contract if a rule of its core deviates, else all that the rule needs.

        That is its capabilities, and the policy that brings it. Those that only such a policy knows go with it, and the profile
        that demands one of them.
        """
        found: dict[tuple[str, str], list[str]] = {}

        def withdraw(kind: str, name: str, rules: Iterable[str]) -> None:
            found[kind, name] = list(dict.fromkeys([*found.get((kind, name), ()), *rules]))

        deviating = {each.rule for each in self.outcomes if each.outcome is Status.KNOWN_DEVIATION}
        for rule in [each for each in self.rules if each.id in deviating]:
            if rule.owner != self.contract:
                withdraw("policy", rule.owner, [rule.id])
            elif not rule.needs:
                withdraw("contract", self.contract, [rule.id])
            for capability in rule.needs:
                withdraw("capability", capability, [rule.id])
        for capability in self.capabilities:
            owners = {("policy", each.owner) for each in self.rules if capability in each.needs}
            if owners and owners <= found.keys():
                withdraw("capability", capability, [rule for owner in sorted(owners) for rule in found[owner]])
        for capability in self.demanded:
            if ("capability", capability) in found:
                withdraw("profile", self.profile, found["capability", capability])
        return tuple(Withdrawn(kind, name, tuple(rules)) for (kind, name), rules in found.items())

    @property
    def worth(self) -> str:
        """The verdict in words, with what is withdrawn where the rest is certified."""
        if self.claims is None or not self.withdrawn:
            return str(self.verdict)

        *others, last = (each.name for each in self.withdrawn)
        return f"{self.verdict}, without {' and '.join([', '.join(others), last] if others else [last])}"

    def _left(self) -> Claims | None:
        """What is declared and not withdrawn; None if no rule of that passed."""
        withdrawn = {(each.kind, each.name) for each in self.withdrawn}
        if ("contract", self.contract) in withdrawn:
            return None

        passed = {each.rule for each in self.outcomes if each.outcome is Status.PASSED}
        gone = {name for kind, name in withdrawn if kind in ("capability", "policy")}
        if not any(each.id in passed and gone.isdisjoint((each.owner, *each.needs)) for each in self.rules):
            return None

        return Claims(
            contract=self.contract,
            profile="core" if ("profile", self.profile) in withdrawn else self.profile,
            capabilities=tuple(each for each in self.capabilities if ("capability", each) not in withdrawn),
            policies=tuple(each for each in self.policies if ("policy", each) not in withdrawn),
        )

    @property
    def stale_deviations(self) -> tuple[str, ...]:
        """Known deviations that pass: their reason is gone."""
        return tuple(each.rule for each in self.outcomes if each.rule in self.known_deviations and each.outcome == "passed")

    def as_dict(self) -> dict[str, Any]:
        """The machine form."""
        return {
            "name": self.name,
            "contract": self.contract,
            "policies": list(self.policies),
            "capabilities": list(self.capabilities),
            "profile": self.profile,
            "verdict": str(self.verdict),
            "claims": None if self.claims is None else _jsonable(self.claims),
            "withdrawn": [_jsonable(each) for each in self.withdrawn],
            "outcomes": [self._told(each) for each in self.outcomes],
        }

    def _told(self, outcome: Outcome) -> dict[str, Any]:
        told: dict[str, Any] = {
            "rule": outcome.rule,
            "outcome": str(outcome.outcome),
            "seconds": outcome.seconds,
            "message": outcome.message,
        }
        if outcome.cause:
            told["cause"] = outcome.cause
        if outcome.outcome is Status.KNOWN_DEVIATION:
            told["reason"] = self.known_deviations.get(outcome.rule, "")
        return told


def _jsonable(part: Claims | Withdrawn) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(part).items()}


def _environment() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        anyio = version("anyio")
    except PackageNotFoundError:  # It was copied, and not installed.
        anyio = "unknown"
    return {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "system": platform.system(),
        "machine": platform.machine(),
        "anyio": anyio,
    }


@dataclass(frozen=True)
class Certificate:
    """The outcomes of one run."""

    suites: tuple[SuiteReport, ...]
    started: str
    """ISO 8601, UTC."""
    duration: float
    """Seconds."""
    seed: int = 0
    jobs: int = 1
    processes: int = 1
    selection: tuple[str, ...] = ()
    """The patterns of rule ids to which the run was restricted."""
    excluded: tuple[str, ...] = ()
    """The patterns of rule ids that were left out of it."""
    interrupted: str = ""
    """The signal that ended the run before its end, if one did."""
    isolated: bool = False
    """Whether every suite ran in a process of its own."""
    environment: Mapping[str, str] = field(default_factory=_environment)

    @property
    def verdict(self) -> Verdict:
        """The worst of the suites."""
        verdicts = [each.verdict for each in self.suites]
        return min(verdicts, key=list(Verdict).index, default=Verdict.NOTHING_RAN)

    @property
    def exit_status(self) -> int:
        """1 if a rule failed, whatever else there was; else 2 if part of the input was bad; else that of the verdict."""
        if self.verdict is not Verdict.NOT_CONFORMANT and any(each.misused for each in self.suites):
            return 2

        return self.verdict.exit_status

    def as_dict(self) -> dict[str, Any]:
        """The machine form, which is stable: keys are added, never renamed."""
        document = {
            "schema": SCHEMA,
            "verdict": str(self.verdict),
            "kit": __version__,
            "contracts": [asdict(each) for each in dict.fromkeys(one for suite in self.suites for one in suite.catalogues)],
            "suites": [each.as_dict() for each in self.suites],
            "providers": {each.name: each.provider for each in self.suites},
            "limits": {each.name: dict(each.limits) for each in self.suites},
            "known_deviations": {each.name: dict(each.known_deviations) for each in self.suites},
            "stale_deviations": {each.name: list(each.stale_deviations) for each in self.suites},
            "problems": {each.name: each.problem for each in self.suites if each.problem},
            "left_behind": {each.name: list(each.left_behind) for each in self.suites if each.left_behind},
            "environment": dict(self.environment),
            "seed": self.seed,
            "jobs": self.jobs,
            "processes": self.processes,
            "isolated": self.isolated,
            "selection": list(self.selection),
            "excluded": list(self.excluded),
            "interrupted": self.interrupted,
            "started": self.started,
            "duration": self.duration,
        }
        return {**document, "digest": digest_of(document)}

    def as_json(self) -> str:
        """`as_dict` as text."""
        return json.dumps(self.as_dict(), indent=2) + "\n"

    def write(self, path: str) -> None:
        """Write `as_json` to *path*: wholly, or not at all. Raises OSError."""
        text = self.as_json()
        if os.path.exists(path) and not os.path.isfile(path):  # A device or a pipe cannot be replaced, only written to.
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            return

        descriptor, temporary = tempfile.mkstemp(prefix=".omnitck-", dir=os.path.dirname(path) or ".")
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


def digest_of(document: object) -> str:
    """SHA-256 over *document* as JSON with sorted keys and no spaces. Verify a certificate without its key `digest`."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def catalogue_digest(rules: Iterable[RuleEntry]) -> str:
    """SHA-256 over the ids, levels and sentences of *rules*."""
    return digest_of([[each.id, each.level, each.statement] for each in rules])

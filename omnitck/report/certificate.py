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

__all__ = ["Catalogue", "Certificate", "RuleEntry", "SuiteReport", "Verdict", "digest_of"]

SCHEMA = "omnitck-certificate/1"
NOT_SELECTED = "not selected"
"""The message of a rule that was left out on purpose."""


class Verdict(StrEnum):
    """What a suite, or a whole run, is worth."""

    NOT_CONFORMANT = "not conformant"
    """A rule failed."""
    INCONCLUSIVE = "inconclusive"
    """Nothing failed, but some rule that applies has no verdict."""
    NOTHING_RAN = "nothing ran"
    """No rule passed or failed."""
    PARTIAL = "partial"
    """What ran passed, but the run was restricted to some rules."""
    KNOWN_DEVIATIONS = "conformant with known deviations"
    CONFORMANT = "conformant"

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


@dataclass(frozen=True)
class Catalogue:
    """The rules of one contract or policy in the version that was checked."""

    name: str
    kind: str
    version: str
    digest: str
    """SHA-256 over ids, levels and sentences."""


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

    @property
    def verdict(self) -> Verdict:
        """What the outcomes amount to."""
        statuses = [each.outcome for each in self.outcomes]
        if Status.FAILED in statuses:
            return Verdict.NOT_CONFORMANT
        if self.problem or Status.ERROR in statuses:
            return Verdict.INCONCLUSIVE
        if Status.PASSED not in statuses and Status.KNOWN_DEVIATION not in statuses:
            return Verdict.NOTHING_RAN
        if self.selected:
            return Verdict.PARTIAL
        if Status.NOT_RUN in statuses:
            return Verdict.INCONCLUSIVE
        return Verdict.KNOWN_DEVIATIONS if Status.KNOWN_DEVIATION in statuses else Verdict.CONFORMANT

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
            "verdict": str(self.verdict),
            "outcomes": [
                {"rule": each.rule, "outcome": str(each.outcome), "seconds": each.seconds, "message": each.message}
                for each in self.outcomes
            ],
        }


def _environment() -> dict[str, str]:
    from importlib.metadata import version

    return {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "system": platform.system(),
        "machine": platform.machine(),
        "anyio": version("anyio"),
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
    selection: tuple[str, ...] = ()
    """The patterns of rule ids to which the run was restricted."""
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
        """2 if part of the input was bad, else that of the verdict."""
        return 2 if any(each.misused for each in self.suites) else self.verdict.exit_status

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
            "environment": dict(self.environment),
            "seed": self.seed,
            "jobs": self.jobs,
            "isolated": self.isolated,
            "selection": list(self.selection),
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

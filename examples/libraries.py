"""What libraries that are wrapped as they are do under the rules: the tables in the README and in libraries.md.

A suite of such a library says so with an attribute of its own: `distribution = "purgatory"`, the name under which it is
installed. `where = "on Valkey"` tells apart several suites of one, and `sometimes = {"LCK-28"}` names known deviations that luck
decides on, which the tables have although a run did not see them. A file has the table between the comments `<!-- libraries -->`
and `<!-- end of libraries -->`, and what each library was seen to do between `<!-- deviations -->` and
`<!-- end of deviations -->`. It may have one of the two, or both.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self

from omnitck.kit.outcomes import Status
from omnitck.report.certificate import SuiteReport

__all__ = ["Row", "difference", "filled", "news_of_versions", "version_of"]

HEAD = ("library", "version", "contract", "verdict", "rules that it fails")
BLOCK = re.compile(r"(?P<begin><!-- (?P<name>libraries|deviations) -->\n).*?(?P<end>^<!-- end of (?P=name) -->$)", re.M | re.S)


@dataclass(frozen=True)
class Row:
    """The certificate of one library, in short."""

    distribution: str
    """The name of its distribution."""
    where: str
    """What tells its suites apart; empty if there is one."""
    version: str
    contract: str
    verdict: str
    run: int
    """How many rules had their say: those that apply, and could be provoked."""
    fails: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """By its id, each rule that it fails: the rule's sentence, and what was observed."""

    @classmethod
    def of(cls, suite: Any, report: SuiteReport) -> Self:
        """That of *suite*, whose certificate is *report*."""
        sentences = {each.id: each.statement for each in report.rules}
        sometimes = getattr(suite, "sometimes", ())
        said = [each for each in report.outcomes if each.outcome in (Status.PASSED, Status.FAILED, Status.KNOWN_DEVIATION)]
        return cls(
            distribution=suite.distribution,
            where=getattr(suite, "where", ""),
            version=version_of(suite.distribution),
            contract=report.contract,
            verdict=report.worth,
            run=len(said),
            fails={
                rule: (
                    sentences[rule],
                    report.known_deviations.get(rule, "not known") + ("; not in every run" if rule in sometimes else ""),
                )
                for rule in sorted(each.rule for each in said if each.outcome is not Status.PASSED or each.rule in sometimes)
            },
        )

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.distribution}, {self.where}" if self.where else self.distribution


def version_of(distribution: str) -> str:
    """The version of *distribution* that is installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def filled(text: str, rows: Sequence[Row], versions: Mapping[str, str] | None = None) -> str:
    """*text* with the tables of *rows* where it has place for them; raises ValueError if it has none.

    *versions* are stated in place of those that were certified.
    """
    ordered = sorted(rows, key=lambda row: (row.contract, row.distribution, row.where))
    tables = {"libraries": _table(ordered, versions or {}), "deviations": _deviations(ordered)}
    written, places = BLOCK.subn(lambda found: f"{found['begin']}{tables[found['name']]}{found['end']}", text)
    if not places:
        raise ValueError("it has no place for a table: a line `<!-- libraries -->`, and below it `<!-- end of libraries -->`")
    return written


def difference(text: str, rows: Sequence[Row]) -> str:
    """How *text* differs from what *rows* would make of it, whatever the versions are; empty if it does not.

    A new version of a library is no difference: only what it does under the rules can be one. Raises ValueError as `filled` does.
    """
    wanted = filled(text, rows, _versions_in(text))
    return "\n".join(difflib.unified_diff(text.splitlines(), wanted.splitlines(), "as it is", "as certified", lineterm="", n=0))


def news_of_versions(text: str, rows: Sequence[Row]) -> list[str]:
    """A sentence for each library that *text* states another version of."""
    stated = _versions_in(text)
    certified = {row.distribution: row.version for row in rows}
    return [
        f"{library} is {certified[library]} here, and {version} in the table"
        for library, version in stated.items()
        if certified.get(library, version) != version
    ]


def _table(rows: Sequence[Row], versions: Mapping[str, str]) -> str:
    cells = [
        (
            row.name,
            versions.get(row.distribution, row.version),
            f"`{row.contract}`",
            row.verdict,
            f"{len(row.fails)} of {row.run}: {' '.join(row.fails)}" if row.fails else f"none of {row.run}",
        )
        for row in rows
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in [HEAD, *cells]).replace("\n", f"\n|{'---|' * len(HEAD)}\n", 1)


def _deviations(rows: Sequence[Row]) -> str:
    return "\n".join(_deviations_of(row) for row in rows if row.fails)


def _deviations_of(row: Row) -> str:
    lines = [f"| {id} | {_cell(sentence)} | {_cell(observed)} |\n" for id, (sentence, observed) in row.fails.items()]
    return f"### {row.name}: `{row.contract}`\n\n| rule | the standard | observed |\n|---|---|---|\n{''.join(lines)}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _versions_in(text: str) -> dict[str, str]:
    """The versions that the table in *text* states."""
    for block in BLOCK.finditer(text):
        if block["name"] == "libraries":
            return dict(re.findall(r"^\| ([^,|]+?)(?:, [^|]*?)? \| ([^|]+?) \| `", block[0], re.M))
    return {}

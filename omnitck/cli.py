"""`python -m omnitck`: certify a provider, read the rules, check the kit itself.

Exit status: 0 no rule failed (one that deviates as known is named), 1 a rule failed, 2 bad usage or input, 3 inconclusive, 4 the
kit's own selftest failed, 5 nothing ran. Where several hold, it is the first of 1, 2, 3 and 5.
"""

import argparse
import json
import os
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, NoReturn

from omnitck.kit.checks import catalogue, known_by
from omnitck.kit.contract import Contract, Policy
from omnitck.kit.rules import check_docstrings
from omnitck.kit.text import UsageError, describe, describe_error, place_of, suggest
from omnitck.registry import find, registered
from omnitck.report.certificate import Certificate, Verdict
from omnitck.report.specification import defects_by_rule, kind_of, purpose_of, specification, tables, title_of
from omnitck.report.terminal import Printer, Progress, standard_output, summarize
from omnitck.shared.capabilities import PROFILES
from omnitck.suites import Recipe
from omnitck.version import __version__

__all__ = ["main"]

CERTIFICATE = "omnitck-certificate.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line *arguments*, and return the exit status."""
    try:
        check_docstrings()
        options = _parser().parse_args(arguments)
        return int(options.run(options))
    except UsageError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        Printer(sys.stderr).line("omnitck: interrupted")
        return 130
    except Exception as error:  # 1 would say that a rule failed.
        return _complain(f"the kit could not go on: {describe_error(error)}, raised in {place_of(error, in_kit=True)}.", 3)


def _complain(sentence: str, status: int = 2) -> int:
    Printer(sys.stderr).line(f"omnitck: error: {sentence}")
    return status


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    purpose, _, statuses = (__doc__ or "").partition("\n\n")
    parser = _Parser(prog="omnitck", description=purpose, epilog=statuses)
    parser.add_argument("--version", action="version", version=f"omnitck {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_certify(commands)

    listing = commands.add_parser("list", help="contracts, policies, capabilities and rules")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=_list)

    explain = commands.add_parser("explain", help="one rule: its sentence, why, and the defects that break it")
    explain.add_argument("rule", metavar="RULE", help="the id of a rule, such as KV-03")
    explain.add_argument("--json", action="store_true", help="print JSON")
    explain.set_defaults(run=_explain)

    spec = commands.add_parser("spec", help="the specification of contracts and policies, as Markdown")
    spec.add_argument("contracts", metavar="CONTRACT", nargs="*", help="all, if none is named")
    spec.add_argument("--tables", action="store_true", help="not every rule, but tables of capabilities, hooks and limits")
    where = spec.add_mutually_exclusive_group()
    where.add_argument("--output", metavar="FILE", help="write there")
    where.add_argument("--check", metavar="FILE", help="exit with 1 if FILE is not what would be written")
    spec.set_defaults(run=_spec)

    selftest = commands.add_parser("selftest", help="prove the kit with its own defective providers")
    selftest.add_argument("-c", "--contract", action="append", default=[], metavar="NAME", help="only this one; repeatable")
    selftest.add_argument("--jobs", type=_at_least_1, default=0, metavar="N", help="suites at a time (three for each processor)")
    selftest.add_argument("--json", action="store_true", help="print JSON")
    selftest.set_defaults(run=_selftest)
    return parser


def _add_certify(commands: Any) -> None:
    certify = commands.add_parser(
        "certify",
        help="run the rules against a provider",
        description="Run every rule of a contract, and of the policies composed with it, against a provider, and write the "
        "certificate. For example: omnitck certify acme.stores:make_store --contract kv_store --policy multi_tenancy "
        "--capability ttl,counter",
        epilog="Jobs, processes, seed, deadline, patience and grace are also taken from variables such as OMNITCK_JOBS, and from "
        "the configuration: a flag comes before a variable, and a variable before the configuration.",
    )
    certify.add_argument(
        "targets",
        metavar="TARGET",
        nargs="*",
        help="package.module:name of a coroutine function that returns the provider, or of a suite (a class with a contract and "
        "a TestCase among its bases); without one, the suites of the configuration",
    )
    certify.set_defaults(run=_certify)

    what = certify.add_argument_group("what is certified")
    names = {"action": "append", "default": [], "metavar": "NAME"}
    what.add_argument("--contract", **names, help="the contract; policies may follow, as in kv_store+multi_tenancy")
    what.add_argument("--policy", **names, help="a policy to compose with it; repeatable")
    what.add_argument(
        "-c", "--capability", **names, help="an optional part that the provider promises; repeatable, or several with commas"
    )
    what.add_argument("--profile", metavar="NAME", help=f"a named set of capabilities: {' or '.join(PROFILES)}")
    what.add_argument(
        "--hook",
        type=_hook,
        action="append",
        default=[],
        metavar="NAME=FUNCTION",
        help="a hook of the suite beside the target: a coroutine function without self, as package.module:function; repeatable",
    )
    what.add_argument(
        "-r", "--rule", **{**names, "metavar": "ID"}, help="only this rule; repeatable; KV-0* stands for all that begin so"
    )
    what.add_argument("--exclude", **{**names, "metavar": "ID"}, help="all but this rule, in the same way; repeatable")
    what.add_argument("--config", metavar="FILE", help="TOML with a table [tool.omnitck]; by default ./pyproject.toml")

    how = certify.add_argument_group("how it is run")
    how.add_argument("--jobs", type=_at_least_1, metavar="N", help="rules at a time, each in a thread; by default 1")
    how.add_argument(
        "--processes",
        type=_at_least_1,
        metavar="N",
        help="processes that share the rules of a suite, for clients that cannot have several event loops; by default 1",
    )
    how.add_argument("--seed", type=int, metavar="N", help="of everything random, to repeat a run; by default 0")
    how.add_argument("--deadline", type=_above_0, metavar="S", help="seconds for a rule, in place of each rule's own")
    how.add_argument("--patience", type=_above_0, metavar="X", help="multiply every deadline, for a slow backend")
    how.add_argument(
        "--grace",
        type=_above_0,
        metavar="S",
        help="seconds until a rule that hangs is killed after its deadline, and a suite's process after its rules; by default 10",
    )
    how.add_argument(
        "--isolate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run each suite in a process of its own, so that one which hangs or crashes still gets a report; by default yes",
    )

    how.add_argument("--fail-fast", action="store_true", help="begin no further rule once one has failed, or could not be judged")

    report = certify.add_argument_group("what is reported")
    report.add_argument(
        "--output", metavar="FILE", help=f"the certificate; by default {CERTIFICATE}, or none with --rule or --exclude"
    )
    report.add_argument("--json", metavar="FILE", help="the same document, in a further file")
    report.add_argument(
        "--durations", type=_at_least_1, default=0, metavar="N", help="name the N rules that took the longest, and how long"
    )
    report.add_argument("--traceback", action="store_true", help="show the whole traceback of what was raised")
    volume = report.add_mutually_exclusive_group()
    volume.add_argument("-v", "--verbose", action="store_true", help="print a line for each rule")
    volume.add_argument("-q", "--quiet", action="store_true", help="print only failures and the verdict")


def _at_least_1(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def _above_0(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds above 0")
    return number


def _hook(text: str) -> tuple[str, str]:
    name, _, function = text.partition("=")
    if not name or not function:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=package.module:function")
    return name, function


_at_least_1.__name__ = "whole number"  # argparse names a type by this.
_above_0.__name__ = "number"


# certify


def _certify(options: argparse.Namespace) -> int:
    from omnitck.certifying import follower
    from omnitck.certifying.interrupts import Interrupts

    config = _configuration(options.config, needed=not options.targets)
    recipes = _recipes(options, config)
    settings = follower.Settings(
        jobs=_setting("jobs", options.jobs, config, _at_least_1, 1),
        seed=_setting("seed", options.seed, config, int, 0),
        rules=tuple(options.rule),
        excluded=tuple(options.exclude),
        fail_fast=options.fail_fast,
        grace=_setting("grace", options.grace, config, _above_0, 10.0),
        isolate=options.isolate,
        processes=_setting("processes", options.processes, config, _at_least_1, 1),
    )
    output = standard_output()
    progress = Progress(output, verbosity=2 if options.verbose else 0 if options.quiet else 1)
    try:
        with _environment(OMNITCK_TRACEBACK="1" if options.traceback else None), Interrupts() as interrupts:
            certificate = follower.run_suites(recipes, settings, progress, interrupts)
    finally:
        progress.end()
    try:
        summarize(
            certificate, output, brief=options.quiet, whole=options.verbose or options.traceback, durations=options.durations
        )
    finally:  # What was found out is kept, whatever becomes of its printing.
        status = _write(certificate, options, config, output)
    return 128 + interrupts.number if interrupts.number else status


@contextmanager
def _environment(**variables: str | None) -> Iterator[None]:
    """The environment as rules are to find it: what is given as a flag comes before a variable, and is in the suites by now."""
    before = dict(os.environ)
    for name in ("OMNITCK_PATIENCE", "OMNITCK_DEADLINE"):
        os.environ.pop(name, None)
    os.environ.update({name: value for name, value in variables.items() if value is not None})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _write(certificate: Certificate, options: argparse.Namespace, config: Mapping[str, Any], output: Printer) -> int:
    """Write the files; a report that cannot be written goes to the terminal, so that the run is not lost."""
    file = options.output or config.get("output") or (None if certificate.selection or certificate.excluded else CERTIFICATE)
    lost = False
    for path, title in ((file, "certificate"), (options.json or config.get("json"), "report")):
        if not path:
            continue
        try:
            certificate.write(path)
        except OSError as error:
            lost = True
            _complain(f"the {title} cannot be written to {path!r}: {error.strerror or error}.")
        else:
            if not options.quiet:
                output.line(f"{title}: {path}")
    if lost:
        output.raw(certificate.as_json())
    failed = certificate.verdict is Verdict.NOT_CONFORMANT
    return 2 if lost and not failed else certificate.exit_status


def _recipes(options: argparse.Namespace, config: Mapping[str, Any]) -> list[Recipe]:
    """The suites to run: the targets given, or else those of the configuration."""
    common = {
        "patience": _setting("patience", options.patience, config, _above_0, None),
        "deadline": _setting("deadline", options.deadline, config, _above_0, None),
        "profile": options.profile,
        "capabilities": sorted(set(_split(options.capability))) or None,
    }
    common = {key: value for key, value in common.items() if value is not None}
    suites = config.get("suites", [])
    if options.targets:
        contracts = _contracts(_split(options.contract), _split(options.policy))
        suites = [Recipe(each, contracts) for each in options.targets]
    hooks = dict(options.hook)
    return [replace(each, declarations={**each.declarations, **common}, hooks={**each.hooks, **hooks}) for each in suites]


def _split(texts: Iterable[str]) -> list[str]:
    return [each.strip() for text in texts for each in text.replace("+", ",").split(",") if each.strip()]


def _contracts(contracts: Sequence[str], policies: Sequence[str]) -> tuple[str, ...]:
    for name in (*contracts, *policies):
        contract = find(name)
        if name in policies and not issubclass(contract, Policy):
            raise UsageError(f"{name} is a contract, not a policy: name it with --contract.")
    return tuple(dict.fromkeys((*contracts, *policies)))


# Configuration


_KEYS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "suites": ((list,), "a list of tables"),
    "jobs": ((int,), "a whole number"),
    "processes": ((int,), "a whole number"),
    "seed": ((int,), "a whole number"),
    "patience": ((int, float), "a number"),
    "deadline": ((int, float), "a number of seconds"),
    "grace": ((int, float), "a number of seconds"),
    "json": ((str,), "a file's name"),
    "output": ((str,), "a file's name"),
}
_SUITE_DECLARATIONS = frozenset(("capabilities", "profile", "known_deviations"))
_SUITE_KEYS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "target": ((str,), 'a string, such as "package.module:name"'),
    "contract": ((str,), "the name of a contract"),
    "policies": ((list,), "a list of names"),
    "capabilities": ((list,), "a list of names"),
    "profile": ((str,), "the name of a profile"),
    "known_deviations": ((dict,), "a table of rule ids and reasons"),
    "hooks": ((dict,), 'a table of hooks and functions, such as { advance = "package.module:function" }'),
}


def _configuration(path: str | None, *, needed: bool) -> dict[str, Any]:
    """What `[tool.omnitck]` says, with recipes as its `suites`. Without targets on the command line it has to name some."""
    file = path or "pyproject.toml"
    if not path and not os.path.exists(file):
        if needed:
            raise UsageError("nothing to certify: give a TARGET, or name suites under [tool.omnitck] in pyproject.toml.")

        return {}

    tool = _read_toml(file).get("tool", {})
    values = tool.get("omnitck", {}) if isinstance(tool, dict) else tool
    where = f"configuration {file!r}"
    if not isinstance(values, dict):
        raise UsageError(f"{where}: tool.omnitck is {describe(values)}, not a table.")

    _check_keys(values, _KEYS, f"{where}: tool.omnitck")
    suites = [_suite(each, f"{where}: suites[{number}]") for number, each in enumerate(values.get("suites", ()))]
    if needed and not suites:
        raise UsageError(f"nothing to certify: {where} names no suites under [tool.omnitck]; or give a TARGET.")

    return {**values, "suites": suites}


def _read_toml(file: str) -> dict[str, Any]:
    try:
        with open(file, "rb") as source:
            return tomllib.load(source)
    except OSError as error:
        raise UsageError(f"configuration {file!r} cannot be read: {error.strerror or error}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"configuration {file!r} is no TOML: {error}.") from None


def _suite(entry: object, where: str) -> Recipe:
    if not isinstance(entry, dict):
        raise UsageError(f"{where} is {describe(entry)}, not a table with a target.")

    _check_keys(entry, _SUITE_KEYS, where)
    if "target" not in entry:
        raise UsageError(f"{where} has no target: give package.module:name.")

    contracts = _contracts(_split([entry.get("contract", "")]), entry.get("policies", []))
    declarations = {key: entry[key] for key in _SUITE_DECLARATIONS & entry.keys()}
    return Recipe(entry["target"], contracts, declarations, entry.get("hooks", {}))


def _check_keys(values: Mapping[str, Any], known: Mapping[str, tuple[tuple[type, ...], str]], where: str) -> None:
    for key, value in values.items():
        if key not in known:
            raise UsageError(f"{where} has an unknown key {key!r}; {suggest(key, known)}")

        kinds, words = known[key]
        good = isinstance(value, kinds) and not isinstance(value, bool)
        if good and key in ("policies", "capabilities"):
            good = all(isinstance(each, str) for each in value)
        if good and key == "hooks":
            good = all(isinstance(each, str) for each in value.values())
        if not good:
            raise UsageError(f"{where}.{key} is {describe(value)}, not {words}.")


def _setting(key: str, flag: Any, config: Mapping[str, Any], convert: Callable[[str], Any], default: Any) -> Any:
    """The value of a flag, or else of the environment, or else of the configuration."""
    if flag is not None:
        return flag

    variable = f"OMNITCK_{key.upper()}"
    given = {variable: os.environ.get(variable), f"tool.omnitck.{key} of the configuration": config.get(key)}
    for source, value in given.items():
        if value not in (None, ""):
            try:
                return convert(str(value))
            except argparse.ArgumentTypeError as error:
                raise UsageError(f"{source}: {error}.") from None
            except ValueError:
                raise UsageError(f"{source} is {value!r}: give a {convert.__name__.replace('int', 'whole number')}.") from None
    return default


# list, explain, spec


def _list(options: argparse.Namespace) -> int:
    known = registered()
    output = standard_output()
    contracts = [each.contract for each in known if each.contract is not None]
    if options.json:
        output.raw(json.dumps({"contracts": [_listed(each) for each in contracts]}, indent=2) + "\n")
    else:
        for contract in contracts:
            output.line(f"{title_of(contract)} ({kind_of(contract)}): {purpose_of(contract)}")
            if known_by(contract):
                output.line(f"  capabilities: {', '.join(sorted(known_by(contract)))}")
            for each in catalogue(contract):
                output.line(f"  {each.id:12} [{each.level}{', audit' if each.rule.ambient else ''}] {each.rule.statement}")
            output.line()
    for broken in known:
        if broken.contract is None:
            Printer(sys.stderr).line(f"omnitck: {broken.problem}")
    return 0


def _listed(contract: type[Contract]) -> dict[str, Any]:
    return {
        "name": contract.definition.name,
        "kind": kind_of(contract),
        "version": contract.definition.version,
        "capabilities": sorted(known_by(contract)),
        "rules": [
            {"id": each.id, "level": each.level, "statement": each.rule.statement, "audit": each.rule.ambient}
            for each in catalogue(contract)
        ],
    }


def _explain(options: argparse.Namespace) -> int:
    known = {
        each.id: (found.contract, each)
        for found in registered()
        if found.contract is not None
        for each in catalogue(found.contract)
    }
    id = options.rule.upper()
    if id not in known:
        raise UsageError(f"unknown rule {options.rule!r}; {suggest(id, known)}")

    contract, entry = known[id]
    rule = entry.rule
    defects = defects_by_rule().get(id, {})
    if options.json:
        document = {
            "id": id,
            "contract": contract.definition.name,
            "level": entry.level,
            "statement": rule.statement,
            "rationale": rule.rationale,
            "deadline": rule.deadline,
            "defects": [{"name": name, "story": story} for name, story in defects.items()],
        }
        standard_output().raw(json.dumps(document, indent=2) + "\n")
        return 0

    origin = f"{'audit of the ' if rule.ambient else ''}{kind_of(contract)} {title_of(contract)}"
    paragraphs = [
        f"{id} [{entry.level}] {rule.statement}\n  {origin}",
        textwrap.indent(rule.rationale, "  "),
        "\n".join(["  Broken by:", *(f"    {name}: {story}" for name, story in defects.items())] if defects else []),
    ]
    standard_output().line("\n\n".join(filter(None, paragraphs)))
    return 0


def _spec(options: argparse.Namespace) -> int:
    names = options.contracts or [each.name for each in registered() if each.contract is not None]
    contracts = [find(name) for name in names]
    text = tables(contracts) if options.tables else specification(contracts)
    output = standard_output()
    if options.check:
        return _check_spec(options, text, output)
    if not options.output:
        output.raw(text)
        return 0

    try:
        with open(options.output, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        output.raw(text)
        return _complain(f"the specification cannot be written to {options.output!r}: {error.strerror or error}.")
    return 0


def _check_spec(options: argparse.Namespace, text: str, output: Printer) -> int:
    path = options.check
    try:
        with open(path, encoding="utf-8") as file:
            current = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path!r} cannot be read: {error}.") from None
    if current == text:
        return 0

    words = ["omnitck spec", *options.contracts, *(["--tables"] if options.tables else []), "--output", path]
    output.line(f"{path} differs from the rules: write it anew with `{' '.join(words)}`.")
    return 1


# selftest


def _selftest(options: argparse.Namespace) -> int:
    from omnitck.selftest.laws import selftest

    contracts = _split(options.contract)
    for each in contracts:
        find(each)
    output = standard_output()
    report = selftest(contracts, jobs=options.jobs, progress=None if options.json else output.line)
    if options.json:
        output.raw(json.dumps(asdict(report), indent=2) + "\n")
    else:
        output.line(
            f"{report.rules} rules, {report.defects} defects, {report.caught} caught; "
            f"{report.unusual} unusual providers, {len(report.unusual_rejected)} rejections"
        )
        for title, entries in (
            ("rule without a defect", report.rules_without_defect),
            ("defect not caught", report.defects_not_caught),
            ("reference failure", report.reference_failures),
            ("correct provider rejected", report.unusual_rejected),
        ):
            for entry in entries:
                output.line(f"{title}: {entry}")
        output.line("selftest passed" if report.ok else "selftest FAILED")
    return 0 if report.ok else 4

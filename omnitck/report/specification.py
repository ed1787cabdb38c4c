"""The standard as Markdown: contracts and policies rule by rule, or in tables of what a provider and a suite may say.

Everything is read from the code: sentences and meanings are docstrings, and the text after an attribute. What a hook's docstring
says decides whether the table calls it required: "A provider that has `subscribe` needs no such hook."
"""

import ast
import functools
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from omnitck.kit.checks import DECLARATIONS, HOOKS, catalogue, known_by
from omnitck.kit.contract import Contract, Policy
from omnitck.kit.rules import Entry
from omnitck.registry import BUILT_IN
from omnitck.shared.capabilities import PRODUCTION, PROFILES
from omnitck.shared.models import Limits

__all__ = ["defects_by_rule", "kind_of", "purpose_of", "specification", "tables", "title_of"]

Function = ast.AsyncFunctionDef | ast.FunctionDef

AVAILABILITY = ("unreachable_provider", "backend_address")
"""The hooks of which a suite that declares `availability` needs one."""


def title_of(contract: type[Contract]) -> str:
    """Name and version."""
    return f"{contract.definition.name} {contract.definition.version}"


def kind_of(contract: type[Contract]) -> str:
    """The word for what it is: `contract` or `policy`."""
    return "policy" if issubclass(contract, Policy) else "contract"


def purpose_of(contract: type[Contract]) -> str:
    """The first paragraph of its docstring, on one line."""
    return _first_paragraph(contract)


@functools.cache
def defects_by_rule() -> Mapping[str, Mapping[str, str]]:
    """For each rule of the kit, the defects that break it: name and story."""
    from omnitck.defects import defects_of

    found: dict[str, dict[str, str]] = {}
    for defect in [each for name in BUILT_IN for each in defects_of(name)]:
        for id in defect.rules:
            found.setdefault(id, {})[defect.name] = defect.story
    return found


def specification(contracts: Iterable[type[Contract]]) -> str:
    """Each of *contracts* whole: its protocols, its numbers, what its suites may have, every rule with its reason and defects."""
    return "\n\n".join(block for each in contracts for block in _specified(each)) + "\n"


def tables(contracts: Iterable[type[Contract]]) -> str:
    """What every suite may have, then each of *contracts* in tables."""
    contracts = list(contracts)
    blocks = [*_overview(contracts), *_for_every_suite(), *(block for each in contracts for block in _tabulated(each))]
    return "\n\n".join(blocks) + "\n"


# Rule by rule.


def _specified(contract: type[Contract]) -> Iterator[str]:
    definition = contract.definition
    yield f"# {title_of(contract)}"
    if doc := inspect.getdoc(contract):
        yield doc
    yield f"`from {contract.__module__} import {contract.__name__}`; exceptions, models and limits are in `omnitck.shared`."
    for capability, protocol in definition.protocols.items():
        yield f"## Capability `{capability}`" if capability else "## Protocol"
        yield f"```python\n{_source(protocol).rstrip()}\n```"
    if known_by(contract):
        yield "## Capabilities"
        yield _bullets(_with_profile(contract))
    if _has_limits(contract):
        yield "## Limits"
        yield _bullets({name: f"{text} By default {default}." for name, (default, _, text) in _limits(definition.limits).items()})
    yield "## Hooks"
    yield _bullets(_hooks(contract, (*HOOKS, *definition.hooks)))
    yield "## Declarations"
    yield _bullets({name: text for name, (_, text) in _data(contract, (*DECLARATIONS, *definition.data)).items()})
    for heading, ambient in (("Rules", False), ("Audits", True)):
        entries = [each for each in catalogue(contract) if each.rule.ambient is ambient]
        if entries:
            yield f"## {heading}"
        for entry in entries:
            yield from _entry(entry)


def _with_profile(contract: type[Contract]) -> dict[str, str]:
    """The capabilities, those of the profile `production` last."""
    demanded = PROFILES["production"] | contract.definition.production
    known = sorted(known_by(contract), key=lambda each: (each in demanded, each))
    return {f"`{each}`{' (profile `production`)' if each in demanded else ''}": PRODUCTION.get(each, "") for each in known}


def _entry(entry: Entry) -> Iterator[str]:
    yield f"### {entry.id} ({entry.level})"
    yield entry.rule.statement
    if entry.rule.rationale:
        yield entry.rule.rationale
    if defects := defects_by_rule().get(entry.id):
        yield "Defects that break it:"
        yield _bullets(defects)


def _bullets(meanings: Mapping[str, str]) -> str:
    """One line for each, its name as code unless it is marked up already."""
    lines = {name if name.startswith("`") else f"`{name}`": text for name, text in meanings.items()}
    return "\n".join(f"- {name}{f': {text}' if text else ''}" for name, text in lines.items())


# Tables.


def _overview(contracts: Iterable[type[Contract]]) -> Iterator[str]:
    yield "# Contracts and policies, in tables"
    yield (
        "Written from the code by `python -m omnitck spec --tables`: change it there. `python -m omnitck spec kv_store` prints "
        "a contract whole, with every rule and its reason."
    )
    rows = [(_link(title_of(each), each.definition.name), kind_of(each), _counted(each), purpose_of(each)) for each in contracts]
    yield _table(("name", "kind", "of", "purpose"), *rows)


def _link(heading: str, text: str) -> str:
    """To a section of the same document, by the anchor that GitHub makes of its heading."""
    return f"[{text}](#{heading.replace('.', '').replace(' ', '-')})"


def _for_every_suite() -> Iterator[str]:
    yield "## Every suite"
    yield "Hooks are coroutine methods, each given what its signature takes:"
    yield _hook_table(Contract, HOOKS)
    yield "Declarations are attributes:"
    yield _declaration_table(Contract, DECLARATIONS)


def _tabulated(contract: type[Contract]) -> Iterator[str]:
    definition = contract.definition
    yield f"## {title_of(contract)}"
    yield f"{purpose_of(contract)} A {kind_of(contract)} of {_counted(contract)}."
    yield f"```python\n{_imports(contract)}\n```"
    if core_protocol := definition.protocols.get(""):
        yield "The core:"
        yield _bullets(_methods(core_protocol))
    if definition.config:
        names = ", ".join(f"`{each}`" for each in sorted(definition.config))
        whom = "any contract" if definition.cells is None else "any contract that has cells"
        yield f"It composes with {whom}, and gives `make_provider` {names}."
    if known_by(contract):
        yield _capability_table(contract)
    if definition.hooks:
        yield _hook_table(contract, definition.hooks)
    if definition.data:
        yield _declaration_table(contract, definition.data)
    if _has_limits(contract):
        yield _limit_table(definition.limits)


def _counted(contract: type[Contract]) -> str:
    """How many rules and audits it has, and how many of them every provider owes."""
    entries = catalogue(contract)
    audits = sum(each.rule.ambient for each in entries)
    numbers = {"rule": len(entries) - audits, "audit": audits}
    counted = " and ".join(f"{number} {word}{'' if number == 1 else 's'}" for word, number in numbers.items() if number)
    return f"{counted}, {sum(not each.needs for each in entries)} of them core"


def _table(*rows: Iterable[str]) -> str:
    """The first of *rows* is the heading."""
    heading, *others = ([_cell(each) for each in row] for row in rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heading, ["---"] * len(heading), *others))


def _cell(text: str) -> str:
    """*text* where a bar would end the cell, and a power of two be taken for emphasis."""
    return text.replace("|", r"\|").replace("**", r"\*\*")


def _imports(contract: type[Contract]) -> str:
    """Where the contract, its protocols and its limits are imported from, the contract's own module first."""
    wanted = [contract, *contract.definition.protocols.values()]
    if _has_limits(contract):
        wanted.append(contract.definition.limits)
    modules: dict[str, list[str]] = {}
    for each in wanted:
        modules.setdefault(each.__module__, []).append(each.__name__)
    return "\n".join(_import(module, names) for module, names in modules.items())


def _import(module: str, names: list[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= 120:
        return line

    return f"from {module} import (\n{textwrap.fill(', '.join(names), 116, initial_indent='    ', subsequent_indent='    ')},\n)"


def _capability_table(contract: type[Contract]) -> str:
    definition = contract.definition
    needs = [each.needs for each in catalogue(contract)]
    rows = []
    for each in (name for name in dict.fromkeys((*definition.protocols, *PRODUCTION)) if name in known_by(contract)):
        protocol = definition.protocols.get(each)
        brought = "every contract" if each in PRODUCTION else "this contract" if each in definition.production else ""
        rows.append(
            (
                f"`{each}`",
                "" if protocol is None else f"`{protocol.__name__}`",
                "" if protocol is None else _adds(protocol, definition.protocols.get("")),
                _promise(each, protocol),
                brought,
                str(sum(each in some for some in needs)),
            )
        )
    return _table(("capability", "protocol", "adds", "promises", "in `production` by", "rules"), *rows)


def _hook_table(contract: type[Contract], names: Iterable[str]) -> str:
    hooks = _hooks(contract, names)
    return _table(("hook", "required", "meaning"), *((f"`{name}`", _required(name, text), text) for name, text in hooks.items()))


def _declaration_table(contract: type[Contract], names: Iterable[str]) -> str:
    rows = ((f"`{name}`", f"`{default}`", text) for name, (default, text) in _data(contract, names).items())
    return _table(("declaration", "default", "meaning"), *rows)


def _limit_table(limits: type[Limits]) -> str:
    rows = ((f"`{name}`", allowed, default, text) for name, (default, allowed, text) in _limits(limits).items())
    return _table((f"`{limits.__name__}`", "allowed", "default", "meaning"), *rows)


# What the code says.


def _has_limits(contract: type[Contract]) -> bool:
    return not issubclass(contract, Policy)


def _limits(limits: type[Limits]) -> dict[str, tuple[str, str, str]]:
    """Each number of *limits* and of its bases: the default that this class has, what is allowed, and what it means here."""
    meanings: dict[str, str] = {}
    for each in reversed(limits.__mro__):
        if issubclass(each, Limits):
            meanings |= _attributes(each)
    return {each.name: (_number(each.default), _allowed(each.metadata), meanings.get(each.name, "")) for each in fields(limits)}


def _allowed(bounds: Mapping[str, Any]) -> str:
    least, most = (each and int(each) for each in (bounds.get("least"), bounds.get("most")))
    return f"{_number(least)} or more" if most is None else f"{_number(least)} to {_number(most)}"


def _number(value: Any) -> str:
    """As Python reads it."""
    return f"{value:_}"


def _hooks(contract: type[Contract], names: Iterable[str]) -> dict[str, str]:
    return {name: _on_one_line(inspect.getdoc(getattr(contract, name))) for name in dict.fromkeys(names)}


def _required(hook: str, meaning: str) -> str:
    if hook == "make_provider":
        return "always"
    if hook in AVAILABILITY:
        other = next(each for each in AVAILABILITY if each != hook)
        return f"for `availability`: this or `{other}`"
    instead = re.search(r"A provider that has (`\w+`)(?: itself)? needs no such hook", meaning)
    return f"unless the provider has {instead[1]}" if instead else "no"


def _data(contract: type[Contract], names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Declarations of suites: the default, and what it means."""
    meanings: dict[str, str] = {}
    for each in reversed(contract.__mro__):
        if issubclass(each, Contract):
            meanings |= _attributes(each)
    return {name: (_default(getattr(contract, name)), meanings.get(name, "")) for name in dict.fromkeys(names)}


def _default(value: object) -> str:
    return "set()" if value == frozenset() and isinstance(value, frozenset) else repr(value)


def _methods(protocol: type) -> dict[str, str]:
    """The public methods of a protocol as they are written, without `self`, each with the first paragraph about it."""
    found = {}
    for name, node in _functions(protocol).items():
        if not name.startswith("_"):
            word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
            arguments = ast.unparse(node.args).replace("=", " = ")
            found[f"`{word} {name}({arguments}){_result(node)}`"] = _first_paragraph(getattr(protocol, name))
    return found


def _adds(protocol: type, core: type | None) -> str:
    """The methods that a capability brings; of those that the core has too, what is new in them."""
    known = {} if core is None else _functions(core)
    added = []
    for name, node in _functions(protocol).items():
        if name == "__aenter__":
            added.append("`async with`")
        elif name.startswith("_"):
            continue
        elif name not in known:
            added.append(f"`{name}`")
        elif new := _difference(node, known[name]):
            added.append(f"`{name}{new}`")
    return ", ".join(added)


def _difference(node: Function, known: Function) -> str:
    """The arguments of a method that the *known* one has not, or not of this type, and its result if that is another."""
    before = _arguments(known)
    new = []
    for name, annotation in _arguments(node).items():
        if name not in before:
            new.append(f"{name}=")
        elif annotation != before[name]:
            new.append(f"{name}: {annotation}")
    result = _result(node) if _result(node) != _result(known) else ""
    return f"({', '.join(new)}){result}" if new or result else ""


def _arguments(node: Function) -> dict[str, str]:
    found = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return {each.arg: ast.unparse(each.annotation) if each.annotation is not None else "" for each in found}


def _result(node: Function) -> str:
    return f" -> {ast.unparse(node.returns)}".replace("'", "") if node.returns is not None else ""


def _functions(protocol: type) -> dict[str, Function]:
    """The methods of a protocol, without `self`."""
    found: dict[str, Function] = {}
    for node in _definition_of(protocol).body:
        if isinstance(node, Function):
            del node.args.args[:1]
            found[node.name] = node
    return found


def _promise(capability: str, protocol: type | None) -> str:
    """What its protocol's docstring promises, or else that of its first method; of those that every contract knows, the word."""
    if capability in PRODUCTION:
        return _sentence(PRODUCTION[capability])

    promised = re.sub(r"^Capability `\w+`(?:, of the profile `production`)?[.:;]? *", "", _first_paragraph(protocol))
    return _sentence(promised or next(filter(None, _methods(protocol).values() if protocol else ()), ""))


def _sentence(text: str) -> str:
    return text and f"{text[0].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _first_paragraph(documented: object) -> str:
    return _on_one_line((inspect.getdoc(documented) or "").partition("\n\n")[0])


def _on_one_line(text: str | None) -> str:
    """*text* with its line ends taken for spaces."""
    return " ".join((text or "").split())


def _attributes(cls: type) -> dict[str, str]:
    """What the text after each attribute of *cls* says of it."""
    found = {}
    for attribute, text in itertools.pairwise(_definition_of(cls).body):
        if isinstance(attribute, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[ast.unparse(attribute.target)] = _on_one_line(str(text.value.value))
    return found


def _definition_of(cls: type) -> ast.ClassDef:
    (definition,) = ast.parse(_source(cls)).body
    assert isinstance(definition, ast.ClassDef)
    return definition


@functools.cache
def _source(cls: type) -> str:
    """Remembered: `inspect` parses a whole module to find a class in it."""
    return textwrap.dedent(inspect.getsource(cls))

"""`omnitck.certify`: run suites, and say what they are worth."""

from collections.abc import Callable, Iterable
from typing import Any

from omnitck.certifying.follower import Settings, run_suites, source_of
from omnitck.kit.outcomes import Outcome
from omnitck.kit.text import UsageError, suggest
from omnitck.registry import BUILT_IN
from omnitck.report.certificate import Certificate
from omnitck.report.observer import Observer
from omnitck.suites import Factory, caller, compose_in, is_suite, specialise

__all__ = ["certify"]


def certify(
    *contracts: str | type,
    make_provider: Factory | None = None,
    jobs: int = 1,
    isolate: bool | None = None,
    progress: Callable[[Outcome], None] | None = None,
    rules: Iterable[str] | None = None,
    seed: int | None = None,
    grace: float = 10.0,
    processes: int = 1,
    **declarations: Any,
) -> Certificate:
    """Run the suite of *contracts* and *make_provider*, or suites that are classes already, and say what they are worth.

    Works inside a running event loop too, which stands still meanwhile. *isolate* asks for a child process, which survives a
    provider that hangs or ends its process; None takes one where the suite can be imported by another process, and a thread
    otherwise. *jobs* rules run at a time, each in a thread with an event loop of its own; *processes* share the rules of a suite
    among that many child processes, for clients that cannot have several event loops. *progress* receives each outcome as it
    comes, *rules* selects by id (`KV-0*`), *seed* repeats a run, and a rule that has no verdict *grace* seconds after its
    deadline is ended, as is a child process that goes on for so long after its last one. Raises UsageError.
    """
    suites = [each for each in contracts if is_suite(each)]
    others = [each for each in contracts if not is_suite(each)]
    if make_provider is not None:
        name = getattr(make_provider, "__name__", None)
        suites.append(compose_in(caller(), others, {"make_provider": make_provider, **declarations}, name))
    elif others:
        raise UsageError("certify needs make_provider=, the coroutine function that connects a client.")
    elif not suites:
        raise UsageError(f"certify was given no contract; {suggest('', BUILT_IN)}")
    elif declarations:
        suites = [specialise(each, declarations) for each in suites]

    settings = Settings(jobs=jobs, seed=seed, rules=tuple(rules or ()), grace=grace, isolate=isolate, processes=processes)
    return run_suites([source_of(each, settings) for each in suites], settings, Observer(progress))

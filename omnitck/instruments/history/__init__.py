"""Histories: what concurrent clients asked and were told, and whether one correct store could have told them so.

`queues` judges those of messages, `leases` those of locks.
"""

from omnitck.instruments.history.linearizability import Counterexample, Verdict, check, explain
from omnitck.instruments.history.recorder import REFUSED, UNKNOWN, Marker, Op, Recorder

__all__ = ["REFUSED", "UNKNOWN", "Counterexample", "Marker", "Op", "Recorder", "Verdict", "check", "explain"]

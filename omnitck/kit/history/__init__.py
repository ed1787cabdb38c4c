"""Histories: what concurrent clients asked and were told, and whether one correct store could have told them so.

`queues` judges those of messages.
"""

from omnitck.kit.history.linearizability import Counterexample, Verdict, check, explain
from omnitck.kit.history.recorder import REFUSED, UNKNOWN, Marker, Op, Recorder

__all__ = ["REFUSED", "UNKNOWN", "Counterexample", "Marker", "Op", "Recorder", "Verdict", "check", "explain"]

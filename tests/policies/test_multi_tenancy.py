"""What the rules about tenants accept, and what they do not."""

import itertools
import unittest

from omnitck.kit.outcomes import Status
from omnitck.reference.object_storage import MemoryObjectStorage, Stored
from omnitck.selftest.laws import reference_suite
from omnitck.shared.exceptions import ObjectNotFoundError
from tests.helpers import outcome_of


class Numbered(MemoryObjectStorage):
    """Each error has the number of its request."""

    numbers = itertools.count(8)

    def find(self, key: str, version: str | None = None) -> Stored:
        try:
            return super().find(key, version)
        except ObjectNotFoundError as error:
            raise ObjectNotFoundError(self.said(key, f"{error}, said in answer to request {next(self.numbers)}")) from None

    def said(self, key: str, text: str) -> str:
        return text

    def is_anothers(self, key: str) -> bool:
        return key in {each.name for each in self.backend.cells()}


class OtherWords(Numbered):
    def said(self, key: str, text: str) -> str:
        return text.replace("said", "forbidden") if self.is_anothers(key) else text


class MoreWords(Numbered):
    def said(self, key: str, text: str) -> str:
        return f"{text}, by its owner" if self.is_anothers(key) else text


class TestAbsence(unittest.TestCase):
    def judged(self, provider: type[MemoryObjectStorage]) -> tuple[Status, str]:
        suite = reference_suite("object_storage", provider)
        outcome, _ = outcome_of(suite, "test_mt_03_another_tenants_name_is_simply_absent")
        return outcome.outcome, outcome.message

    def test_the_number_of_a_request_tells_nothing(self) -> None:
        self.assertEqual(self.judged(Numbered), (Status.PASSED, ""))

    def test_other_words_beside_it_do(self) -> None:
        for provider, shown in ((OtherWords, "forbidden in answer"), (MoreWords, "by its owner")):
            status, message = self.judged(provider)
            self.assertIs(status, Status.FAILED)
            self.assertIn(shown, message)

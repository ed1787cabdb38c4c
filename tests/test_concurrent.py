"""Many rules at a time."""

import contextvars
import functools
import sys
import threading
import time
import unittest
from typing import Any, ClassVar, cast
from unittest import mock

from omnitck.concurrent import ConcurrentSuite, _Record

Log = list[str]


class Noting(unittest.TestResult):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.log: Log = []

    def startTest(self, test: Any) -> None:  # noqa: N802
        super().startTest(test)
        self.log.append(f"start {_name(test)}")

    def stopTest(self, test: Any) -> None:  # noqa: N802
        super().stopTest(test)
        self.log.append(f"stop {_name(test)}")

    def addSuccess(self, test: Any) -> None:  # noqa: N802
        self.log.append(f"success {_name(test)}")

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        super().addFailure(test, err)
        self.log.append(f"failure {_name(test)}: {err[1]}")

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        super().addError(test, err)
        self.log.append(f"error {_name(test)}: {err[1]}")

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        self.log.append(f"skip {_name(test)}: {reason}")


def _name(test: Any) -> str:
    return str(test.id()).rpartition(".")[2]


def run(cls: type[unittest.TestCase], *, jobs: int = 4, failfast: bool = False) -> Log:
    result = Noting()
    result.failfast = failfast
    ConcurrentSuite(unittest.defaultTestLoader.loadTestsFromTestCase(cls), jobs=jobs).run(result)
    return result.log


class TestConcurrentSuite(unittest.TestCase):
    def test_results_arrive_whole_and_in_order_whatever_ends_first(self) -> None:
        class Case(unittest.IsolatedAsyncioTestCase):
            second = threading.Event()

            async def test_1_waits_for_the_second(self) -> None:
                self.assertTrue(self.second.wait(60))

            async def test_2(self) -> None:
                self.second.set()

            async def test_3_fails(self) -> None:
                self.fail("no")

            async def test_4_errs(self) -> None:
                raise ValueError("oh")

            async def test_5_skips(self) -> None:
                self.skipTest("why")

        self.assertEqual(
            run(Case),
            [
                *("start test_1_waits_for_the_second", "success test_1_waits_for_the_second", "stop test_1_waits_for_the_second"),
                *("start test_2", "success test_2", "stop test_2"),
                *("start test_3_fails", "failure test_3_fails: no", "stop test_3_fails"),
                *("start test_4_errs", "error test_4_errs: oh", "stop test_4_errs"),
                *("start test_5_skips", "skip test_5_skips: why", "stop test_5_skips"),
            ],
        )

    def test_expected_failures_and_failing_subtests_are_not_lost(self) -> None:
        class Case(unittest.TestCase):
            @unittest.expectedFailure
            def test_expected(self) -> None:
                self.fail()

            @unittest.expectedFailure
            def test_unexpected(self) -> None: ...

            def test_parts(self) -> None:
                for number in range(3):
                    with self.subTest(number=number):
                        self.assertNotEqual(number, 1)

        result = unittest.TestResult()
        ConcurrentSuite(unittest.defaultTestLoader.loadTestsFromTestCase(Case)).run(result)
        self.assertEqual((len(result.expectedFailures), len(result.unexpectedSuccesses), len(result.failures)), (1, 1, 1))
        self.assertFalse(result.wasSuccessful())

    def test_an_exclusive_rule_runs_alone_after_the_others_and_is_told_in_order(self) -> None:
        running: set[str] = set()
        seen: list[tuple[str, int]] = []

        class Case(unittest.TestCase):
            def _note(self) -> None:
                running.add(self.id())
                time.sleep(0.01)
                seen.append((_name(self), len(running)))
                running.remove(self.id())

            def test_1(self) -> None:
                self._note()

            def test_2_alone(self) -> None:
                self._note()

            def test_3(self) -> None:
                self._note()

            test_2_alone.rule = mock.Mock(exclusive=True)  # type: ignore[attr-defined]

        log = run(Case)
        self.assertEqual(seen[-1], ("test_2_alone", 1))
        self.assertEqual(
            [each for each in log if each.startswith("start")], ["start test_1", "start test_2_alone", "start test_3"]
        )

    def test_fixtures_run_once_around_the_tests(self) -> None:
        order: Log = []

        class Case(unittest.TestCase):
            @classmethod
            def setUpClass(cls) -> None:
                order.append("set up")
                cls.addClassCleanup(order.append, "clean up")

            @classmethod
            def tearDownClass(cls) -> None:
                order.append("tear down")

            def test_1(self) -> None:
                order.append("test")

            test_2 = test_1

        module: Any = sys.modules[Case.__module__]
        fixtures: dict[str, Any] = {each: functools.partial(order.append, each) for each in ("setUpModule", "tearDownModule")}
        with mock.patch.multiple(module, None, True, **fixtures):
            run(Case)
        self.assertEqual(order, ["setUpModule", "set up", "test", "test", "tear down", "clean up", "tearDownModule"])

    def test_failing_fixtures_are_told_as_unittest_tells_them(self) -> None:
        class Case(unittest.TestCase):
            trouble: ClassVar[BaseException]

            @classmethod
            def setUpClass(cls) -> None:
                cls.addClassCleanup(cls._clean)
                raise cls.trouble

            @classmethod
            def _clean(cls) -> None:
                raise KeyError("cleanup")

            def test_1(self) -> None: ...

        for trouble in (ValueError("no server"), unittest.SkipTest("not here")):
            with self.subTest(trouble):
                Case.trouble = trouble
                plain, concurrent = Noting(), Noting()
                unittest.TestSuite([Case("test_1")]).run(plain)
                ConcurrentSuite([Case("test_1")]).run(concurrent)
                self.assertEqual(concurrent.log, plain.log)
                self.assertEqual([str(test) for test, _ in concurrent.errors], [str(test) for test, _ in plain.errors])

    def test_a_failing_module_fixture_keeps_the_tests_from_running(self) -> None:
        class Case(unittest.TestCase):
            def test_1(self) -> None: ...

        def fail() -> None:
            raise ValueError("no module")

        result = Noting()
        with mock.patch.object(sys.modules[Case.__module__], "setUpModule", fail, create=True):
            ConcurrentSuite([Case("test_1")]).run(result)
        self.assertEqual([str(test) for test, _ in result.errors], [f"setUpModule ({Case.__module__})"])
        self.assertEqual(result.testsRun, 0)

    def test_failfast_stops(self) -> None:
        class Case(unittest.TestCase):
            def test_1_fails(self) -> None:
                self.fail("no")

            def test_2(self) -> None: ...

        self.assertEqual(run(Case, failfast=True), ["start test_1_fails", "failure test_1_fails: no", "stop test_1_fails"])

    def test_an_interrupt_reaches_the_caller(self) -> None:
        class Case(unittest.TestCase):
            def test_1(self) -> None:
                raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt):
            run(Case)

    def test_threads_have_the_context_variables_of_the_caller_each_its_own_copy(self) -> None:
        variable = contextvars.ContextVar("variable", default="")
        seen: list[str] = []

        class Case(unittest.TestCase):
            def test_1(self) -> None:
                seen.append(variable.get())
                variable.set("a test's")

            test_2 = test_3 = test_1

        variable.set("the caller's")
        self.assertEqual(len([each for each in run(Case, jobs=3) if each.startswith("success")]), 3)
        self.assertEqual(seen[0], "the caller's")
        self.assertEqual(variable.get(), "the caller's")

    def test_fewer_threads_do_as_well(self) -> None:
        class Case(unittest.TestCase):
            def test_1(self) -> None: ...

            test_2 = test_3 = test_1

        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if thread.name in refused:
                raise RuntimeError("can't start new thread")
            start(thread)

        with mock.patch.object(threading.Thread, "start", refuse):
            refused = {"omnitck-1", "omnitck-2"}
            self.assertEqual(len([each for each in run(Case) if each.startswith("success")]), 3)
            refused = {"omnitck-0"}
            with self.assertRaisesRegex(RuntimeError, "can't start new thread"):
                run(Case)

    def test_a_result_need_not_want_durations(self) -> None:
        """Python 3.12 tells them, and warns of a result that cannot be told."""

        class Old:
            shouldStop = failfast = False  # noqa: N815

            def __init__(self) -> None:
                self.log: Log = []

            def startTest(self, test: Any) -> None:  # noqa: N802
                self.log.append("start")

            def addSuccess(self, test: Any) -> None:  # noqa: N802
                self.log.append("success")

            def stopTest(self, test: Any) -> None:  # noqa: N802
                self.log.append("stop")

        class Case(unittest.TestCase):
            def test_1(self) -> None: ...

        class New(Old):
            def addDuration(self, test: Any, elapsed: float) -> None:  # noqa: N802
                self.log.append("duration")

        record = _Record(cast("unittest.TestResult", old := Old()))
        record.addDuration(Case("test_1"), 0.1)
        Case("test_1").run(cast("unittest.TestResult", record))
        for call in record.calls:
            call()
        self.assertEqual(old.log, ["start", "success", "stop"])
        record = _Record(cast("unittest.TestResult", new := New()))
        record.addDuration(Case("test_1"), 0.1)
        for call in record.calls:
            call()
        self.assertEqual(new.log, ["duration"])

    def test_waits_overlap(self) -> None:
        barrier = threading.Barrier(8, timeout=60)

        class Case(unittest.IsolatedAsyncioTestCase):
            async def test_1(self) -> None:
                barrier.wait()

        for number in range(2, 9):
            setattr(Case, f"test_{number}", Case.test_1)
        self.assertEqual(len([each for each in run(Case, jobs=8) if each.startswith("success")]), 8)

"""The examples' servers, as far as none has to run, and the finding of their suites."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from examples import __main__ as command
from examples import servers
from examples.servers import processes, programs
from omnitck.kit.contract import plan_of

LISTENS = """
import socket, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("serving", flush=True)
time.sleep(60)
"""


class TestServer(unittest.TestCase):
    def test_its_address_is_that_of_the_url_or_the_schemes_own_port(self) -> None:
        for url, address in {
            "redis://:secret@127.0.0.1:7000/0": ("127.0.0.1", 7000),
            "memcached://cache": ("cache", 11211),
            "mongodb://db/?directConnection=true": ("db", 27017),
            "https://key:secret@s3.example": ("s3.example", 443),
            "http://[::1]:9000": ("::1", 9000),
        }.items():
            self.assertEqual(servers.Server(url).address, address, url)

    def test_its_credentials_are_what_must_stay_secret_as_the_client_sends_it(self) -> None:
        self.assertEqual(servers.Server("http://key:a%2Fb+c@host").credentials, ("a/b+c",))
        self.assertEqual(servers.Server("http://:token@host").credentials, ("token",))
        self.assertEqual(servers.Server("memcached://host").credentials, ())

    def test_its_repr_has_none_of_them(self) -> None:
        self.assertNotIn("secret", repr(servers.Server("http://key:secret@host")))

    def test_seen_through_a_proxy_only_host_and_port_change(self) -> None:
        server = servers.Server("mongodb://u:p%40@host:1/db?directConnection=true")
        self.assertEqual(server.at(None), server.url)
        self.assertEqual(server.at(("127.0.0.1", 2)), "mongodb://u:p%40@127.0.0.1:2/db?directConnection=true")
        self.assertEqual(servers.Server("http://host").at(("::1", 2)), "http://[::1]:2")

    def test_a_url_is_split_for_clients_that_take_endpoint_and_credentials_apart(self) -> None:
        self.assertEqual(servers.split_url("http://KEY:a%2Fb@host:1/x?y=z"), ("http://host:1/x?y=z", "KEY", "a/b"))
        self.assertEqual(servers.split_url("http://:token@[::1]:1"), ("http://[::1]:1", "", "token"))
        self.assertEqual(servers.split_url("http://host"), ("http://host", "", ""))


VARIABLES = {
    servers.valkey: "OMNITCK_REDIS_URL",
    servers.postgresql: "OMNITCK_POSTGRES_URL",
    servers.nats: "OMNITCK_NATS_URL",
    servers.rabbitmq: "OMNITCK_RABBITMQ_URL",
    servers.kafka: "OMNITCK_KAFKA_URL",
    servers.moto: "OMNITCK_AWS_URL",
    servers.strict_moto: "OMNITCK_AWS_URL",
    servers.seaweedfs: "OMNITCK_S3_URL",
    servers.memcached: "OMNITCK_MEMCACHED_URL",
    servers.openbao: "OMNITCK_VAULT_URL",
    servers.secantusdb: "OMNITCK_MONGODB_URL",
    servers.etcd: "OMNITCK_ETCD_URL",
}


class TestStarting(unittest.TestCase):
    def setUp(self) -> None:
        self.enterContext(mock.patch.dict(programs._started, clear=True))
        kept = {
            name: value for name, value in os.environ.items() if name not in {*VARIABLES.values(), "OMNITCK_REQUIRE_BACKENDS"}
        }
        self.enterContext(mock.patch.dict(os.environ, kept, clear=True))

    def test_the_callers_own_server_is_taken_as_it_is(self) -> None:
        for start, variable in VARIABLES.items():
            with mock.patch.dict(os.environ, {variable: f"scheme://{variable}"}):
                self.assertEqual(start().url, f"scheme://{variable}")
                self.assertEqual(programs.running(start), start())

    def test_what_is_missing_says_how_to_get_it(self) -> None:
        self.enterContext(mock.patch("shutil.which", return_value=None))
        self.enterContext(mock.patch("importlib.util.find_spec", return_value=None))
        self.enterContext(mock.patch("importlib.metadata.files", side_effect=PackageNotFoundError))
        for start, variable in VARIABLES.items():
            hint = 'pip install "omnitck[examples]"'
            if start is servers.memcached:
                hint = "apt-get install memcached (or your system's package)"
            if start is servers.etcd:
                hint = "apt-get install etcd-server (or your system's package)"
            if start is servers.rabbitmq:
                hint = "apt-get install rabbitmq-server (or your system's package)"
            if start is servers.secantusdb:
                hint = 'pip install "omnitck[secantusdb]"'
            with self.assertRaises(servers.Missing) as caught:
                start()
            self.assertIn(hint, str(caught.exception))
            self.assertTrue(str(caught.exception).endswith(f", or set {variable}"), caught.exception)

            with self.assertRaises(unittest.SkipTest) as skip:
                servers.require(start)
            self.assertEqual(str(skip.exception), str(caught.exception))

    def test_in_ci_what_is_missing_is_a_failure(self) -> None:
        self.enterContext(mock.patch("shutil.which", return_value=None))
        with mock.patch.dict(os.environ, OMNITCK_REQUIRE_BACKENDS="1"), self.assertRaises(servers.Missing):
            servers.require(servers.memcached)

    def test_a_client_that_is_not_installed_names_the_extra_that_brings_it(self) -> None:
        for arguments, extra in (((), "examples"), (("secantusdb",), "secantusdb")):
            with self.assertRaises(unittest.SkipTest) as skip, servers.installed(*arguments):
                import_module("no_such_client")
            self.assertEqual(str(skip.exception), f'no_such_client is not installed: pip install "omnitck[{extra}]"')


class TestLaunch(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(mock.patch.object(tempfile, "tempdir", str(self.folder)))
        self.processes: list[processes.Process] = []

    def tearDown(self) -> None:
        for each in self.processes:
            each.stop()

    def start(self, script: str, **options: Any) -> tuple[int, ...]:
        def run(process: processes.Process, *ports: int) -> list[str]:
            self.processes.append(process)
            return [sys.executable, "-c", script, *map(str, ports)]

        return processes.launch("Fake", run, processes.logged("serving"), **options)

    def test_a_port_that_was_taken_meanwhile_is_replaced_by_another(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            used, [free] = taken.getsockname()[1], processes.free_ports(1)
            with mock.patch.object(processes, "free_ports", side_effect=[[used], [used], [free]]):
                self.assertEqual(self.start(LISTENS), (free,))
        self.assertEqual([each.folder.exists() for each in self.processes], [False, False, True])

    def test_after_three_such_ports_it_fails_and_keeps_the_last_log(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            with mock.patch.object(processes, "free_ports", return_value=[taken.getsockname()[1]]):
                with self.assertRaisesRegex(RuntimeError, "(?s)Fake ended at once with status 1.*[Aa]ddress already in use"):
                    self.start(LISTENS)
        self.assertEqual([each.folder.exists() for each in self.processes], [False, False, True])

    def test_another_failure_is_not_tried_again(self) -> None:
        with self.assertRaisesRegex(RuntimeError, "(?s)Fake ended at once with status 3; the log is .*:\nno such option"):
            self.start("import sys; print('no such option', flush=True); sys.exit(3)")
        self.assertEqual(len(self.processes), 1)

    def test_an_open_port_is_not_enough(self) -> None:
        with mock.patch.object(processes, "STARTING", 0.5), self.assertRaisesRegex(RuntimeError, "Fake was not ready within"):
            self.start(LISTENS.replace("serving", "starting"))

    def test_it_leaves_nothing_behind(self) -> None:
        litter = self.folder / "socket"
        self.start(LISTENS, litter=lambda port: [litter])
        litter.touch()
        self.processes[0].stop()
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_one_that_ignores_the_signal_is_killed(self) -> None:
        self.start("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)" + LISTENS)
        with mock.patch.object(processes, "ENDING", 0.1):
            self.processes[0].stop()
        self.assertFalse(alive(self.processes[0].pid))

    def test_a_kill_of_its_owner_ends_it_and_removes_what_it_wrote(self) -> None:
        self.check_kill_of_owner()

    def test_a_kill_of_its_owner_ends_one_that_ignores_the_signal(self) -> None:
        """As whatever a shell starts in the background does."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.check_kill_of_owner()
        finally:
            signal.signal(signal.SIGINT, before)

    def test_a_kill_of_its_owner_while_that_waits_for_its_end(self) -> None:
        self.check_kill_of_owner("started[0].halt = kill; started[0].stop()")

    def check_kill_of_owner(self, how: str = "kill()") -> None:
        litter = self.folder / "socket"
        owner = f"""
import os, pathlib, signal, sys
from examples.servers import processes
started = []
def command(process, port):
    started.append(process)
    return [sys.executable, "-c", {LISTENS!r}, str(port)]
processes.launch("Fake", command, processes.logged("serving"), litter=lambda port: [pathlib.Path({str(litter)!r})])
pathlib.Path({str(litter)!r}).touch()
print(started[0].pid, flush=True)
def kill():
    os.kill(os.getpid(), signal.SIGKILL)
{how}
"""
        environment = {**os.environ, "TMPDIR": str(self.folder)}
        root = Path(servers.__file__).parents[2]
        done = subprocess.run([sys.executable, "-c", owner], cwd=root, env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, -signal.SIGKILL, done.stderr)
        # The watchdog removes what was written right after it has sent the signal, which takes its time on a busy machine.
        end = time.monotonic() + 15
        while time.monotonic() < end and (any(self.folder.iterdir()) or alive(int(done.stdout))):
            time.sleep(0.05)
        self.assertEqual(list(self.folder.iterdir()), [])
        self.assertFalse(alive(int(done.stdout)))

    def test_free_ports_are_different_ones(self) -> None:
        self.assertEqual(len(set(processes.free_ports(50))), 50)


class TestDiscovery(unittest.TestCase):
    def test_every_module_of_tests_below_a_backends_folder_is_found(self) -> None:
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for path in ("b/test_cache.py", "b/cache.py", "a/test_kv_store.py", "a/test_cache.py", "test_nothing.py"):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).touch()
        found = command.discover(folder)
        self.assertEqual(
            [each.name for each in found], [f"examples.{each}" for each in ("a.test_cache", "a.test_kv_store", "b.test_cache")]
        )

    def test_the_examples_own_are_among_them_and_say_their_contract(self) -> None:
        found = command.discover(Path(command.__file__).parent)
        self.assertIn(command.Module("valkey", "kv_store"), found)
        for each in found:
            with contextlib.suppress(unittest.SkipTest, ImportError):
                suites = command.suites_of(import_module(each.name))
                self.assertEqual({plan_of(suite).definition.name for suite in suites}, {each.contract}, each.name)

    def test_names_select_backends_and_contracts(self) -> None:
        a, b, c = command.Module("a", "cache"), command.Module("a", "kv_store"), command.Module("b", "cache")
        for names, wanted in {"": [a, b, c], "a": [a, b], "cache": [a, c], "a cache": [a], "a b kv_store": [b]}.items():
            self.assertEqual(command.select([a, b, c], names.split()), wanted, names)

    def test_a_suite_that_a_module_imports_is_not_its_own(self) -> None:
        module: Any = ModuleType("elsewhere")
        module.suite = command.suites_of(import_module("examples.sqlite.test_kv_store"))[0]
        self.assertEqual(command.suites_of(module), [])

    def test_the_exit_status_is_that_of_the_worst(self) -> None:
        def result(verdict: str) -> Any:
            outcomes = {} if verdict.startswith(("skipped", "failed")) else {"X-01": "passed"}
            return command.Result(command.Module("a", "cache"), "a", verdict, outcomes)

        for verdicts, status in {
            ("conformant", "skipped: it is not there"): 0,
            ("conformant, without ttl", "deviates, as known"): 0,
            ("conformant", "inconclusive"): 1,
            ("conformant", "not conformant"): 1,
            ("conformant", "failed: it is not there"): 1,
            ("skipped: it is not there",): 5,
        }.items():
            self.assertEqual(command.exit_status([result(each) for each in verdicts]), status, verdicts)


def alive(pid: int) -> bool:
    """Whether the process runs; one that is dead and not fetched yet does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")

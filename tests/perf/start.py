"""From the command to the first step: `ray job submit` to a warm cluster, beside a training in its own process.

    python tests/perf/start.py [--runs 3] [--cpus 2] [--json FILE] [overrides…]

Both train the default recipe on prepared data; the first step is over when its row is in history.csv, and then the
training is stopped. The job comes with this folder (--working-dir), is tracked in MLflow (sqlite) and runs one worker;
the bare start has neither Ray nor MLflow. A job that did the same before has warmed the cluster and the disk. CPU
seconds are those of all processes that had a part in it, the cluster's own included; other work on the machine changes
them less than the clock. A second table says when the job's output had got how far.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from detcore.config import load
from detcore.launch.training import ensure_shards

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPE = [
    *("data.source.train=64", "data.source.val=4", "data.source.test=4", "engine.steps=1000", "engine.batch_size=4"),
    *("engine.log_every=1", "engine.eval_every=null", "engine.checkpoint_every=2000", "cluster.cpus_per_worker=1"),
]
BAR_SECONDS = 45.0
PATIENCE_SECONDS = 300.0
MARKS = {
    "submitted successfully": "the folder is packed and uploaded",
    "Running entrypoint": "unpacked, and the driver's process begins",
    "starting 1 worker": "the driver has its imports, the cluster and an MLflow run",
    "training on": "Ray has its controller and worker, and that its imports",
}
PORTS = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port", "metrics-export-port")
RAY = str(Path(sys.executable).with_name("ray"))


def cpu_seconds(root: psutil.Process | None) -> dict[tuple[int, float], float]:
    """Of it and all its children, by process, which its number and its time of birth tell apart."""
    found = {}
    for process in [] if root is None else [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
            found[process.pid, process.create_time()] = times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return found


@contextmanager
def cluster(cpus: int, environment: dict[str, str]) -> Iterator[tuple[str, psutil.Process]]:
    """A head on the loopback; its dashboard's address and its process."""
    sessions = tempfile.mkdtemp(prefix="ray")
    ports = free_ports(len(PORTS))
    command = [RAY, "start", "--head", "--block", f"--num-cpus={cpus}", "--node-ip-address=127.0.0.1"]
    command += ["--dashboard-host=127.0.0.1", f"--temp-dir={sessions}", "--disable-usage-stats"]
    command += [f"--{name}={port}" for name, port in zip(PORTS, ports, strict=True)]
    head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{ports[1]}", psutil.Process(head.pid)
    finally:
        head.terminate()
        head.wait(timeout=120)
        shutil.rmtree(sessions, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@dataclass(frozen=True)
class Start:
    """What the way to the first step took.

    Attributes:
        seconds: by the clock.
        cpu_seconds: of all processes.
        marks: when a line of the output came first that has the word in it, in seconds from the command.
    """

    seconds: float
    cpu_seconds: float
    marks: dict[str, float]


def start(
    command: list[str],
    run: Path,
    *,
    environment: dict[str, str],
    head: psutil.Process | None,
    stop: Callable[[], object],
) -> Start:
    """Starts a training, and stops it after its first step."""
    begun, marks, said = time.perf_counter(), dict[str, float](), list[str]()
    before, latest = cpu_seconds(head), dict[tuple[int, float], float]()
    process = psutil.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def listen() -> None:
        for line in process.stdout:
            said.append(line)
            for mark in MARKS:
                if mark in line:
                    marks.setdefault(mark, time.perf_counter() - begun)

    threading.Thread(target=listen, daemon=True).start()
    history = run / "history.csv"
    try:
        while not (history.is_file() and len(history.read_text().splitlines()) > 1):
            latest |= cpu_seconds(head) | cpu_seconds(process)
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command)} failed:\n{''.join(said)[-4000:]}")
            time.sleep(0.2)
        seconds = time.perf_counter() - begun
        stop()
    finally:
        process.kill()
        process.wait()
    return Start(seconds, sum(value - before.get(key, 0.0) for key, value in latest.items()), marks)


class Measurement:
    """Both ways on one warm cluster.

    Args:
        folder: for all that is written.
        overrides: of both trainings.
        address: of the cluster's dashboard.
        head: its process, of which all others are children.
    """

    def __init__(
        self, folder: Path, overrides: list[str], environment: dict[str, str], address: str, head: psutil.Process
    ) -> None:
        self.folder, self.overrides, self.environment, self.head = folder, overrides, environment, head
        self.address = ["--address", address]

    def wait(self) -> None:
        """Until the cluster takes jobs."""
        patient_until = time.monotonic() + PATIENCE_SECONDS
        while (tried := self._ray("submit", *self.address, "--", "true")).returncode:
            if time.monotonic() > patient_until or not self.head.is_running():
                raise SystemExit(f"the cluster takes no job:\n{(tried.stdout + tried.stderr).decode()[-2000:]}")
            time.sleep(1)

    def bare(self) -> Start:
        run = Path(tempfile.mkdtemp(prefix="bare", dir=self.folder))
        command = [sys.executable, f"{REPOSITORY}/pipelines/train.py", *self.overrides, f"run_dir={run}"]
        command += ["cluster=local", "tracking.enabled=false"]
        environment = {**self.environment, "PYTHONPATH": str(REPOSITORY)}
        return start(command, run, environment=environment, head=None, stop=lambda: None)

    def job(self) -> Start:
        run = Path(tempfile.mkdtemp(prefix="job", dir=self.folder))
        command = [RAY, "job", "submit", *self.address, "--submission-id", run.name]
        command += ["--working-dir", str(REPOSITORY), "--"]
        command += ["python", "pipelines/train.py", *self.overrides, f"run_dir={run}"]
        command += [f"tracking.uri=sqlite:///{self.folder}/mlflow.db"]
        return start(command, run, environment=self.environment, head=self.head, stop=partial(self._stop, run.name))

    def _stop(self, name: str) -> None:
        self._ray("stop", *self.address, name).check_returncode()

    def _ray(self, verb: str, *words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([RAY, "job", verb, *words], env=self.environment, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table's rows to FILE")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    found: list[tuple[Start, Start]] = []
    with tempfile.TemporaryDirectory(prefix="start") as name:
        overrides = [*RECIPE, f"data.shards={name}/shards", "engine.device=cpu", *arguments.overrides]
        ensure_shards(load(overrides))
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": name,  # Ray keeps its token there
            "DETCORE_CACHE": os.environ.get("DETCORE_CACHE") or str(Path.home() / ".cache" / "detcore"),
            "RAY_AUTH_MODE": "token",
            "PYTHONUNBUFFERED": "1",  # what the client says is timed
            "RAY_raylet_start_wait_time_s": "180",  # its parts otherwise give each other up where machines are busy
            "RAY_agent_register_timeout_ms": "600000",
        }
        environment.pop("PYTHONPATH", None)  # the job has what was submitted
        subprocess.run([RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
        with cluster(arguments.cpus, environment) as (address, head):
            measurement = Measurement(Path(name), overrides, environment, address, head)
            measurement.wait()
            for number in range(arguments.runs + 1):
                both = measurement.bare(), measurement.job()
                for way, each in zip(("bare", "job"), both, strict=True):
                    print(f"{way:<5}{each.seconds:>6.1f} s, {each.cpu_seconds:.1f} s of CPU", flush=True)
                if number:  # the first only warms up
                    found.append(both)
    rows = table(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def table(found: list[tuple[Start, Start]]) -> list[dict[str, object]]:
    """Prints medians and returns them as rows."""
    rows: list[dict[str, object]] = []
    print(f"\n{'case':<34}{'unit':<5}{'ours':>8}{'bare':>8}{'over':>8}")
    for what, case, bar in (
        ("seconds", "first step of a job", BAR_SECONDS),
        ("cpu_seconds", "CPU of all processes until then", None),
    ):
        theirs, ours = (statistics.median(getattr(each, what) for each in runs) for runs in zip(*found, strict=True))
        met = None if bar is None else ours - theirs <= bar
        rows.append(
            {"case": case, "unit": "s", "ours": ours, "theirs": theirs, "ratio": theirs / ours, "bar": bar, "met": met}
        )
        print(f"{case:<34}{'s':<5}{ours:>8.1f}{theirs:>8.1f}{ours - theirs:>8.1f}")
    print("\nwhat the job had done by when, seconds from the command")
    for mark, meaning in MARKS.items():
        print(f"{meaning:<70}{statistics.median(job.marks.get(mark, float('nan')) for _, job in found):>6.1f}")
    return rows


if __name__ == "__main__":
    main()

"""From the command to the first step: `ray job submit` to a warm cluster, beside a training in its own process.

    python tests/perf/start.py [--runs 3] [--cpus 2] [--json FILE] [overrides…]

Both train the default recipe on prepared data; the first step is over when its row is in history.csv. The job is
tracked in MLflow (sqlite) and runs one worker; the bare start has neither Ray nor MLflow. A job that did the same
before has warmed the cluster and the disk. CPU seconds are those of all processes that had a part in it, the cluster's
own included; other work on the machine does not change them as it does the clock.
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
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from detcore.config import load
from detcore.launch.training import ensure_shards

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPE = [
    *("data.source.train=64", "data.source.val=4", "data.source.test=4", "engine.steps=2", "engine.batch_size=4"),
    *("engine.log_every=1", "engine.eval_every=null", "engine.checkpoint_every=1000", "cluster.cpus_per_worker=1"),
]
BAR_SECONDS = 45.0
PORTS = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port", "metrics-export-port")
RAY = str(Path(sys.executable).with_name("ray"))


def cpu_seconds(roots: list[psutil.Process]) -> dict[tuple[int, float], float]:
    """By process, which its number and its time of birth tell apart."""
    found = {}
    for root in roots:
        for process in (root, *root.children(recursive=True)):
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


def seconds_to_first_step(
    command: list[str], run: Path, *, environment: dict[str, str], head: psutil.Process | None
) -> tuple[float, float]:
    """Wall clock and CPU seconds from the command to the end of its first step. Waits for the command's end, too."""
    roots = [] if head is None else [head]
    before, latest, begun = cpu_seconds(roots), {}, time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, cwd=run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    roots.append(psutil.Process(process.pid))
    history = run / "history.csv"
    while not (history.is_file() and len(history.read_text().splitlines()) > 1):
        latest |= cpu_seconds(roots)
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(command)} failed:\n{process.communicate()[0][-4000:]}")
        time.sleep(0.1)
    seconds = time.perf_counter() - begun
    process.communicate()
    return seconds, sum(value - before.get(key, 0.0) for key, value in latest.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table's rows to FILE")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {"bare": [], "job": []}
    with tempfile.TemporaryDirectory(prefix="start") as name:
        folder = Path(name)
        overrides = [*RECIPE, f"data.shards={folder}/shards", "engine.device=cpu", *arguments.overrides]
        ensure_shards(load(overrides))
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(REPOSITORY),
            "HOME": name,  # Ray keeps its token there
        }
        subprocess.run([RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
        with cluster(arguments.cpus, environment) as (address, head):
            submit = [RAY, "job", "submit", "--address", address, "--", "python"]
            while subprocess.run([*submit, "-c", "0"], env=environment, capture_output=True).returncode:
                time.sleep(1)
            for number in range(arguments.runs + 1):
                for way in found:
                    run = Path(tempfile.mkdtemp(prefix=way, dir=folder))
                    script = [str(REPOSITORY / "pipelines" / "train.py"), *overrides, f"run_dir={run}"]
                    if way == "bare":
                        command = [sys.executable, *script, "cluster=local", "tracking.enabled=false"]
                    else:
                        command = [*submit, *script, f"tracking.uri=sqlite:///{folder}/mlflow.db"]
                    both = seconds_to_first_step(
                        command, run, environment=environment, head=head if way == "job" else None
                    )
                    print(f"{way}: {both[0]:.1f} s, {both[1]:.1f} s of CPU", flush=True)
                    if number:  # the first only warms up
                        found[way].append(both)
    medians = {way: [statistics.median(values) for values in zip(*runs, strict=True)] for way, runs in found.items()}
    rows = []
    print(f"{'case':<34}{'unit':<5}{'ours':>8}{'bare':>8}{'over':>8}")
    for index, what in enumerate(("first step of a job", "CPU of all processes until then")):
        ours, theirs = medians["job"][index], medians["bare"][index]
        bar = None if index else BAR_SECONDS
        met = bar and ours - theirs <= bar
        rows.append(
            {"case": what, "unit": "s", "ours": ours, "theirs": theirs, "ratio": theirs / ours, "bar": bar, "met": met}
        )
        print(f"{what:<34}{'s':<5}{ours:>8.1f}{theirs:>8.1f}{ours - theirs:>8.1f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

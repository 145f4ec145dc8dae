"""infra/slurm/train.sbatch with stand-ins for the commands that it calls, which write down what they were told."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

_STEP = 'trap "echo step ended >> $LOG; exit 0" TERM; while sleep 0.1; do :; done'
STAND_INS = {
    "scontrol": 'case $1 in show) printf "n1\\nn2\\nn3\\n" ;; requeue) echo "requeue $2" >> $LOG ;; esac',
    "srun": f'echo "srun $* token=${{#RAY_AUTH_TOKEN}}" >> $LOG; {_STEP}',
    "ray": 'test "$1" = health-check && test -z "${DEAD:-}"',
    "python": "echo 10.0.0.1",
    "detcore": 'echo "detcore $*" >> $LOG; eval "$TRAINING"',
}


@pytest.fixture
def job(repository: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts the script as Slurm does on the first of three nodes with two GPUs each."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, body in STAND_INS.items():
        (commands / name).write_text(f"#!/bin/bash\n{body}\n")
        (commands / name).chmod(0o755)
    slurm = {
        "SLURM_JOB_ID": "12345",
        "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_CPUS_ON_NODE": "16",
        "SLURM_GPUS_ON_NODE": "2",
    }

    def start(training: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", repository / "infra" / "slurm" / "train.sbatch", "run_dir=/shared/a b", "optim.lr=0.1"],
            env={"PATH": f"{commands}:{os.environ['PATH']}", "LOG": str(tmp_path / "log"), "TRAINING": training}
            | slurm
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def log(folder: Path, *, until: str, seconds: float = 30) -> list[str]:
    deadline = time.monotonic() + seconds
    while not (folder / "log").is_file() or until not in (folder / "log").read_text():
        assert time.monotonic() < deadline, f"no {until!r} in {seconds} s"
        time.sleep(0.05)
    return (folder / "log").read_text().splitlines()


def test_a_head_then_the_other_nodes_and_a_worker_for_each_gpu(
    job: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    assert ended(job("sleep 1")) == (0, "")
    said = log(tmp_path, until="step ended")
    [head, others] = sorted((line for line in said if line.startswith("srun")), key=lambda line: "--head" not in line)
    assert "--nodes=1 --ntasks=1 --cpus-per-task=16 --nodelist=n1 ray start --head --block" in head
    assert "--node-ip-address=10.0.0.1 --port=22345" in head
    assert "--nodes=2 --ntasks=2 --cpus-per-task=16 --exclude=n1 ray start --address=10.0.0.1:22345 --block" in others
    assert head.endswith("token=64") and others.endswith("token=64")
    [training] = [line for line in said if line.startswith("detcore")]
    assert training == (
        "detcore train cluster.address=10.0.0.1:22345 cluster.num_workers=6 run_dir=/shared/a b optim.lr=0.1"
    )
    assert not any(line.startswith("requeue") for line in said)


def test_a_notice_reaches_the_training_and_the_job_goes_on_later(
    job: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    checkpoint = (
        'trap "sleep 1; echo checkpoint >> $LOG; exit 143" TERM; echo ready >> $LOG; while sleep 0.1; do :; done'
    )
    process = job(checkpoint)
    log(tmp_path, until="ready")
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "")
    said = log(tmp_path, until="step ended")
    assert said.index("checkpoint") < said.index("requeue 12345")


def test_a_training_that_failed_is_not_queued_anew(job: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    assert ended(job("exit 3"))[0] == 3
    assert not any(line.startswith("requeue") for line in log(tmp_path, until="step ended"))


def test_a_training_that_ends_well_at_the_notice_is_not_queued_anew(
    job: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = job('trap "exit 0" TERM; echo ready >> $LOG; while sleep 0.1; do :; done')
    log(tmp_path, until="ready")
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 0
    assert not any(line.startswith("requeue") for line in log(tmp_path, until="step ended"))


def test_a_head_that_does_not_start_is_one_line(job: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    (tmp_path / "bin" / "srun").write_text("#!/bin/bash\nexit 1\n")
    status, errors = ended(job("exit 0", DEAD="yes"))
    assert status == 1
    assert errors == "no Ray cluster has started on n1: its messages are above\n"

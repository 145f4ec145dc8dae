"""A search whose driver is killed: the same command goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from skilled_detector import skilled_search
from tiny_training import write_shards

from detcore.config.variation import read_overrides
from detcore.launch.tuning.record import read_trials
from detcore.tracking import RunHandle
from detcore.tracking.client import connect

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

SPACE = {"optim.lr": {"type": "grid", "values": [0.02, 0.2, 0.01]}}
DRIVER = """
import sys
from pathlib import Path
from skilled_detector import SkilledDetector, skilled_search
from detcore.launch.tuning import tune

space = {"optim.lr": {"type": "grid", "values": [0.02, 0.2, 0.01]}}
config = skilled_search(Path(sys.argv[1]), Path(sys.argv[2]), tune={"space": space, "max_concurrent_trials": 1})
tune(config, model=SkilledDetector(seconds=0.5))
"""


def driver(repository: Path, run_dir: Path, shards: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{repository}:{repository / 'tests'}"}
    command = [sys.executable, "-c", DRIVER, str(run_dir), str(shards)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_killed_and_gone_on_with(repository: Path, tmp_path: Path) -> None:
    run_dir, shards = tmp_path / "run", write_shards(tmp_path / "shards")
    sweep = run_dir / "tune"
    reached = sweep / "trials" / "0001" / "checkpoints" / "step-00000003" / "manifest.json"
    first = driver(repository, run_dir, shards)
    until = time.monotonic() + 400
    while not reached.is_file():
        assert first.poll() is None, first.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = read_trials(sweep)
    assert [record.outcome for record in before.values()] == ["finished", None, None]
    assert not (run_dir / "best_overrides.yaml").exists()
    history = (before[0].folder / "history.csv").stat().st_mtime_ns

    second = driver(repository, run_dir, shards)
    said, _ = second.communicate(timeout=400)
    assert second.returncode == 0, said
    assert "going on with a search: 1 of 3 trials have ended already" in said
    assert "trial 0: starts" not in said
    after = read_trials(sweep)
    assert [record.outcome for record in after.values()] == ["finished"] * 3
    assert (before[0].folder / "history.csv").stat().st_mtime_ns == history
    assert "resuming at step" in (after[1].folder / "log.txt").read_text()
    assert read_overrides(run_dir / "best_overrides.yaml") == ["optim.lr=0.2"]

    # One run for each trial, the killed one's included, all below the one of the search.
    config = skilled_search(run_dir, shards, tune={"space": SPACE})
    assert config.tracking.uri is not None
    client, parent = connect(config.tracking.uri), RunHandle.load(sweep)
    assert parent is not None
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.run_id]
    assert (len(runs), len(children)) == (4, 3)
    assert {run.info.status for run in runs} == {"FINISHED"}

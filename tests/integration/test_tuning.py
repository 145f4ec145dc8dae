"""Searches under Ray Tune, two trials at a time, on one cluster for all tests here."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from skilled_detector import SkilledDetector, skill_after, skilled_search
from tiny_training import write_shards

from detcore.config import ClusterConfig, Config
from detcore.config.variation import read_overrides
from detcore.engine.checkpoint import CheckpointFolder
from detcore.launch.tuning.record import read_trials
from detcore.launch.tuning.sweep import SweepResult, tune
from detcore.tracking import RunHandle
from detcore.tracking.client import connect

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

LR = "optim.lr"


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    from detcore.launch.ray_cluster import ray_cluster

    with ray_cluster(ClusterConfig(type="ray", num_workers=1, cpus_per_worker=1), trainings=2):
        yield


def searched(config: Config, **of_model: Any) -> SweepResult:
    return tune(config, model=SkilledDetector(**of_model))


def children(config: Config) -> dict[int, Any]:
    """MLflow's runs of the trials, by number."""
    assert config.tracking.uri is not None
    client = connect(config.tracking.uri)
    parent = RunHandle.load(Path(config.run_dir, "tune"))
    assert parent is not None
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    found = client.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{parent.run_id}'")
    return {int(run.data.tags["tune.trial"]): run for run in found}


def test_halving_stops_those_behind_and_finds_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = [0.2, 0.02, 0.01, 0.1]
    config = skilled_search(
        tmp_path / "run",
        write_shards(tmp_path / "shards"),
        # One after the other: whom halving compares with whom is then known.
        tune={"space": {LR: {"type": "grid", "values": rates}}, "scheduler": {"type": "asha"}}
        | {"max_concurrent_trials": 1},
    )
    result = searched(config, seconds=1.0)  # time to be stopped in
    assert (result.trial, result.overrides, result.interrupted) == (0, ["optim.lr=0.2"], False)
    assert read_overrides(result.best_file) == ["optim.lr=0.2"]
    records = read_trials(result.folder)
    assert [records[number].outcome for number in range(4)] == ["finished"] + ["stopped early"] * 3
    # The first rung is engine.eval_every. The model is that of the best evaluation.
    assert records[1].scores(config.engine)[0][0] == 3
    assert load_file(records[0].folder / "model" / "weights.safetensors")["skill"].item() == pytest.approx(
        skill_after(*[0.2] * (result.step or 0))
    )

    runs = children(config)
    assert {number: run.data.tags["tune.outcome"] for number, run in runs.items()} == {
        number: record.outcome for number, record in records.items()
    }
    assert [runs[number].info.status for number in range(4)] == ["FINISHED"] + ["KILLED"] * 3
    assert runs[2].data.params["optim.lr"] == "0.01"
    assert runs[0].data.metrics["val/box_ap"] == pytest.approx(result.value)

    handle = RunHandle.load(result.folder)
    assert handle is not None and handle.run_id is not None
    client = connect(handle.uri)
    parent = client.get_run(handle.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best/box_ap"] == pytest.approx(result.value)
    kept = {file.path for file in client.list_artifacts(handle.run_id, "tune")}
    assert kept == {"tune/best_overrides.yaml", "tune/search.png", "tune/trials.csv"}
    out = capsys.readouterr().out
    assert "trial 1: stopped early" in out
    assert "4 trials: 1 finished, 3 stopped early" in out

    # The same command once more trains nothing, and says the same.
    before = {path: path.stat().st_mtime_ns for path in result.folder.glob("trials/*/history.csv")}
    assert replace(searched(config), value=None) == replace(result, value=None)
    assert before == {path: path.stat().st_mtime_ns for path in result.folder.glob("trials/*/history.csv")}
    assert len(children(config)) == 4


@pytest.mark.slow
def test_a_population_goes_on_from_a_leaders_weights(tmp_path: Path) -> None:
    space = {LR: {"type": "choice", "values": [0.001, 0.2]}}
    config = skilled_search(
        tmp_path / "run",
        write_shards(tmp_path / "shards"),
        tune={"space": space, "num_trials": 2, "seed": seed_with(space, [0.001, 0.2])}
        | {"scheduler": {"type": "pbt", "quantile": 0.5, "resample_probability": 0.0}},
    )
    result = searched(config, seconds=0.3, meet=tmp_path / "meet")
    records = read_trials(result.folder)
    assert [records[number].outcome for number in (0, 1)] == ["finished", "finished"]
    behind = records[0]
    assert behind.takeovers and behind.taken_over == len(behind.takeovers), "it was never replaced"
    # All of its weights at the end follow from the leader's at the takeover, and from the settings it had from there.
    takeover = behind.takeovers[-1]
    assert takeover.donor == 1
    leader = [0.2] * takeover.step
    own = [takeover.values[LR]] * (12 - takeover.step)
    weights = CheckpointFolder(behind.folder / "checkpoints", keep=1, say=print).read(12).weights
    assert weights["skill"].item() == pytest.approx(skill_after(*leader, *own), abs=1e-6)
    assert weights["skill"].item() > 0.7 > 10 * skill_after(*[0.001] * 12)
    assert takeover.values[LR] in (0.001, 0.2)
    assert f"step {takeover.step} of trial 1" in children(config)[0].data.tags["tune.takeovers"]
    # The curves are the leader's up to there.
    steps = [int(row["step"]) for row in behind.evaluations()]
    assert steps == [3, 6, 9, 12]
    shared = [[row["box_ap"] for row in record.evaluations()][: takeover.step // 3] for record in records.values()]
    assert shared[0] == shared[1]


def seed_with(space: dict[str, Any], rates: list[float]) -> int:
    """A seed of the search that draws just these, one for each trial."""
    from detcore.config.tune import TuneConfig
    from detcore.launch.tuning.plan import planned_values

    for seed in range(100):
        drawn = TuneConfig(space=space, num_trials=len(rates), seed=seed)
        if [planned_values(drawn, number)[LR] for number in range(len(rates))] == rates:
            return seed
    raise AssertionError("none of a hundred")


@pytest.mark.slow
def test_trials_of_two_workers_each_train_side_by_side(tmp_path: Path) -> None:
    config = skilled_search(
        tmp_path / "run",
        write_shards(tmp_path / "shards"),
        tune={"space": {LR: {"type": "grid", "values": [0.02, 0.2]}}},
        # On the two CPUs of this cluster.
        cluster={"type": "ray", "num_workers": 2, "cpus_per_worker": 0.4, "max_failures": 3},
    )
    # All four workers wait for each other before their first step.
    result = searched(config, seconds=0.1, meet=tmp_path / "meet", count=4)
    assert len(list((tmp_path / "meet").iterdir())) == 4
    assert (result.trial, result.overrides) == (1, ["optim.lr=0.2"])
    records = read_trials(result.folder)
    for number, rate in enumerate([0.02, 0.2]):
        assert records[number].outcome == "finished"
        assert "starting 2 workers with Ray" in (records[number].folder / "log.txt").read_text()
        weights = CheckpointFolder(records[number].folder / "checkpoints", keep=1, say=print).read(12).weights
        assert weights["skill"].item() == pytest.approx(skill_after(*[rate] * 12), abs=1e-6)
    assert {run.info.status for run in children(config).values()} == {"FINISHED"}


@pytest.mark.slow
def test_optuna_learns_and_a_failed_trial_is_told(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    config = skilled_search(
        tmp_path / "run",
        write_shards(tmp_path / "shards"),
        tune={"space": {LR: {"type": "loguniform", "low": 0.1, "high": 0.3}}, "num_trials": 3}
        | {"search": "optuna", "startup_trials": 2},
        engine__steps=4,
        engine__eval_every=None,
    )
    result = searched(config)
    records = read_trials(result.folder)
    assert [record.outcome for record in records.values()] == ["finished"] * 3
    best = max(records.values(), key=lambda record: record.values[LR])
    assert best.scores(config.engine)[-1][1] == result.value, "the highest rate learns most in four steps"
    assert result.trial is not None
    found = records[result.trial].values[LR]
    assert yaml.safe_load(result.best_file.read_text()) == [f"optim.lr={found!r}"]

    # More trials are wanted: those that there are stay.
    assert config.tune is not None
    more = config.model_copy(update={"tune": config.tune.model_copy(update={"num_trials": 4})})
    (result.folder / "trials" / "0001" / "trial.json").write_text(
        json.dumps(json.loads((result.folder / "trials" / "0001" / "trial.json").read_text()) | {"outcome": None})
    )
    log = (result.folder / "trials" / "0001" / "log.txt").read_text()
    searched(more)
    records_then = read_trials(result.folder)
    assert [record.values for record in records_then.values()][:3] == [record.values for record in records.values()]
    assert len(records_then) == 4 and all(record.outcome == "finished" for record in records_then.values())
    assert "finished at step 4" in (result.folder / "trials" / "0001" / "log.txt").read_text()[len(log) :]

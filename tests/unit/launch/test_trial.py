"""A trial as Ray Tune drives it, without Ray: evaluation by evaluation, ended, started again, replaced."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from skilled_detector import SkilledDetector, skill_after, skilled_search
from tiny_training import write_shards

from detcore.config.variation import Variations
from detcore.engine.checkpoint import CheckpointFolder
from detcore.launch.tuning.record import TrialRecord, for_ray, trial_folder
from detcore.launch.tuning.trial import DONOR, Sweep, Trial

LR = "optim.lr"
PBT = {"type": "pbt", "quantile": 0.5}


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    # A trial takes its process's output; here it gets it back.
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    config = skilled_search(
        tmp_path / "run",
        write_shards(tmp_path / "shards"),
        tune={"space": {LR: {"type": "loguniform", "low": 1e-3, "high": 0.3}}, "num_trials": 2, "scheduler": PBT},
        tracking__enabled=False,
    )
    assert config.tune is not None
    return Sweep(
        folder=tmp_path / "run" / "tune", name="tiny", variations=Variations.around(config),
        scheduler=config.tune.scheduler, model=SkilledDetector(),
    )  # fmt: skip


class Driven:
    """What Ray's actor does with a trial."""

    def __init__(self, sweep: Sweep, record: TrialRecord, *, donor: Path | None = None) -> None:
        # Ray's own constructor wants a logger, a session and a node.
        self.trial = Trial.__new__(Trial)
        self.trial.config = for_ray(record)
        self.trial.setup(self.trial.config, sweep=replace(sweep, model=SkilledDetector()))
        if donor is not None:
            self.trial.load_checkpoint(str(donor))

    def saved(self, folder: Path) -> Path:
        folder.mkdir()
        self.trial.save_checkpoint(str(folder))
        return folder


def begun(sweep: Sweep, number: int, **values: Any) -> TrialRecord:
    settings = {LR: values.get("lr", 0.1)}
    return TrialRecord(number=number, folder=trial_folder(sweep.folder, number), values=settings).save()


def test_a_trial_tells_each_evaluation_and_finishes(sweep: Sweep) -> None:
    trial = Driven(sweep, begun(sweep, 0)).trial
    told = [trial.step() for _ in range(4)]
    assert [(one["step"], one["done"]) for one in told] == [(3, False), (6, False), (9, False), (12, True)]
    assert told[-1]["finished"] and told[-1]["failure"] == ""
    scores = [one["score"] for one in told]
    assert scores == sorted(scores) and scores[-1] > scores[0]
    assert told[-1]["best"] == scores[-1]
    weights = load_file(trial_folder(sweep.folder, 0) / "model" / "weights.safetensors")
    assert weights["skill"].item() == pytest.approx(skill_after(*[0.1] * 12))


def test_an_ended_trial_goes_on_later_and_tells_what_it_had_told(sweep: Sweep) -> None:
    record = begun(sweep, 0)
    trial = Driven(sweep, record).trial
    first = trial.step()
    trial.cleanup()
    again = Driven(sweep, record).trial
    told = [again.step() for _ in range(4)]
    assert told[0] == first
    assert [one["step"] for one in told] == [3, 6, 9, 12]
    assert "at step" in (record.folder / "log.txt").read_text()  # resuming, or finished
    weights = load_file(record.folder / "model" / "weights.safetensors")
    assert weights["skill"].item() == pytest.approx(skill_after(*[0.1] * 12))


def test_a_replaced_trial_trains_the_leaders_weights_with_its_own_settings(sweep: Sweep, tmp_path: Path) -> None:
    leading, behind = begun(sweep, 0, lr=0.1), begun(sweep, 1, lr=0.001)
    leader = Driven(sweep, leading)
    for _ in range(2):
        leader.trial.step()
    donor = leader.saved(tmp_path / "donor")
    assert json.loads((donor / DONOR).read_text()) == {"trial": 0, "step": 6}
    last = Driven(sweep, behind)
    own = last.trial.step()
    last.trial.cleanup()

    # What Ray does: the same trial with other settings, restored from the other's checkpoint.
    changed = replace(TrialRecord.load(behind.folder), values={LR: 0.2})
    replaced = Driven(sweep, changed, donor=donor)
    told = [replaced.trial.step() for _ in range(2)]
    assert [one["step"] for one in told] == [9, 12]
    assert told[0]["score"] > own["score"]
    checkpoints = CheckpointFolder(behind.folder / "checkpoints", keep=1, say=print)
    lr = checkpoints.read(12).tensors["optimizer"]["param_groups"][0]["base_lr"]
    assert lr == 0.2
    expected = skill_after(*[0.1] * 6, *[0.2] * 6)
    assert checkpoints.read(12).weights["skill"].item() == pytest.approx(expected, abs=1e-6)
    record = TrialRecord.load(behind.folder)
    assert (record.taken_over, record.takeovers[0].donor, record.takeovers[0].step) == (1, 0, 6)
    assert (record.values, record.current) == ({LR: 0.001}, {LR: 0.2})
    # The leader's checkpoint is still there, though it has gone on.
    while not leader.trial.step()["done"]:
        pass
    assert CheckpointFolder(leading.folder / "checkpoints", keep=1, say=print).read(6).step == 6

    # Started anew, it goes on from its own; the same donor's file is no second replacement.
    again = Driven(sweep, record, donor=donor)
    assert again.trial.step()["step"] == 9
    assert TrialRecord.load(behind.folder).takeovers == record.takeovers
    # Paused and taken up again, it does not tell twice.
    paused = Driven(sweep, record, donor=again.saved(tmp_path / "own"))
    assert paused.trial.step()["step"] == 12


def test_what_the_user_can_mend_is_told_and_not_tried_again(sweep: Sweep) -> None:
    record = begun(sweep, 0)
    wrong = replace(sweep, model=None)
    trial = Trial.__new__(Trial)
    trial.config = for_ray(record)
    trial.setup(trial.config, sweep=wrong)  # nobody builds a model of type own
    told = trial.step()
    assert (told["done"], told["finished"], told["step"]) == (True, False, 0)
    assert told["failure"] and "\n" not in told["failure"]
    assert "Traceback" in (record.folder / "log.txt").read_text()
    assert told["score"] == float("-inf")


def test_settings_that_do_not_go_together_fail_the_trial_alone(sweep: Sweep) -> None:
    record = TrialRecord(number=0, folder=trial_folder(sweep.folder, 0), values={LR: -1.0}).save()
    told = Driven(sweep, record).trial.step()
    assert (told["done"], told["finished"]) == (True, False)
    assert "tune.space: optim.lr" in told["failure"]

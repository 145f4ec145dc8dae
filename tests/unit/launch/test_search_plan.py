"""Which settings trials get, who ends early, and what is known of them; without a cluster."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from skilled_detector import skilled_search
from tiny_training import write_shards

from detcore.config.tune import TuneConfig
from detcore.launch.tuning.board import Board, Row
from detcore.launch.tuning.picture import save_picture
from detcore.launch.tuning.plan import OptunaSearch, build_scheduler, planned_values, within
from detcore.launch.tuning.record import NUMBER, Takeover, TrialRecord, for_ray, from_ray, read_trials, trial_folder

LR = {"type": "loguniform", "low": 1e-3, "high": 1e-1}
CHANNELS = {"type": "choice", "values": [[8, 16], [16, 32], [32, 64]]}


def record(sweep: Path, number: int, *scores: float, **fields: Any) -> TrialRecord:
    """A trial with evaluations at every third step."""
    made = TrialRecord(number=number, folder=trial_folder(sweep, number), values={"optim.lr": 0.01 * (number + 1)})
    rows = "".join(f"{3 * index + 3},{score}\n" for index, score in enumerate(scores))
    made = replace(made, **fields).save()
    (made.folder / "evaluations.csv").write_text("step,box_ap\n" + rows)
    return made


def test_planned_settings_depend_on_the_seed_and_the_number_alone() -> None:
    space = {"optim.lr": LR, "model.channels": CHANNELS}
    eight, four = (TuneConfig(space=space, num_trials=count, seed=5) for count in (8, 4))
    drawn = [planned_values(eight, number) for number in range(8)]
    assert drawn[:4] == [planned_values(four, number) for number in range(4)]
    assert len({values["optim.lr"] for values in drawn}) == 8
    assert all(1e-3 <= values["optim.lr"] <= 1e-1 for values in drawn)
    assert {str(values["model.channels"]) for values in drawn} <= {"[8, 16]", "[16, 32]", "[32, 64]"}
    assert planned_values(eight.model_copy(update={"seed": 6}), 0) != drawn[0]


def test_each_combination_of_grids_has_the_same_draws() -> None:
    grids = {"a": {"type": "grid", "values": [1, 2]}, "b": {"type": "grid", "values": ["x", "y"]}}
    assert TuneConfig(space=grids).trials == 4
    config = TuneConfig(space={"optim.lr": LR, **grids}, num_trials=8)
    found = [planned_values(config, number) for number in range(8)]
    assert [(values["a"], values["b"]) for values in found[:4]] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]
    assert [list(values) for values in found] == [["optim.lr", "a", "b"]] * 8
    assert len({values["optim.lr"] for values in found[:4]}) == 1
    assert found[4]["optim.lr"] != found[0]["optim.lr"]


def test_a_population_stays_within_the_space() -> None:
    config = TuneConfig(
        space={"optim.lr": LR, "optim.warmup_steps": {"type": "randint", "low": 0, "high": 10}, "m": CHANNELS},
        num_trials=2,
        scheduler={"type": "pbt"},
    )
    handed = {NUMBER: 7, "optim.lr": 0.12, "optim.warmup_steps": 12, "m": "anything"}
    assert within(config, handed) == {NUMBER: 7, "optim.lr": 0.1, "optim.warmup_steps": 10, "m": "anything"}


def test_halving_remembers_trials_of_an_earlier_process(tmp_path: Path) -> None:
    config = skilled_search(
        tmp_path / "run", write_shards(tmp_path / "shards"),
        tune={"space": {"optim.lr": LR}, "num_trials": 4, "scheduler": {"type": "asha"}},
    )  # fmt: skip
    assert config.tune is not None
    before = [record(tmp_path, number, *scores) for number, scores in enumerate([(10, 20, 30, 40), (50, 60, 70, 80)])]
    scheduler = build_scheduler(config.tune, engine=config.engine, before=before)

    class Now:
        trial_id = "now"

    trial: Any = Now()
    nobody: Any = None
    scheduler.on_trial_add(nobody, trial)
    # The median of 10 and 50 at the first rung is 30.
    assert scheduler.on_trial_result(nobody, trial, {"step": 3, "score": 31.0}) == "CONTINUE"
    assert scheduler.on_trial_result(nobody, trial, {"step": 6, "score": 39.0}) == "STOP"
    assert scheduler.ended == {"now"}


def test_optuna_is_told_of_trials_before_and_hands_out_those_that_are_left(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    config = skilled_search(
        tmp_path / "run", write_shards(tmp_path / "shards"),
        tune={"space": {"optim.lr": LR, "m": CHANNELS}, "num_trials": 4, "search": "optuna"},
    )  # fmt: skip
    assert config.tune is not None
    values = {"optim.lr": 0.02, "m": [16, 32]}
    known = [
        record(tmp_path, 0, 10.0, 30.0, outcome="finished", values=values),
        record(tmp_path, 1, values={**values, "optim.lr": 0.03}),
    ]
    begun = []

    def begin(number: int, values: dict[str, Any]) -> TrialRecord:
        begun.append(number)
        return TrialRecord(number=number, folder=tmp_path, values=values)

    search = OptunaSearch(config.tune, known, begin=begin, engine=config.engine)
    assert search._study.best_value == 30.0
    first = search.suggest("a")
    assert (first[NUMBER], from_ray(first)) == (1, known[1].values)
    second, third = search.suggest("b"), search.suggest("c")
    assert (second[NUMBER], third[NUMBER], begun) == (2, 3, [2, 3])
    assert from_ray(second)["m"] in [[8, 16], [16, 32], [32, 64]]
    assert 1e-3 <= from_ray(second)["optim.lr"] <= 1e-1
    assert search.suggest("d") == search.FINISHED
    search.on_trial_complete("a", {"best": 42.0})
    search.on_trial_complete("b", error=True)
    assert search._study.best_value == 42.0


def test_a_record_outlives_its_process(tmp_path: Path) -> None:
    made = record(tmp_path, 3, 1.5, values={"m": [1, 2]}, takeovers=(Takeover(donor=1, step=3, values={"m": [8]}),))
    assert read_trials(tmp_path) == {3: made}
    assert made.current == {"m": [8]}
    assert from_ray(for_ray(made)) == {"m": [8]}
    with (made.folder / "evaluations.csv").open("a") as file:
        file.write("6,2.")  # a line that is being written
    assert [row["step"] for row in made.evaluations()] == [3]
    (made.folder / "trial.json").write_text("{")
    with pytest.raises(ValueError, match=r"trial\.json is broken .*; remove .*0003 to have this trial run anew"):
        read_trials(tmp_path)


def test_the_table_and_the_picture_show_every_trial(tmp_path: Path) -> None:
    config = skilled_search(
        tmp_path / "run", write_shards(tmp_path / "shards"),
        tune={"space": {"optim.lr": LR, "seed": {"type": "randint", "low": 0, "high": 3}}, "num_trials": 3},
    )  # fmt: skip
    assert config.tune is not None
    records = [
        record(tmp_path, 0, 10.0, 20.0, outcome="finished", values={"optim.lr": 0.01, "seed": 0}),
        record(tmp_path, 1, 30.0, outcome="stopped early", values={"optim.lr": 0.02, "seed": 1}),
        record(tmp_path, 2, outcome="failed", reason="loss is nan", values={"optim.lr": 0.1, "seed": 3}),
    ]
    board = Board(total=3, steps=12, metric="box_ap")
    board.rows = {each.number: Row.of(each, config.engine) for each in records}
    assert [row.number for row in board.ranked()] == [1, 0, 2]
    columns = {str(column.header): list(column.cells) for column in board.table().columns}
    assert columns["trial"] == ["1", "0", "2"]
    assert columns["lr"] == ["0.02", "0.01", "0.1"]
    assert columns["best"] == ["30.00", "20.00", ""]
    assert columns["status"] == ["stopped early", "finished", "failed (loss is nan)"]
    assert str(board.table().title) == "3 trials: 1 finished, 1 stopped early, 1 failed"
    save_picture(records, tmp_path / "search.png", tune=config.tune, engine=config.engine, metric="box_ap")
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")

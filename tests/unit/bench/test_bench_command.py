"""`detcore bench`: what it prints, its JSON, and what it refuses."""

import json

import pytest

from detcore.bench.parts import PARTS
from detcore.cli import main

ON_CPU = ["--device", "cpu"]
TRAIN = ["bench", "train", "digits_mask_rcnn", *ON_CPU, "--size", "64x64", "--batch-size", "1", "--steps", "1"]
SMALL_IMAGES = "data.test_transforms=[{type: resize_fixed, height: 64, width: 64}]"
PREDICT = ["bench", "predict", "digits_mask_rcnn", SMALL_IMAGES, *ON_CPU, "--calls", "1"]


def test_training_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mask-rcnn: training on CPU")
    assert all(any(line.startswith(part) for line in lines) for part in PARTS)
    assert any(line.split() == ["kernels", "a", "step", "none", "on", "a", "CPU"] for line in lines)


def test_training_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--rounds", "1", "engine.precision=bf16", "engine.cuda_graphs=true", "--json"]) == 0
    printed = capsys.readouterr()
    assert "there are none on cpu" in printed.err
    report = json.loads(printed.out)
    assert report["cuda_graphs"] is False
    assert report["precision"] == "bf16" and report["batch_size"] == report["steps"] == 1
    assert list(report["buckets"]) == ["64x64"]
    assert sum(report["shares"].values()) == pytest.approx(1)
    assert report["host_syncs"] is None and report["images_per_second"] > 0


def test_prediction_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PREDICT, "--batch-sizes", "1"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:-4] for row in rows if row and row[-5:-4] == ["plain"]] == [
        ["dense", "layers", "plain"],
        ["detections", "plain"],
        ["predictor", "plain"],
    ]


def test_prediction_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PREDICT, "--batch-sizes", "1", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["image"], report["padded"]) == ("480x640", "64x64")
    assert [row["batch_size"] for row in report["rows"]] == [1, 1, 1, 2, 2, 2]
    for row in report["rows"]:
        assert row["latency_ms"] > 0 and row["images_per_second"] > 0 and row["first_seconds"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*TRAIN, "--rounds", "0"], "--rounds 0: give whole numbers from 1 on"),
        ([*TRAIN, "--data", "digits"], "--size is of synthetic images"),
        ([*TRAIN, "data=digits"], "give the model first, and --data NAME"),
        (["bench", "train", "no_such_recipe", *ON_CPU], "no_such_recipe"),
        (["bench", "train", "published", *ON_CPU], "model.source"),
        (["bench", "predict", "runs/none/model", "model.num_classes=3", *ON_CPU], "is no recipe of conf/model"),
        (["bench", "predict", "digits_mask_rcnn", *ON_CPU, "--calls", "-1"], "--calls -1"),
        (["bench", "predict", "digits_mask_rcnn", "--image", "absent.png", *ON_CPU], "absent.png"),
    ],
)
def test_what_a_user_can_mend(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize("word", ["64x64", "--no-such-option"])
def test_what_is_no_override_is_refused(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*TRAIN, "engine.precision=bf16", word])
    assert f"{word}: not an option or argument here" in capsys.readouterr().err

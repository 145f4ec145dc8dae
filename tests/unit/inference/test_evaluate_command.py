"""`detcore evaluate` on a model with data of its classes, and on files of any program."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detcore.cli import main
from detcore.data import Sample, ShardedSplit, write_split

Output = pytest.CaptureFixture[str]
LABELS = ("circle", "square", "bar")


def shapes(count: int, *, first_id: int) -> list[Sample]:
    random = np.random.default_rng(first_id)
    found = []
    for index in range(count):
        low = random.uniform(0, 60, (3, 2))
        boxes = np.concatenate((low, low + random.uniform(20, 60, (3, 2))), axis=1)
        outlines = [[np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])] for x1, y1, x2, y2 in boxes]
        image = random.integers(0, 255, (130, 150, 3), dtype=np.uint8)
        found.append(
            Sample(
                image=image,
                boxes_xyxy=boxes,
                labels=random.integers(3, size=3),
                polygons=outlines,
                image_id=first_id + index,
            )
        )
    return found


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    for split, count, first_id in (("train", 2, 1), ("val", 6, 100)):
        write_split(shapes(count, first_id=first_id), folder, split=split, categories=LABELS, name="shapes")
    return folder


def run(*words: object, out: Output) -> dict[str, Any]:
    assert main(["evaluate", *map(str, words), "--json"]) == 0
    facts: dict[str, Any] = json.loads(out.readouterr().out)
    return facts


def test_a_model_on_data(published: Path, shards: Path, tmp_path: Path, capsys: Output) -> None:
    """Its detections, written as COCO's results, give the same figures as files."""
    found = run(published, shards, "engine.device=cpu", "--out", tmp_path / "figures", out=capsys)
    assert (found["model"], found["data"], found["split"]) == (str(published), "shards", "val")  # there is no test
    assert {"box_ap", "mask_ap"} < found["metrics"].keys()
    files = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"metrics.json", "per_class.csv", "pr_curve.png", "mask_pr_curve.csv", "detections.json"} <= files
    assert json.loads((tmp_path / "figures" / "metrics.json").read_text()) == found["metrics"]
    detections = json.loads((tmp_path / "figures" / "detections.json").read_text())
    assert len(detections) > 20

    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(ShardedSplit.open(shards, "val").to_coco()))
    again = run("--detections", tmp_path / "figures" / "detections.json", "--annotations", truth, out=capsys)
    assert again["metrics"] == pytest.approx(found["metrics"], abs=1e-9)
    assert again["per_class"].keys() == found["per_class"].keys()


def test_a_split_and_a_protocol_are_chosen(published: Path, shards: Path, capsys: Output) -> None:
    found = run(published, shards, "engine.device=cpu", "--split", "train", "--protocol", "voc2007", out=capsys)
    assert found["split"] == "train"
    assert "box_ar50" in found["metrics"] and "box_ar100" not in found["metrics"]
    assert main(["evaluate", str(published), str(shards), "engine.device=cpu", "--split", "test"]) == 2
    assert "shards has no split test; it has train, val" in capsys.readouterr().err


def test_other_classes_are_refused(published: Path, tmp_path: Path, capsys: Output) -> None:
    for split in ("train", "val"):
        samples = shapes(1, first_id=len(split))
        write_split(samples, tmp_path / "other", split=split, categories=("circle", "bar", "square"))
    assert main(["evaluate", str(published), str(tmp_path / "other")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "knows the classes circle, square, bar, the data other has circle, bar, square" in line


@pytest.mark.parametrize(
    ("file", "annotations", "metric", "expected"),
    [
        ("instances_val2014_fakebbox100_results.json", "instances_val2014_100.json", "box_ap", 50.45806987249628),
        ("instances_val2014_fakesegm100_results.json", "instances_val2014_100.json", "mask_ap", 31.95452758576433),
    ],
)
def test_files_of_another_program(
    shared: Path, capsys: Output, file: str, annotations: str, metric: str, expected: float
) -> None:
    """Expected: pycocotools 2.0.11 on these files."""
    folder = shared / "fixtures" / "coco_eval"
    found = run("--detections", folder / file, "--annotations", folder / annotations, out=capsys)
    assert found["metrics"][metric] == pytest.approx(expected, abs=1e-9)


def test_what_is_shown(published: Path, shards: Path, capsys: Output) -> None:
    assert main(["evaluate", str(published), str(shards), "engine.device=cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:1] == ["box_ap"] for line in lines)
    (header,) = (line for line in lines if line.startswith("mask class"))
    assert header.split()[2:] == ["ap", "ap50", "ap75", "ar100", "f1", "precision", "recall", "at", "score"]


TRUTH: dict[str, Any] = {
    "images": [{"id": 1, "height": 100, "width": 100}],
    "categories": [{"id": 7, "name": "bird"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 10, 10]}],
}
ROW = {"image_id": 1, "category_id": 7, "bbox": [0, 0, 10, 10], "score": 0.5}


def files(folder: Path, rows: Any, truth: Any = TRUTH) -> list[str]:
    (folder / "found.json").write_text(json.dumps(rows))
    (folder / "truth.json").write_text(json.dumps(truth))
    return ["--detections", str(folder / "found.json"), "--annotations", str(folder / "truth.json")]


def test_the_least_that_files_must_say(tmp_path: Path, capsys: Output) -> None:
    """Neither area nor iscrowd; and no detection at all."""
    assert run(*files(tmp_path, [ROW]), out=capsys)["metrics"]["box_ap"] == pytest.approx(100)
    assert run(*files(tmp_path, []), out=capsys)["metrics"]["box_ap"] == 0


@pytest.mark.parametrize(
    ("rows", "truth", "message"),
    [
        ([{**ROW, "image_id": 3}], TRUTH, "found.json: [0]: image_id 3 is not among those of the annotations"),
        ([ROW, {**ROW, "bbox": [1, 2, 3]}], TRUTH, "found.json: [1]: bbox [1, 2, 3] is not 4 numbers"),
        ({"a": 1}, TRUTH, "not COCO's list of results"),
        ([ROW], [], "truth.json: is not JSON"),
        ([ROW], {**TRUTH, "annotations": TRUTH["annotations"] * 2}, "annotations[1]: id 1 is there twice"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, capsys: Output, rows: Any, truth: Any, message: str) -> None:
    assert main(["evaluate", *files(tmp_path, rows, truth)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--detections", "found.json"], "--detections and --annotations belong together"),
        (["--detections", "absent.json", "--annotations", "absent.json"], "absent.json"),
        (["MODEL"], "on which data? Add a folder, or data=NAME"),
        (["MODEL", "data=digits", "--params", "x.yaml"], "--params is of a run"),
        (["MODEL", "SHARDS", "data=digits", "--out", "SHARDS"], "exists; name a new folder"),
        (["data=digits", "--split", "val"], "--split is for a MODEL"),
        (["no/such/model", "data=digits"], "no/such/model"),
    ],
)
def test_mistakes_of_evaluate_are_one_line(
    published: Path, shards: Path, capsys: Output, words: list[str], message: str
) -> None:
    names = {"MODEL": str(published), "SHARDS": str(shards)}
    assert main(["evaluate", *(names.get(word, word) for word in words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("detcore evaluate: ") and message in line

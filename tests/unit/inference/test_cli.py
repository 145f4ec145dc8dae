"""The `detcore` command on a published folder."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import detcore
from detcore.cli import main

Output = pytest.CaptureFixture[str]


def test_help_tells_the_story_at_once() -> None:
    started = time.perf_counter()
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "detcore.cli", "--help"], capture_output=True, text=True
    )
    assert shown.returncode == 0
    for command in ("predict", "pull", "models", "doctor"):
        assert command in shown.stdout
    loaded = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert not loaded & {"torch", "numpy", "ray", "mlflow", "hydra", "pydantic"}  # what would make it slow
    assert time.perf_counter() - started < 20  # only a hang fails: the import list above is the real test


def test_predict_writes_pictures_and_json(published: Path, scenes: Path, tmp_path: Path, capsys: Output) -> None:
    out, file = tmp_path / "drawn", tmp_path / "found.json"
    (scenes / "other").mkdir()
    Image.open(scenes / "b.png").save(scenes / "other" / "b.jpg")
    sources = [str(scenes), str(scenes / "other" / "*.jpg")]
    options = ["--out", str(out), "--json", str(file), "--score", "0.3", "--batch-size", "2", "--device", "cpu"]
    assert main(["predict", str(published), *sources, *options]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.jpg", "b-2.jpg", "b.jpg", "c.jpg"]
    assert Image.open(out / "b.jpg").size == (720, 576)
    rows = json.loads(file.read_text())
    assert [Path(row["image"]).name for row in rows] == ["a.jpg", "b.png", "c.PNG", "b.jpg"]
    expected = detcore.load(published, device="cpu").predict(scenes, score_threshold=0.3)
    assert isinstance(expected, list)
    assert [found["score"] for found in rows[1]["detections"]] == pytest.approx(expected[1].scores.tolist(), abs=1e-5)
    assert [found["class_name"] for found in rows[1]["detections"]] == list(expected[1].class_names)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[1].startswith(f"{scenes / 'b.png'}: ") and " × " in lines[1]


@pytest.mark.parametrize(
    ("format", "files"),
    [
        ("coco", ["annotations.json"]),
        ("yolo", ["data.yaml", "labels"]),
        ("cvat", ["annotations.xml"]),
        ("csv", ["detections.csv"]),
    ],
)
def test_predict_writes_data_sets(published: Path, scenes: Path, tmp_path: Path, format: str, files: list[str]) -> None:
    out = tmp_path / "found"
    assert main(["predict", str(published), str(scenes), "--format", format, "--out", str(out), "--score", "0.3"]) == 0
    assert sorted(path.name for path in out.iterdir()) == files
    expected = detcore.load(published, device="cpu").predict(scenes, score_threshold=0.3)
    assert isinstance(expected, list)
    if format == "coco":
        document = json.loads((out / "annotations.json").read_text())
        assert [image["file_name"] for image in document["images"]] == ["a.jpg", "b.png", "c.PNG"]
        assert [row["category_id"] - 1 for row in document["annotations"]] == [
            label for one in expected for label in one.labels.tolist()
        ]
    elif format == "yolo":
        lines = (out / "labels" / "b.txt").read_text().splitlines()
        assert [int(line.split()[0]) for line in lines] == expected[1].labels.tolist()


def test_classes_and_their_scores(published: Path, scenes: Path, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    options = ["--score", "0.1", "--classes", "circle, bar", "--class-score", "bar=0.3", "--json", str(file)]
    assert main(["predict", str(published), str(scenes), *options]) == 0
    found = [(row["class_name"], row["score"]) for one in json.loads(file.read_text()) for row in one["detections"]]
    everything = detcore.load(published, device="cpu").predict(scenes, score_threshold=0.1)
    assert isinstance(everything, list)
    least = {"circle": 0.1, "bar": 0.3, "square": 2.0}
    pairs = [pair for one in everything for pair in zip(one.class_names, one.scores.tolist(), strict=True)]
    wanted = [(name, pytest.approx(score, abs=1e-5)) for name, score in pairs if score >= least[name]]
    assert found == wanted and 0 < len(found) < len(pairs)


def test_json_to_the_terminal_is_json_alone(published: Path, scenes: Path, capsys: Output) -> None:
    assert main(["predict", str(published), str(scenes / "a.jpg"), "--json", "-", "--score", "1.0"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)[0]["detections"] == []
    assert "a.jpg: nothing" in shown.err


def test_an_unreadable_image_costs_only_itself(published: Path, scenes: Path, tmp_path: Path, capsys: Output) -> None:
    out, file = tmp_path / "drawn", tmp_path / "found.json"
    (scenes / "a.jpg").write_bytes((scenes / "a.jpg").read_bytes()[:500])
    (scenes / "d.png").write_text("not an image")
    options = ["--out", str(out), "--json", str(file), "--batch-size", "3"]
    assert main(["predict", str(published), str(scenes), *options]) == 1
    assert [Path(row["image"]).name for row in json.loads(file.read_text())] == ["b.png", "c.PNG"]
    assert sorted(path.name for path in out.iterdir()) == ["b.jpg", "c.jpg"]
    first, second, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"detcore predict: skipped {scenes / 'a.jpg'}: unreadable image")
    assert second.startswith(f"detcore predict: skipped {scenes / 'd.png'}: unreadable image")
    assert last == "detcore predict: 2 of 4 images could not be read"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "MODEL", "nowhere.jpg"], "detcore predict: nowhere.jpg: no such file or folder"),
        (["predict", "MODEL", "SCENES", "--score", "7"], "detcore predict: score_threshold 7.0 is not between 0 and 1"),
        (["predict", "MODEL", "SCENES", "--device", "cuda:77"], "detcore predict: device 'cuda:77'"),
        (["predict", "MODEL", "SCENES", "--device", "mps"], "detcore predict: device 'mps': take auto, cpu, cuda"),
        (["predict", "SCENES", "SCENES"], "detcore predict: "),
        (["predict", "MODEL", "SCENES", "--json", "no/x.json"], "detcore predict: --json no/x.json: no file can be"),
        (["predict", "MODEL", "SCENES", "--json", "SCENES"], "detcore predict: --json SCENES: no file can be written"),
        (["predict", "MODEL", "SCENES", "--out", "SCENES/a.jpg"], "detcore predict: SCENES/a.jpg: is a file; name a"),
        (
            ["predict", "MODEL", "SCENES", "--classes", "circle,cat"],
            "detcore predict: class 'cat': the model knows circle",
        ),
        (
            ["predict", "MODEL", "SCENES", "--class-score", "bar"],
            "detcore predict: --class-score bar: give a class and",
        ),
        (["predict", "MODEL", "SCENES", "--class-score", "bar=2"], "detcore predict: bar 2.0 is not between 0 and 1"),
        (["predict", "MODEL", "SCENES", "--overlap", "0.1"], "detcore predict: --overlap is a setting of --tile"),
        (["predict", "MODEL", "SCENES", "--tile", "0"], "detcore predict: tile 0 is less than 1 pixel"),
        (["predict", "MODEL", "SCENES", "--frame-stride", "2"], "detcore predict: --frame-stride: there is no video"),
        (["predict", "MODEL", "SCENES", "--format", "coco"], "detcore predict: --format coco: say with --out which"),
        (["predict", "MODEL", "SCENES", "--out", "x.mp4"], "detcore predict: --out x.mp4: is for one video"),
        (["predict", "MODEL", "ftp://a/b.png"], "detcore predict: ftp://a/b.png: take an address of http"),
        (["models", "rcnn"], "detcore models: no recipe 'rcnn' in "),
        (["models", "--size", "800"], "detcore models: --size 800: give HEIGHTxWIDTH"),
        (["pull", "MODEL", "SCENES"], "detcore pull: SCENES exists and is not an empty folder"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    published: Path, scenes: Path, capsys: Output, arguments: list[str], message: str
) -> None:
    told = [argument.replace("MODEL", str(published)).replace("SCENES", str(scenes)) for argument in arguments]
    assert main(told) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert shown.err.startswith(message.replace("SCENES", str(scenes)))


@pytest.mark.parametrize("command", [["predict", "runs/none", "SCENES"], ["pull", "runs/none", "SCENES/new"]])
def test_a_path_that_is_no_model_is_told_as_a_path(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, command: list[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none.db'}")
    assert main([argument.replace("SCENES", str(scenes)) for argument in command]) == 2
    assert "; nor is there a file runs/none/model.json" in capsys.readouterr().err


def test_pull_copies_a_model_that_predicts(published: Path, scenes: Path, tmp_path: Path, capsys: Output) -> None:
    target = tmp_path / "deep" / "pulled"
    assert main(["pull", str(published), str(target)]) == 0
    assert "tiny, 3 classes" in capsys.readouterr().out
    assert sorted(path.name for path in target.iterdir()) == ["model.json", "weights.safetensors"]
    assert [path.name for path in target.parent.iterdir()] == ["pulled"]
    assert main(["predict", str(target), str(scenes / "a.jpg")]) == 0


def test_pull_leaves_a_damaged_model_where_it_is(published: Path, tmp_path: Path, capsys: Output) -> None:
    damaged, target = tmp_path / "damaged", tmp_path / "target"
    assert main(["pull", str(published), str(damaged)]) == 0
    (damaged / "weights.safetensors").write_bytes(b"cut off")
    assert main(["pull", str(damaged), str(target)]) == 2
    assert "SHA-256" in capsys.readouterr().err
    assert not target.exists()


def test_models_lists_the_recipes(repository: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETCORE_CONF", str(repository / "conf"))
    monkeypatch.setenv("COLUMNS", "200")
    names = ["digits_mask_rcnn", "mask_rcnn_r50_fpn"]
    assert main(["models", *names, "--json"]) == 0
    digits, mask_rcnn = json.loads(capsys.readouterr().out)
    # Which figures is the recipe's own affair: its first lines hold what was last measured.
    assert digits["name"] == names[0]
    assert re.fullmatch(r"digits test box AP \d+\.\d, mask AP \d+\.\d", digits["metric"])
    # 44.4 M: Mask R-CNN R50-FPN with 80 classes, as Detectron2's model zoo and torchvision count it.
    assert 44.3e6 <= mask_rcnn["parameters"] <= 44.5e6 and mask_rcnn["metric"] is None
    assert main(["models", *names]) == 0
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if line.startswith(f"{names[1]} ")]
    assert line.split() == [names[1], "mask_rcnn", "44.4", "M", f"{mask_rcnn['gflops']:.0f}"]
    assert "800 × 1216 pixels, a multiply-add as 2" in shown


def test_doctor_knows_the_machine(capsys: Output) -> None:
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["python"] == sys.version.split()[0]
    assert {"torch", "ray", "mlflow", "dvc", "hotcoco", "memory", "native"} <= facts.keys()
    assert main(["doctor"]) == 0
    assert f"torch        {facts['torch']}" in capsys.readouterr().out

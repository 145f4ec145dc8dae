"""Reports: of files of other programs, and of runs."""

import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detcore.cli import main
from detcore.evaluation import GroundTruth
from detcore.report import Findings, Measured, find, measure_files, to_dict, write_report
from detcore.report.charts import heat_map
from detcore.report.coco_files import read_annotations, read_results

SIZE = 120
Write = Callable[[str, Any], Path]


def annotations(images: int = 12) -> dict[str, Any]:
    """Two squares an image, a cat at the left and a dog at the right."""
    rows = []
    for image in range(images):
        for category, x in ((3, 10.0), (8, 70.0)):
            outline = [[x, 20.0, x + 30, 20.0, x + 30, 60.0, x, 60.0]]
            rows.append(
                {
                    "id": len(rows) + 1, "image_id": image, "category_id": category, "bbox": [x, 20.0, 30.0, 40.0],
                    "area": 1200.0, "iscrowd": 0, "segmentation": outline,
                }
            )  # fmt: skip
    return {
        "images": [{"id": i, "file_name": f"{i:03d}.png", "height": SIZE, "width": SIZE} for i in range(images)],
        "annotations": rows,
        "categories": [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog <b>|&"}],
    }


def detections(images: int = 12) -> list[dict[str, Any]]:
    """All cats; a dog is taken for a cat in image 0, and image 1 has a sure dog where nothing is labelled."""
    rows = []
    for image in range(images):
        rows.append({"image_id": image, "category_id": 3, "bbox": [10.0, 20.0, 30.0, 40.0], "score": 0.9})
        category = 3 if image == 0 else 8
        rows.append({"image_id": image, "category_id": category, "bbox": [70.0, 20.0, 30.0, 40.0], "score": 0.8})
    rows.append({"image_id": 1, "category_id": 8, "bbox": [40.0, 80.0, 30.0, 30.0], "score": 0.97})
    return rows


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, value: Any) -> Path:
        path = tmp_path / name
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return write


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for image in annotations()["images"]:
        Image.new("RGB", (SIZE, SIZE), "teal").save(folder / image["file_name"])
    return folder


@pytest.fixture
def measured(write: Write, images: Path) -> Measured:
    return measure_files(write("d.json", detections()), write("a.json", annotations()), images=images)


@pytest.fixture
def findings(measured: Measured) -> Findings:
    return find(measured, sets=20)


def test_what_is_found(findings: Findings) -> None:
    assert 0.8 >= findings.min_score > 0.0  # all that is right has 0.8 or more
    assert findings.confusion is not None
    # Rows: cat, dog, nothing.
    assert findings.confusion.tolist() == [[12, 0, 0], [1, 11, 0], [0, 1, 0]]
    assert findings.confused() == [("dog <b>|&", "cat", 1, 1 / 12)]
    worst, second, *rest = findings.images
    assert (worst.file_name, worst.found, worst.false, worst.missed) == ("000.png", 1, 1, 1)
    assert (second.file_name, second.found, second.false, second.missed) == ("001.png", 2, 1, 0)
    assert {(image.found, image.false, image.missed) for image in rest} == {(2, 0, 0)}
    assert [mistake.fault for mistake in findings.mistakes] == ["Bkg", "Cls"]
    (boxes,) = findings.kinds
    assert boxes.tide is not None
    assert {name: count for name, (count, _) in boxes.tide.items() if count} == {"Cls": 1, "Bkg": 1}
    assert boxes.precision["ap"].low <= boxes.precision["ap"].value <= boxes.precision["ap"].high


class Addresses(HTMLParser):
    """All that a page asks for, and whether its elements close in order."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.found.append(value or "")
            if name == "id":
                self.anchors.add(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else(findings: Findings, tmp_path: Path) -> None:
    page = write_report(findings, tmp_path / "out").read_text()
    parsed = Addresses()
    parsed.feed(page)
    assert parsed.open == []
    pictures = [address for address in parsed.found if address.startswith("data:image/")]
    links = {address[1:] for address in parsed.found if address.startswith("#")}
    assert len(pictures) + len(links) == len(parsed.found)
    assert len(pictures) == 2 + 4 + 2  # worst, best, labels to look at
    assert links <= parsed.anchors
    assert "@import" not in page
    assert not re.findall(r"url\((?!#)", page)
    assert "<b>|" not in page.replace("<b>0", "")  # names of classes are text


def test_the_other_files_say_the_same(findings: Findings, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_report(findings, folder)
    text = (folder / "report.md").read_text()
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert shown
    assert {name for name in shown} == {f"images/{path.name}" for path in (folder / "images").iterdir()}
    assert r"dog \<b\>\|&" in text
    numbers = json.loads((folder / "report.json").read_text())
    assert numbers == to_dict(findings)
    assert numbers["metrics"]["box_ap"] == pytest.approx(findings.measured.metrics["box_ap"])
    with (folder / "label_errors.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file_name"], row["suspicion"], row["predicted"], row["labelled"]) for row in rows] == [
        ("001.png", "missing", "dog <b>|&", ""), ("000.png", "class", "cat", "dog <b>|&"),
    ]  # fmt: skip
    assert json.loads((folder / "label_errors.json").read_text())[1]["annotation_id"] == 2
    with (folder / "confusion.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 25
    with (folder / "f1_curve.csv").open(newline="") as file:
        best = max(csv.DictReader(file), key=lambda row: float(row["f1"]))
    assert float(best["f1"]) == pytest.approx(findings.kinds[0].operating_point()["f1"])


def test_a_second_report_leaves_nothing_of_the_first(measured: Measured, findings: Findings, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_report(findings, folder)
    (folder / "mine.txt").write_text("kept")
    cached = (folder / "report.md").rename(tmp_path / "cached")
    (folder / "report.md").symlink_to(cached)  # as DVC links files of its cache
    first = cached.read_text()
    without = Measured(**{**vars(measured), "read_image": lambda place: None})
    write_report(find(without, sets=5), folder)
    assert not list((folder / "images").glob("*.jpg"))
    assert (folder / "mine.txt").read_text() == "kept"
    assert cached.read_text() == first != (folder / "report.md").read_text()


def test_masks_and_keypoints_have_sections_of_their_own(write: Write, tmp_path: Path) -> None:
    truth, found = annotations(), detections()
    for row in truth["annotations"]:
        row["keypoints"] = [row["bbox"][0], 20.0, 2] * 17
        row["num_keypoints"] = 17
    for row in found:
        x, y, width, height = row["bbox"]
        row["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        row["keypoints"] = [x, 20.0, 0.9] * 17
    measured = measure_files(write("d.json", found), write("a.json", truth))
    assert measured.kinds == ("boxes", "masks", "keypoints")
    assert measured.metrics["mask_ap"] == pytest.approx(measured.metrics["box_ap"])
    findings = find(measured, sets=5)
    assert [kind.tide is None for kind in findings.kinds] == [False, False, True]
    page = write_report(findings, tmp_path / "out").read_text()
    for kind in ("Boxes", "Masks", "Keypoints"):
        assert f">{kind}</h2>" in page


def test_against_another_model(measured: Measured, write: Write, tmp_path: Path) -> None:
    worse = [row for row in detections() if row["category_id"] == 3 or row["image_id"] > 6]
    other = measure_files(write("worse.json", worse), tmp_path / "a.json")
    found = find(measured, against=other, sets=200).comparison
    assert found is not None
    figures = {figure.name: figure for figure in found.figures}
    assert figures["box_ap"].verdict == "better"
    assert figures["box_ap"].better == 1.0
    assert figures["box_ap"].change is not None
    assert figures["box_ap"].change.value == pytest.approx(measured.metrics["box_ap"] - other.metrics["box_ap"])
    assert [one.name for one in found.classes] == ["dog <b>|&", "cat"]
    same = find(measured, against=measured, sets=20).comparison
    assert same is not None
    assert {figure.verdict for figure in same.figures if figure.change is not None} == {"not sure"}


def test_pixels_have_a_confusion_of_their_own(tmp_path: Path) -> None:
    coco = {"images": [{"id": 1, "height": 4, "width": 4}], "annotations": [], "categories": []}
    measured = Measured(
        title="roads", about="a map", results=None, kinds=(), metrics={"miou": 61.0},
        truth=GroundTruth(coco=coco, semantic_classes=("road", "sky")),
        per_class={"road": {"iou": 60.0, "acc": 80.0}, "sky": {"iou": 62.0, "acc": 70.0}},
        read_image=lambda place: None, confusion=np.array([[8, 2], [1, 5]]),
        pictures=[Image.new("RGB", (8, 8))],
    )  # fmt: skip
    page = write_report(find(measured), tmp_path / "out").read_text()
    assert "road → sky: 2 (20.0 %)" in page
    assert "mIoU" in page
    assert (tmp_path / "out/images/maps_01.jpg").is_file()
    assert (tmp_path / "out/f1_curve.csv").read_text().strip() == "score,precision,recall,f1"


def test_panoptic_maps_have_a_table_and_pictures_beside_the_objects(measured: Measured, tmp_path: Path) -> None:
    both = Measured(
        **{
            **vars(measured),
            "metrics": {**measured.metrics, "pq": 43.2, "sq": 70.0, "rq": 50.0},
            "per_class": {**measured.per_class, "sky": {"pq": 61.5, "sq": 80.0, "rq": 70.0}},
            "pictures": [Image.new("RGB", (8, 8))],
        }
    )
    page = write_report(find(both, sets=5), tmp_path / "out").read_text()
    assert "<span>PQ</span><b>43.2</b>" in page
    assert "<td>sky</td><td>–</td>" in page
    assert "Maps</h2>" in page and "Confusion</h2>" in page


def test_nothing_found_and_nothing_there(write: Write, tmp_path: Path) -> None:
    found = measure_files(write("d.json", []), write("a.json", annotations()))
    assert found.metrics["box_ap"] == 0.0
    findings = find(found, sets=5)
    assert findings.kinds[0].operating_point()["f1"] == 0.0
    write_report(findings, tmp_path / "out")
    with pytest.raises(ValueError, match="no object"):
        measure_files(tmp_path / "d.json", write("b.json", {**annotations(), "annotations": []}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": "high"}, r"\[1\]: score 'high' is not a number"),
        ({"score": float("nan")}, r"\[1\]: score \[nan\] is not finite"),
        ({"bbox": [1, 2, 3]}, r"\[1\]: bbox \[1, 2, 3\] is not 4 numbers"),
        ({"bbox": None}, r"\[1\]: bbox None is not 4 numbers"),
        ({"image_id": 99}, r"\[1\]: image_id 99 is not among"),
        ({"category_id": True}, r"\[1\]: category_id True is not among"),
        ({"score": ...}, r"\[1\]: has no score"),
        ({"segmentation": [[1, 2]]}, r"\[0\]: has no segmentation"),
    ],
)
def test_a_result_that_is_none_is_named(write: Write, change: dict[str, Any], message: str) -> None:
    rows = detections()
    rows[1] = {key: value for key, value in (rows[1] | change).items() if value is not ...}
    truth = read_annotations(write("a.json", annotations()))
    with pytest.raises(ValueError, match=rf"d\.json: {message}"):
        read_results(write("d.json", rows), truth)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}", "not COCO's list"), ("[1]", r"\[0\] is 1"), ("[{]", "is not JSON"), ("", "is not JSON")],
)
def test_a_results_file_that_is_none(write: Write, text: str, message: str) -> None:
    truth = read_annotations(write("a.json", annotations()))
    with pytest.raises(ValueError, match=message):
        read_results(write("d.json", text), truth)


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("annotations", {"bbox": [0, 0, 1]}, r"annotations\[1\]: bbox"),
        ("annotations", {"image_id": 77}, r"annotations\[1\]: image_id 77 is not among the images"),
        ("annotations", {"id": 1}, r"annotations\[1\]: id 1 is there twice"),
        ("annotations", {"area": "big"}, r"annotations\[1\]: area 'big'"),
        ("images", {"height": -1}, r"images\[1\]: height -1"),
        ("categories", {"name": ""}, r"categories\[1\]: name ''"),
        ("categories", {"id": ...}, r"categories\[1\] has no id"),
    ],
)
def test_an_annotation_that_is_none_is_named(write: Write, name: str, entry: dict[str, Any], message: str) -> None:
    truth = annotations()
    changed = truth[name][1] | entry
    truth[name][1] = {key: value for key, value in changed.items() if value is not ...}
    with pytest.raises(ValueError, match=rf"a\.json: {message}"):
        read_annotations(write("a.json", truth))


def test_the_command(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--detections", str(write("d.json", detections())), "--annotations", str(write("a.json", annotations()))]
    assert main(["report", *files, "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 12
    assert (tmp_path / "out/report.html").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a RUN_DIR"),
        (["--detections", "d.json"], "name a RUN_DIR"),
        (["nowhere"], "nowhere: no such folder of a run"),
        (["nowhere", "--detections", "d.json"], "give one of both"),
        (["--detections", "d.json", "--annotations", "a.json"], "a.json: does not exist"),
        (["--detections", "d.json", "--annotations", "a.json", "--split", "val"], "--data and --split are for a MODEL"),
        (["--detections", "d.json", "--annotations", "a.json", "--images", "none"], "--images none: no such folder"),
    ],
)
def test_what_the_command_refuses(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_many_classes_have_no_numbers_in_the_matrix() -> None:
    names = [f"class {i}" for i in range(50)]
    assert ">100<" not in heat_map(names, np.eye(50), lambda row, column: "")
    assert ">100<" in heat_map(names[:5], np.eye(5), lambda row, column: "")

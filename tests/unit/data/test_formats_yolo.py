import json
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase

import hotcoco
import numpy as np
import pytest
from PIL import Image
from raw_folders import write_yolo

from detcore.config.data import Split
from detcore.data.formats import read_yolo


def test_boxes_and_outlines_are_in_pixels(tmp_path):
    """Images are 48 x 64."""
    write_yolo(tmp_path, {"train/a": "1 0.5 0.5 0.25 0.5\n\n0 0.25 0.25 0.75 0.25 0.75 0.75\n", "train/empty": None})
    data = read_yolo(tmp_path)
    split = data.splits["train"]
    assert data.categories == ("cat", "dog")
    assert split.images["file_name"].to_pylist() == ["a.jpg", "empty.jpg"]
    assert split.objects["sample"].to_pylist() == [0, 0]
    assert split.objects["label"].to_pylist() == [1, 0]
    assert split.objects["bbox"].to_pylist() == [[24, 12, 16, 24], [16, 12, 32, 24]]
    assert split.objects["polygons"].to_pylist() == [[], [[16, 12, 48, 12, 48, 36]]]
    assert split.objects["area"].to_pylist() == [16 * 24, 32 * 24 / 2]


def test_an_upright_photograph_counts_as_it_is_shown(tmp_path):
    write_yolo(tmp_path, {"train/a": "0 0.5 0.5 1 1"})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "images/train/a.jpg", exif=exif)
    assert read_yolo(tmp_path).splits["train"].objects["bbox"].to_pylist() == [[0, 0, 48, 64]]


@pytest.mark.parametrize(
    ("labels", "yaml", "expected"),
    [
        (["train", "val", "test"], "", {"train": 1, "val": 1, "test": 1}),
        (["train", "valid"], "", {"train": 1, "val": 1}),
        (["one", "two"], "train: images/one\nval: images/two\ntest:\n", {"train": 1, "val": 1}),
        (["one", "two"], "", {"train": 2}),
        (["one", "two"], "path: ./images\ntrain: one\n", {"train": 1}),
    ],
)
def test_usual_layouts_are_found(tmp_path, labels, yaml, expected):
    write_yolo(tmp_path, {f"{split}/{split}": "0 0.5 0.5 0.5 0.5" for split in labels}, yaml=yaml)
    found = read_yolo(tmp_path).splits
    assert {name: split.images.num_rows for name, split in found.items()} == expected
    assert {name: split.objects.num_rows for name, split in found.items()} == expected
    ids = [i for split in found.values() for i in split.images["image_id"].to_pylist()]
    assert sorted(ids) == list(range(1, len(ids) + 1))


def test_roboflows_paths_are_found(tmp_path):
    write_yolo(tmp_path / "train", {"a": "0 0.5 0.5 0.5 0.5"})
    write_yolo(tmp_path / "valid", {"b": "0 0.5 0.5 0.5 0.5"})
    (tmp_path / "data.yaml").write_text("names: {0: cat}\ntrain: ../train/images\nval: ../valid/images\n")
    data = read_yolo(tmp_path)
    assert data.categories == ("cat",)
    assert {name: split.objects.num_rows for name, split in data.splits.items()} == {"train": 1, "val": 1}


def test_stated_splits_are_taken_as_stated(tmp_path):
    write_yolo(tmp_path, {"one/a": "0 0.5 0.5 0.5 0.5", "two/b": None})
    split = Split(annotations="labels/one", images="images/one")
    found = read_yolo(tmp_path, {"train": split}).splits
    assert (found["train"].images.num_rows, found["train"].objects.num_rows) == (1, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.5 0.5", "unknown category 2; the classes are 0 to 1"),
        ("-1 0.5 0.5 0.5 0.5", "unknown category -1"),
        ("0.5 0.5 0.5 0.5 0.5", "unknown category 0.5"),
        ("0 0.5 0.5 0.5", "4 numbers"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "8 numbers"),
        ("0 a 0.5 0.5 0.5", "could not convert"),
    ],
)
def test_faults_are_named_with_their_file_and_line(tmp_path, line, message):
    write_yolo(tmp_path, {"train/a": f"0 0.5 0.5 0.5 0.5\n{line}\n"})
    with pytest.raises(ValueError, match=rf"a\.txt:2: .*{message}"):
        read_yolo(tmp_path)


@pytest.mark.parametrize("stated", ["images/lost", "list.txt"])
def test_a_stated_folder_must_exist(tmp_path, stated):
    """Though there is a folder of the usual name."""
    write_yolo(tmp_path, {"train/a": None}, yaml=f"train: {stated}\n")
    (tmp_path / "list.txt").write_text("images/train/a.jpg\n")
    with pytest.raises(ValueError, match=rf"data\.yaml says train: {stated}, which is no folder"):
        read_yolo(tmp_path)


@pytest.mark.parametrize("name", ["data.yaml", "labels/train/a.txt"])
def test_what_is_not_utf8_is_named(tmp_path, name):
    write_yolo(tmp_path, {"train/a": ""})
    (tmp_path / name).write_bytes(b"\xe9")
    with pytest.raises(ValueError, match=f"{name}: is not UTF-8"):
        read_yolo(tmp_path)


def test_a_class_named_twice_is_an_error(tmp_path):
    write_yolo(tmp_path, {"train/a": None}, names=["cat", "dog", "cat"])
    with pytest.raises(ValueError, match=r"data\.yaml: names a class more than once: cat$"):
        read_yolo(tmp_path)


@pytest.mark.parametrize("names", ["cat", [], {"1": "cat"}])
def test_names_must_be_names(tmp_path, names):
    write_yolo(tmp_path, {"train/a": None}, names=names)
    with pytest.raises(ValueError, match=r"data\.yaml: names is neither"):
        read_yolo(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [*z]\n", "names holds .*, which is no name"),
        ("names: [cat]\npath: *z\n", "data.yaml says path: .*, which is no folder"),
        ("names: [cat]\ntrain: [*z, *z]\n", "data.yaml says train: .*, which is no folder"),
        ("names: " + "[" * 5000, "is nested too deeply"),
        ("names: [cat]\nday: 2001-99-99\n", "not YAML: month must be in"),
    ],
)
def test_hostile_yaml_is_refused_at_once(tmp_path, text, message):
    """Aliases of aliases: small in a file and in memory, endless in print."""
    lines = ["a: &a [x, x]", *(f"{one}: &{one} [*{before}, *{before}]" for before, one in pairwise(ascii_lowercase))]
    write_yolo(tmp_path, {"train/a": None})
    (tmp_path / "data.yaml").write_text("\n".join(lines) + f"\n{text}")
    with pytest.raises(ValueError, match=message) as refused:
        read_yolo(tmp_path)
    assert len(str(refused.value)) < 600


def test_a_folder_without_data_yaml_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no data\.yaml"):
        read_yolo(tmp_path)


def test_what_hotcoco_writes_is_read_back(tmp_path, shared):
    """hotcoco writes the boxes of coco_mini as YOLO, with six digits after the point: 640 * 1e-6 pixels off at most."""
    source = shared / "data" / "coco_mini"
    coco = hotcoco.COCO(str(source / "annotations" / "instances_val.json"))
    coco.to_yolo(str(tmp_path / "labels"))
    names = [category["name"] for category in coco.dataset["categories"]]
    (tmp_path / "images").symlink_to(source / "images")
    (tmp_path / "data.yaml").write_text(f"names: {json.dumps(names)}\n")
    split = read_yolo(tmp_path).splits["train"]
    files = np.array(split.images["file_name"].to_pylist())[split.objects["sample"].to_numpy()]
    by_image = {image["id"]: image["file_name"] for image in coco.dataset["images"]}
    expected = sorted((by_image[a["image_id"]], *a["bbox"]) for a in coco.dataset["annotations"] if not a["iscrowd"])
    boxes = np.array(split.objects["bbox"].to_pylist()).round(2).tolist()  # COCO's own have two digits
    assert sorted((file, *box) for file, box in zip(files.tolist(), boxes, strict=True)) == expected


def test_keypoints_follow_their_box(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.new("RGB", (100, 50)).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.4 0.45 0.5 2 0 0 0\n")
    data_yaml = tmp_path / "data.yaml"
    data_yaml.write_text("names: [person]\nkpt_shape: [2, 3]\nkpt_names: {0: [left_eye, right_eye]}\n")
    read = read_yolo(tmp_path)
    assert read.keypoints is not None and read.keypoints.flip == (1, 0)
    row = read.splits["train"].objects.to_pylist()[0]
    assert row["keypoints"] == pytest.approx([44.5, 24.5, 2, 0, 0, 0])  # COCO numbers pixels
    assert row["bbox"] == pytest.approx([40, 15, 20, 20])
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.4 0.45 0.5 0 0\n")
    data_yaml.write_text("names: [person]\nkpt_shape: [2, 2]\n")
    read = read_yolo(tmp_path)
    assert read.keypoints is not None and read.keypoints.names == ("1", "2")
    assert read.splits["train"].objects.to_pylist()[0]["keypoints"] == pytest.approx([44.5, 24.5, 2, 0, 0, 0])


@pytest.mark.parametrize(
    ("keys", "line", "message"),
    [
        ("kpt_shape: 17", "", r"kpt_shape 17 is not a number of keypoints and 2 or 3"),
        ("kpt_shape: [2, 4]", "", r"kpt_shape says 4 numbers a keypoint"),
        ("kpt_shape: [2, 3]\nkpt_names: [nose]", "", r"kpt_names are not the 2 names"),
        ("kpt_shape: [2, 3]\nkpt_names: [eye, eye]", "", r"kpt_names: keypoints .* one name twice"),
        (
            "kpt_shape: [1, 3]",
            "0 .5 .5 .2 .2",
            r"a\.txt:1: 5 numbers are not class, x, y, w, h and 1 keypoints of 3 each",
        ),
        ("kpt_shape: [1, 3]", "0 .5 .5 .2 .2 .5 .5 .9", r"a\.txt:1: a keypoint's visibility is 0\.9, not 0, 1 or 2"),
    ],
)
def test_bad_keypoints_are_named(tmp_path: Path, keys: str, line: str, message: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.new("RGB", (100, 50)).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text(line)
    (tmp_path / "data.yaml").write_text(f"names: [person]\n{keys}\n")
    with pytest.raises(ValueError, match=message):
        read_yolo(tmp_path)

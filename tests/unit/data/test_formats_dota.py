import numpy as np
import pytest
from raw_folders import data_config, write_image

from detcore.data import ShardedSplit, prepare
from detcore.data.formats import read_dota

HEADER = "imagesource:GoogleEarth\ngsd:0.146\n"


def write_dota(root, labels, *, split="train"):
    for number, (stem, text) in enumerate(labels.items()):
        write_image(root / split / "images" / f"{stem}.png", seed=number)
        path = root / split / "labelTxt" / f"{stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_quadrilaterals_become_rotated_boxes(tmp_path):
    """By hand: a square on its corner; a box of 20 x 10; corners in either order."""
    lines = [
        "30.0 10.0 40.0 20.0 30.0 30.0 20.0 20.0 ship 0",
        "10 10 30 10 30 20 10 20 plane 2",
        "5 5 5 45 9 45 9 5 ship",
    ]
    write_dota(tmp_path, {"a": HEADER + "\n".join(lines) + "\n\n", "b": HEADER})
    write_dota(tmp_path, {"c": "5 5 5 45 9 45 9 5 car 0"}, split="val")
    data = read_dota(tmp_path)
    assert data.categories == ("car", "plane", "ship")
    split = data.splits["train"]
    assert split.images["file_name"].to_pylist() == ["a.png", "b.png"]
    assert [*split.images["image_id"].to_pylist(), *data.splits["val"].images["image_id"].to_pylist()] == [1, 2, 3]
    boxes = np.array(split.objects["bbox_rotated"].to_pylist())
    np.testing.assert_allclose(boxes[0, :4], [30, 20, 200**0.5, 200**0.5])
    assert abs(boxes[0, 4]) == pytest.approx(45)
    np.testing.assert_allclose(boxes[1], [20, 15, 20, 10, 0], atol=1e-9)
    np.testing.assert_allclose(boxes[2], [7, 25, 40, 4, -90], atol=1e-9)
    assert split.objects["label"].to_pylist() == [2, 1, 2]
    assert split.objects["crowd"].to_pylist() == [False, True, False]
    np.testing.assert_allclose(split.objects["bbox"].to_pylist()[2], [5, 5, 4, 40], atol=1e-9)


def test_centres_decide_and_boxes_are_kept(tmp_path):
    lines = ["55 10 75 10 75 20 55 20 a 0", "50 10 70 10 70 20 50 20 a 0", "10 10 10 10 20 20 20 20 a 0"]
    write_dota(tmp_path / "raw", {"a": "\n".join(lines)})
    config = data_config(tmp_path / "raw", tmp_path / "shards", format="dota", val_fraction=0.0, test_fraction=0.0)
    report = prepare(config, seed=0, progress=False).splits["train"]
    assert report.dropped["outside the image"] == [("a.png", 1)]
    assert report.dropped["zero area"] == [("a.png", 3)]
    assert report.clipped == [] and report.objects == 1
    split = ShardedSplit.open(tmp_path / "shards", "train")
    objects = split.objects(0)
    assert split.has_rotated and objects.boxes_xywha is not None
    np.testing.assert_allclose(objects.boxes_xywha, [[60, 15, 20, 10, 0]])
    np.testing.assert_allclose(objects.boxes_xyxy, [[50, 10, 70, 20]])  # the image is 64 wide
    assert split.to_coco()["annotations"][0]["bbox_rotated"] == pytest.approx([60, 15, 20, 10, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 2 3 4 5 6 a 0", r"a\.txt:1: .*8 numbers, a class"), ("1 2 3 4 5 6 7 x a 0", r"a\.txt:1: could not convert")],
)
def test_lines_of_another_form_are_named(tmp_path, text, message):
    write_dota(tmp_path, {"a": text})
    with pytest.raises(ValueError, match=message):
        read_dota(tmp_path)


def test_files_without_the_other_are_named(tmp_path):
    write_dota(tmp_path, {"a": "", "b": ""})
    (tmp_path / "train" / "images" / "a.png").unlink()
    with pytest.raises(ValueError, match=r"1 label files without an image in .*: a\.txt"):
        read_dota(tmp_path)
    with pytest.raises(ValueError, match="no label files of DOTA"):
        read_dota(tmp_path / "train")

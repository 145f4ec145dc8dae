"""Open Images: tables as storage.googleapis.com/openimages/web/download_v7.html describes them."""

import hotcoco
import numpy as np
import pytest
from raw_folders import OPEN_IMAGES_BOXES, OPEN_IMAGES_CLASSES, data_config, write_open_images

from detcore.data import ShardedSplit, prepare
from detcore.data.formats import read_open_images

BOXES = "train-annotations-bbox.csv"


def test_boxes_and_what_was_verified_come_through_the_shards(tmp_path):
    write_open_images(tmp_path / "raw")
    config = data_config(tmp_path / "raw", tmp_path / "shards", format="open_images", test_fraction=0, val_fraction=0)
    prepare(config, seed=0, progress=False)
    split = ShardedSplit.open(tmp_path / "shards", "train")
    assert split.categories == ("Fruit", "Man", "Airplane", "Clothing")
    assert split.file_names == ["0001eeaf4aed83f9.jpg", "000595fe6fee6369.jpg", "00075905539074f2.jpg"]
    plane, fruit, man = split.to_coco()["annotations"]
    x0, x1, y0, y1 = 0.022673031, 0.9642005, 0.07103825, 0.80054647  # of 64 x 48 pixels
    expected = [64 * x0, 48 * y0, 64 * (x1 - x0), 48 * (y1 - y0)]
    np.testing.assert_allclose(plane["bbox"], expected, rtol=0, atol=1e-12)
    assert (plane["category_id"], plane["iscrowd"]) == (3, 0)
    assert (fruit["bbox"], fruit["category_id"], fruit["iscrowd"]) == ([16, 6, 32, 18], 1, 1)
    assert (man["bbox"], man["category_id"], man["iscrowd"], man["area"]) == ([32, 0, 32, 18], 2, 0, 576)
    negative = [split.federated.negative(row).tolist() for row in range(3)]
    assert negative == [[1], [2], [0]]
    assert [split.federated.not_exhaustive(row).tolist() for row in range(3)] == [[3], [], []]


def test_without_verified_labels_every_class_counts(tmp_path):
    write_open_images(tmp_path, labels=False)
    split = read_open_images(tmp_path).splits["train"]
    assert split.federated is None and split.images.num_rows == 2


def test_the_usual_names_are_found(tmp_path):
    write_open_images(tmp_path, split="train", prefix="oidv6-")
    write_open_images(tmp_path, split="validation")
    write_open_images(tmp_path, split="test")
    (tmp_path / "class-descriptions-boxable.csv").write_text("LabelName,DisplayName\n" + OPEN_IMAGES_CLASSES)
    data = read_open_images(tmp_path)
    assert list(data.splits) == ["train", "val", "test"] and data.categories == ("Fruit", "Man", "Airplane", "Clothing")
    ids = [i for split in data.splits.values() for i in split.images["image_id"].to_pylist()]
    assert ids == list(range(1, 10))
    assert all(split.folder.name in ("train", "validation", "test") for split in data.splits.values())


def test_of_all_classes_those_with_boxes_are_taken(tmp_path):
    write_open_images(tmp_path)
    (tmp_path / "class-descriptions-boxable.csv").rename(tmp_path / "oidv7-class-descriptions.csv")
    assert read_open_images(tmp_path).categories == ("Fruit", "Man", "Airplane")


def test_a_part_of_the_images_will_do(tmp_path):
    write_open_images(tmp_path / "raw")
    (tmp_path / "raw" / "train" / "000595fe6fee6369.jpg").unlink()
    config = data_config(
        tmp_path / "raw",
        tmp_path / "shards",
        format="open_images",
        test_fraction=0,
        val_fraction=0,
        absent_images="skip",
    )
    report = prepare(config, seed=0, progress=False).splits["train"]
    assert (report.images, report.objects, report.absent) == (2, 1, ["000595fe6fee6369.jpg"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("IsGroupOf", "IsGroup", r"has no column .*IsGroupOf"),
        ("/m/02xwb", "/m/other", "row 2: unknown class '/m/other'"),
        ("/m/02xwb", "", "row 2 has no LabelName"),
        ("0.25", "left", "CSV conversion error to double: invalid value 'left'"),
        ("0.25,", "", "Expected 13 columns, got 12"),
        ("0.25,", "0.25,,", "Expected 13 columns, got 14"),
        (OPEN_IMAGES_BOXES, "", "Empty CSV file"),
    ],
)
def test_faults_are_named_with_their_file(tmp_path, old, new, message):
    write_open_images(tmp_path)
    (tmp_path / BOXES).write_text(OPEN_IMAGES_BOXES.replace(old, new))
    with pytest.raises(ValueError, match=rf"{BOXES}: .*{message}"):
        read_open_images(tmp_path)


def test_what_is_not_utf8_is_named(tmp_path):
    write_open_images(tmp_path)
    (tmp_path / BOXES).write_bytes(OPEN_IMAGES_BOXES.encode().replace(b"/m/02xwb", b"/m/\xe9"))
    with pytest.raises(ValueError, match=rf"{BOXES}: .*invalid UTF8"):
        read_open_images(tmp_path)


def test_classes_must_be_told_apart(tmp_path):
    write_open_images(tmp_path)
    path = tmp_path / "class-descriptions-boxable.csv"
    for text, message in (
        (OPEN_IMAGES_CLASSES.replace("Man", "Fruit"), "names a class more than once: Fruit"),
        (OPEN_IMAGES_CLASSES + "/m/02xwb,Apple\n", "describes a class more than once: /m/02xwb"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"class-descriptions-boxable.csv: {message}"):
            read_open_images(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"no \*class-descriptions-boxable\.csv, which names the classes"):
        read_open_images(tmp_path)


def test_hotcoco_reads_the_same_boxes(tmp_path):
    write_open_images(tmp_path, labels=False)
    theirs = hotcoco.COCO.from_oid(
        str(tmp_path / BOXES),
        class_descriptions=str(tmp_path / "class-descriptions-boxable.csv"),
        images_dir=str(tmp_path / "train"),
    )
    files = {image["id"]: image["file_name"] for image in theirs.dataset["images"]}
    names = {category["id"]: category["name"] for category in theirs.dataset["categories"]}
    expected = sorted(
        (files[a["image_id"]].removesuffix(".jpg"), names[a["category_id"]], np.round(a["bbox"], 6).tolist())
        for a in theirs.dataset["annotations"]
    )
    data = read_open_images(tmp_path)
    split = data.splits["train"]
    stems = [name.removesuffix(".jpg") for name in split.images["file_name"].to_pylist()]
    found = sorted(
        (stems[sample], data.categories[label], np.round(box, 6).tolist())
        for sample, label, box in zip(
            *(split.objects[name].to_pylist() for name in ("sample", "label", "bbox")), strict=True
        )
    )
    assert found == expected

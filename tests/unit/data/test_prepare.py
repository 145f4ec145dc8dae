import io
import json
import os
import shutil

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from PIL import Image
from raw_folders import coco_annotation, data_config, voc_object, write_coco, write_image, write_voc, write_yolo

from detcore.config.sampling import FirstSubset, RepeatFactorSampling
from detcore.data.prepare import prepare
from detcore.data.prepared import SETTINGS, is_prepared
from detcore.data.shards import ShardedSplit


def run(root, tmp_path, *, seed=0, **changes):
    return prepare(data_config(root, tmp_path / "shards", **changes), seed=seed, progress=False)


def contents(folder):
    """All but the record of the settings, among which is the root."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SETTINGS)
    return {path.relative_to(folder): path.read_bytes() for path in paths}


@pytest.fixture
def root(tmp_path):
    write_coco(tmp_path / "raw", images=20)
    return tmp_path / "raw"


ALL_TRAIN = {"val_fraction": 0.0, "test_fraction": 0.0}


def test_missing_splits_are_taken_from_train_by_seed_and_file_name(root, tmp_path):
    report = run(root, tmp_path, val_fraction=0.2, test_fraction=0.1)
    assert {name: split.images for name, split in report.splits.items()} == {"train": 14, "val": 4, "test": 2}
    files = {name: ShardedSplit.open(tmp_path / "shards", name).file_names for name in report.splits}
    assert len({file for names in files.values() for file in names}) == 20
    first = contents(tmp_path / "shards")

    # The order of the file and the place of the folder change nothing; the seed does.
    path = root / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    document["images"].reverse()
    path.write_text(json.dumps(document))
    run(root, tmp_path, val_fraction=0.2, test_fraction=0.1)
    again = {name: ShardedSplit.open(tmp_path / "shards", name).file_names for name in report.splits}
    assert {name: sorted(names) for name, names in again.items()} == {n: sorted(f) for n, f in files.items()}
    document["images"].reverse()
    path.write_text(json.dumps(document))
    moved = tmp_path / "elsewhere" / "raw"
    shutil.copytree(root, moved)
    run(moved, tmp_path, val_fraction=0.2, test_fraction=0.1)
    assert contents(tmp_path / "shards") == first
    run(root, tmp_path, val_fraction=0.2, test_fraction=0.1, seed=1)
    assert ShardedSplit.open(tmp_path / "shards", "val").file_names != files["val"]


def test_shards_of_another_root_or_other_settings_are_not_taken_for_these(root, tmp_path):
    config = data_config(root, tmp_path / "shards")
    assert not is_prepared(config, seed=0)
    prepare(config, seed=0, progress=False)
    assert is_prepared(config, seed=0)
    assert not is_prepared(config, seed=1)
    assert not is_prepared(config.model_copy(update={"min_box_size": 5.0}), seed=0)
    assert is_prepared(config.model_copy(update={"num_buckets": 1}), seed=0)
    assert is_prepared(config.model_copy(update={"min_visible": 0.5, "unmixed_last_steps": 9}), seed=0)
    assert is_prepared(config.model_copy(update={"sampling": RepeatFactorSampling()}), seed=0)
    part = {"min_objects": 1, "min_keypoints": 1, "train_subset": FirstSubset(number=3)}
    assert is_prepared(config.model_copy(update=part), seed=0)
    assert not is_prepared(config.model_copy(update={"ignore": ("dog",)}), seed=0)
    write_coco(tmp_path / "other", images=20)
    assert not is_prepared(config.model_copy(update={"root": str(tmp_path / "other")}), seed=0)
    shutil.rmtree(root)
    assert is_prepared(config, seed=0), "pulled shards need no raw data"
    assert not is_prepared(config, seed=1)
    mistyped = config.model_copy(update={"root": str(tmp_path / "rwa")})
    assert not is_prepared(mistyped, seed=0)
    within = config.model_copy(update={"root": str(tmp_path / "shards" / "raw"), "min_box_size": 5.0})
    assert is_prepared(within, seed=0), "no raw folder can be there: the shards are all there is"


@pytest.mark.parametrize("change", ["edit", "delete", "add", "touch"])
def test_shards_of_other_raw_files_are_not_taken_for_these(root, tmp_path, change):
    # Neither a link that leads in a circle nor the shards themselves stand in the way.
    (root / "images" / "around").symlink_to(root)
    config = data_config(root, root / "shards")
    prepare(config, seed=0, progress=False)
    assert is_prepared(config, seed=0)
    labels, image = root / "annotations" / "instances_train.json", root / "images" / "train_000.jpg"
    match change:
        case "edit":
            labels.write_text(labels.read_text().replace("cat", "tiger"))
        case "delete":
            image.unlink()
        case "add":
            write_image(root / "images" / "new.jpg")
        case "touch":
            os.utime(image, ns=(0, 0))
    assert not is_prepared(config, seed=0)


def test_the_same_data_has_the_same_shards_on_every_machine(tmp_path):
    """DVC compares them by their bytes; and a copy of the raw data has files of other times."""
    for machine in ("here", "there"):
        write_coco(tmp_path / machine / "raw", images=20)
        os.utime(tmp_path / machine / "raw" / "images" / "train_000.jpg", ns=(0, len(machine)))
    config = data_config(tmp_path / "here" / "raw", tmp_path / "here" / "shards")
    prepare(config, seed=0, progress=False)
    (tmp_path / "here").rename(tmp_path / "first")
    (tmp_path / "there").rename(tmp_path / "here")
    prepare(config, seed=0, progress=False)

    def files(machine):
        paths = (path for path in sorted((tmp_path / machine / "shards").rglob("*")) if path.is_file())
        return {path.relative_to(tmp_path / machine): path.read_bytes() for path in paths}

    assert files("first") == files("here")
    assert is_prepared(config, seed=0)
    (tmp_path / "here" / "shards.raw_files").rename(tmp_path / "record")
    os.utime(tmp_path / "here" / "raw" / "images" / "train_000.jpg", ns=(0, 0))
    assert is_prepared(config, seed=0), "pulled shards know no raw files"
    (tmp_path / "record").rename(tmp_path / "here" / "shards.raw_files")
    assert not is_prepared(config, seed=0)
    description = tmp_path / "here" / "shards" / "dataset.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {"content_hash": "0" * 64}))
    assert is_prepared(config, seed=0), "what was noted is of other shards, which a checkout replaced"


def test_data_that_was_just_made_counts_as_unchanged(tmp_path):
    source = {"type": "digits", "train": 3, "val": 2, "test": 2, "size": 64, "max_digits": 3}
    config = data_config(tmp_path / "raw", tmp_path / "shards", source=source)
    prepare(config, seed=0, progress=False)
    assert is_prepared(config, seed=0)
    next((tmp_path / "raw" / "images").iterdir()).unlink()
    assert not is_prepared(config, seed=0)
    shutil.rmtree(tmp_path / "raw")
    assert is_prepared(config, seed=0), "pulled shards need nothing made"


def test_ground_truth_is_the_source(root, tmp_path):
    run(root, tmp_path, **ALL_TRAIN, samples_per_shard=7)
    split = ShardedSplit.open(tmp_path / "shards", "train")
    source = json.loads((root / "annotations" / "instances_train.json").read_text())
    truth = split.to_coco()
    assert truth["images"] == source["images"]
    assert truth["annotations"] == [{**annotation, "category_id": 1} for annotation in source["annotations"]]
    assert truth["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert [split.read(n) for n in range(20)] == [(root / "images" / name).read_bytes() for name in split.file_names]
    assert len(list((tmp_path / "shards" / "train").glob("*.tar"))) == 3


def test_objects_that_cannot_be_trained_on_are_dropped_counted_and_named(tmp_path):
    """Images are 48 x 64."""
    boxes = {
        1: [60, 40, 10, 10],  # reaches past the corner: clipped
        2: [10, 10, 0, 5],
        3: [10, 10, 5, -5],
        4: [64, 10, 5, 5],
        5: [-9, -9, 9, 9],
        6: [1, 1, float("nan"), 4],
        7: [1, 1, 4, 4],
        8: [0, 0, 64, 48],
    }
    rows = [coco_annotation(n, 100, bbox=box, segmentation=None) for n, box in boxes.items()]
    rows.append(coco_annotation(9, 101, segmentation=[[1, 1, 2, 2]]))
    write_coco(tmp_path / "raw", images=3, annotations=rows)
    report = run(tmp_path / "raw", tmp_path, **ALL_TRAIN).splits["train"]
    first = "train_000.jpg"
    assert report.dropped == {
        "not a number": [(first, 6)],
        "zero area": [(first, 2), (first, 3)],
        "outside the image": [(first, 4), (first, 5)],
        "segmentation without area": [("train_001.jpg", 9)],
    }
    assert report.clipped == [(first, 1)]
    assert (report.objects, report.images, report.images_without_objects) == (3, 3, 2)
    assert report.objects_by_category == {"cat": 3, "dog": 0}
    split = ShardedSplit.open(tmp_path / "shards", "train")
    assert split.objects(0).boxes_xyxy.tolist() == [[60, 40, 64, 48], [1, 1, 5, 5], [0, 0, 64, 48]]
    assert split.to_coco()["annotations"][0]["bbox"] == boxes[1]
    written = json.loads((tmp_path / "shards" / "report.json").read_text())
    assert written["splits"]["train"]["dropped"]["zero area"] == [[first, 2], [first, 3]]


def test_run_length_masks_get_outlines_and_stay_what_they_are(tmp_path):
    rng = np.random.default_rng(0)
    masks = np.kron(rng.random((4, 12, 16)) < 0.5, np.ones((1, 4, 4))).astype(np.uint8)
    runs = [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
    rles = [{"size": run["size"], "counts": run["counts"].decode()} for run in runs]
    flat = masks[1].T.reshape(-1)
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *([0] if flat[0] else []), *changes, flat.size]).tolist()
    rles[1] = {"size": [48, 64], "counts": counts}
    polygon = coco_annotation(0, 100)["segmentation"]
    segmentations = [polygon, rles[0], polygon, rles[1], rles[2], polygon]
    rows = [coco_annotation(n + 1, 100, segmentation=s) for n, s in enumerate(segmentations)]
    rows.append(coco_annotation(7, 100, segmentation=rles[3], iscrowd=1))
    write_coco(tmp_path / "raw", images=2, annotations=rows)
    run(tmp_path / "raw", tmp_path, **ALL_TRAIN)
    split = ShardedSplit.open(tmp_path / "shards", "train")
    assert split.has_masks
    assert [a.get("segmentation") for a in split.to_coco()["annotations"]] == [*segmentations, rles[3]]
    objects = split.objects(0)
    for n, mask in ((1, masks[0]), (3, masks[1]), (4, masks[2])):
        rings = [ring.reshape(-1).tolist() for ring in objects.polygons[n]]
        filled = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, 48, 64)))
        assert (filled >= mask).all()  # holes are filled, nothing else
        assert filled.sum() < mask.sum() * 1.5
    assert [len(objects.polygons[n]) for n in (0, 2, 5, 6)] == [1, 1, 1, 0]
    np.testing.assert_array_equal(objects.polygons[5][0].reshape(-1), polygon[0])


def test_a_broken_mask_is_named(tmp_path):
    rows = [coco_annotation(5, 100, segmentation={"size": [48, 64], "counts": [5, 5]})]
    write_coco(tmp_path / "raw", images=2, annotations=rows)
    with pytest.raises(ValueError, match=r"annotation 5 of train_000\.jpg: run lengths of 10 pixels in a mask of 48 x"):
        run(tmp_path / "raw", tmp_path, **ALL_TRAIN)


def test_one_object_without_outline_and_there_are_no_masks(tmp_path):
    rows = [coco_annotation(1, 100), coco_annotation(2, 100, segmentation=None)]
    write_coco(tmp_path / "raw", images=1, annotations=rows)
    report = run(tmp_path / "raw", tmp_path, **ALL_TRAIN)
    assert report.splits["train"].objects_without_outline == 1
    assert not ShardedSplit.open(tmp_path / "shards", "train").has_masks


def test_unreadable_images_are_skipped_counted_and_named(root, tmp_path):
    path = root / "images" / "train_004.jpg"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    report = run(root, tmp_path, **ALL_TRAIN, max_corrupt_fraction=0.05)
    assert list(report.splits["train"].skipped) == ["train_004.jpg"]
    assert "truncated" in report.splits["train"].skipped["train_004.jpg"]
    split = ShardedSplit.open(tmp_path / "shards", "train")
    assert "train_004.jpg" not in split.file_names
    assert [split.objects(n).annotation_ids.tolist() for n in (3, 4)] == [[4], [6]]
    (root / "images" / "train_005.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2 of 20 train images .* = 0\.05: train_004\.jpg, train_005\.jpg"):
        run(root, tmp_path, **ALL_TRAIN, max_corrupt_fraction=0.05)


def test_absent_images_are_listed(root, tmp_path):
    for number in range(12):
        (root / "images" / f"train_{number:03d}.jpg").unlink()
    with pytest.raises(
        ValueError, match=r"12 images are not in .*: train_000\.jpg, .*train_009\.jpg and 2 more; to do without"
    ):
        run(root, tmp_path)


def test_an_image_of_another_size_than_annotated_is_an_error(root, tmp_path):
    write_image(root / "images" / "train_003.jpg", height=24, width=32)
    with pytest.raises(ValueError, match=r"1 images have another size .* train_003\.jpg is 32 x 24, not 64 x 48"):
        run(root, tmp_path)


def test_one_image_in_two_splits_is_an_error(root, tmp_path):
    split = {"annotations": "annotations/instances_train.json", "images": "images"}
    with pytest.raises(ValueError, match=r"train_000\.jpg: the image is both in train and in val"):
        run(root, tmp_path, splits={"train": split, "val": split})


@pytest.mark.parametrize(
    ("images", "annotations", "changes", "message"),
    [
        (0, [], {}, "the train split has no images"),
        (
            1,
            None,
            {},
            r"the train split has no images; the data's own train has 1, from which data\.val_fraction = 0\.5",
        ),
        (2, None, {"test_fraction": 0.4}, "the train split has no images; .* data\\.test_fraction = 0\\.4 draw"),
        (8, [coco_annotation(1, 100)], {}, r"no objects; if it was drawn from train, raise data\.val_fraction"),
        (3, [], {"val_fraction": 0.0, "test_fraction": 0.0}, "the train split has no objects"),
    ],
)
def test_an_empty_split_is_an_error(tmp_path, images, annotations, changes, message):
    write_coco(tmp_path / "raw", images=images, annotations=annotations)
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "raw", tmp_path, **{"val_fraction": 0.5, "test_fraction": 0.0, **changes})


def test_a_missing_root_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"data\.root: .*nowhere does not exist"):
        run(tmp_path / "nowhere", tmp_path)


def test_a_failure_leaves_the_old_shards_whole(root, tmp_path, monkeypatch):
    run(root, tmp_path)
    before = contents(tmp_path / "shards")

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("detcore.data.shard_writing.SplitWriter.finish", full_disk)
        run(root, tmp_path)
    assert contents(tmp_path / "shards") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "shards", "shards.raw_files"]


def test_broken_shards_are_replaced_and_other_folders_are_not(root, tmp_path):
    run(root, tmp_path)
    (tmp_path / "shards" / "dataset.json").unlink()
    (tmp_path / "shards" / "train" / "index.arrow").write_bytes(b"")
    run(root, tmp_path)
    assert len(ShardedSplit.open(tmp_path / "shards", "train")) == 16
    (tmp_path / "shards" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"shards holds thesis\.tex, which no prepare wrote"):
        run(root, tmp_path)


def test_every_image_decodes_to_rgb(tmp_path):
    names = ["0.jpg", "1.png", "2.bmp"]
    write_voc(tmp_path / "raw", {str(n): [voc_object("cat", (1, 1, 9, 9))] for n in range(3)})
    for path in (tmp_path / "raw" / "JPEGImages").iterdir():
        path.unlink()
    grey = Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64).astype(np.uint8))
    for name in names:
        grey.convert("P" if name == "1.png" else "L").save(tmp_path / "raw" / "JPEGImages" / name)
    report = run(tmp_path / "raw", tmp_path, format="voc", **ALL_TRAIN)
    assert report.splits["train"].converted == 2
    split = ShardedSplit.open(tmp_path / "shards", "train")
    assert split.file_names == names
    for n in range(3):
        image = Image.open(io.BytesIO(split.read(n)))
        assert image.mode in ("RGB", "L")
        close = np.abs(np.asarray(image.convert("L")).astype(int) - np.asarray(grey).astype(int)).mean()
        assert close < 3


def test_yolo_goes_the_same_way(tmp_path):
    write_yolo(tmp_path / "raw", {f"train/{n}": "1 0.5 0.5 0.25 0.5" for n in range(4)})
    report = run(tmp_path / "raw", tmp_path, format="yolo", val_fraction=0.25, test_fraction=0.25)
    assert {name: split.objects_by_category for name, split in report.splits.items()} == {
        "train": {"cat": 0, "dog": 2},
        "val": {"cat": 0, "dog": 1},
        "test": {"cat": 0, "dog": 1},
    }
    assert ShardedSplit.open(tmp_path / "shards", "train").objects(0).boxes_xyxy.tolist() == [[24, 12, 40, 36]]


def test_the_report_names_what_was_left_out(root, tmp_path, capsys):
    (root / "images" / "train_004.jpg").write_bytes(b"")
    prepare(data_config(root, tmp_path / "shards", max_corrupt_fraction=0.1, **ALL_TRAIN), seed=0)
    shown = capsys.readouterr().err
    assert "unreadable images skipped" in shown
    assert "train: left out: train_004.jpg: unreadable image" in shown
    assert "boxes clipped" not in shown  # none was


def test_bccd_loses_its_two_degenerate_boxes(shared, tmp_path):
    """4,888 boxes, 2 of zero area, splits of 205, 87 and 72 images: the data set's README."""
    report = run(shared / "data" / "bccd", tmp_path, name="bccd", format="voc", threads=2)
    assert {name: split.images for name, split in report.splits.items()} == {"train": 205, "val": 87, "test": 72}
    assert sum(split.objects for split in report.splits.values()) == 4886
    dropped = [name for split in report.splits.values() for name, _ in split.dropped["zero area"]]
    assert sorted(dropped) == ["BloodImage_00338.jpg", "BloodImage_00343.jpg"]
    classes = ("RBC", "WBC", "Platelets")
    totals = [sum(split.objects_by_category[name] for split in report.splits.values()) for name in classes]
    assert totals == [4153, 372, 361]


def test_coco_mini_keeps_every_value(shared, tmp_path):
    root = shared / "data" / "coco_mini"
    run(root, tmp_path, test_fraction=0.0)
    for name in ("train", "val"):
        source = json.loads((root / "annotations" / f"instances_{name}.json").read_text())
        labels = {c["id"]: n for n, c in enumerate(sorted(source["categories"], key=lambda c: c["id"]), 1)}
        keys = ("id", "image_id", "bbox", "area", "iscrowd", "segmentation")
        expected = {
            a["id"]: {**{key: a[key] for key in keys}, "category_id": labels[a["category_id"]]}
            for a in source["annotations"]
        }
        split = ShardedSplit.open(tmp_path / "shards", name)
        assert {a["id"]: a for a in split.to_coco()["annotations"]} == expected
        assert split.has_masks

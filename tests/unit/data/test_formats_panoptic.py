import json

import numpy as np
import pytest
from PIL import Image
from raw_folders import coco_annotation, data_config, write_image, write_panoptic

from detcore.config.data import SemanticPNGs, Split
from detcore.data import ShardedSplit, prepare
from detcore.data.formats import read_coco_panoptic, read_semantic

ALL_TRAIN = {"val_fraction": 0.0, "test_fraction": 0.0}


def prepared(root, tmp_path, **changes):
    config = data_config(root, tmp_path / "shards", **{"format": "coco_panoptic", **ALL_TRAIN, **changes})
    report = prepare(config, seed=0, progress=False)
    return ShardedSplit.open(tmp_path / "shards", "train"), report


def test_things_share_one_class_of_the_maps_and_stuff_comes_after(tmp_path):
    write_panoptic(tmp_path / "raw")
    split, _ = prepared(tmp_path / "raw", tmp_path)
    assert split.categories == ("cat", "dog")
    assert split.semantic_classes == ("things", "sky", "grass")
    assert split.has_semantic and split.has_panoptic and split.has_masks
    expected = np.full((48, 64), 255)
    expected[:, :60] = 1
    expected[10:20, 5:25] = expected[30:40, 30:50] = 0
    semantic = split.semantic(0)
    assert semantic.dtype == np.uint8
    np.testing.assert_array_equal(semantic, expected)
    np.testing.assert_array_equal(split.semantic(1), np.where(np.arange(64) < 60, 2, 255)[None].repeat(48, axis=0))
    ids, segments = split.panoptic(0)
    assert ids.dtype == np.int32 and sorted(np.unique(ids)) == [0, 5, 300, 70000]
    assert (ids[10:20, 5:25] == 70000).all() and (ids[:, 60:] == 0).all()
    assert segments == [
        {"id": 300, "category": 1, "is_thing": False, "iscrowd": 0},
        {"id": 70000, "category": 1, "is_thing": True, "iscrowd": 0},
        {"id": 5, "category": 0, "is_thing": True, "iscrowd": 1},
    ]
    assert split.panoptic(1)[1] == [{"id": 9, "category": 2, "is_thing": False, "iscrowd": 0}]


def test_things_come_from_the_segments(tmp_path):
    write_panoptic(tmp_path / "raw")
    split, _ = prepared(tmp_path / "raw", tmp_path)
    dog, cat = split.to_coco()["annotations"]
    assert (dog["bbox"], dog["area"], dog["category_id"], dog["iscrowd"]) == ([5, 10, 20, 10], 200, 2, 0)
    assert (cat["bbox"], cat["area"], cat["category_id"], cat["iscrowd"]) == ([30, 30, 20, 10], 200, 1, 1)
    assert dog["segmentation"]["size"] == [48, 64]
    outline = split.objects(0).polygons[0][0]
    assert sorted(map(tuple, outline.tolist())) == [(5, 10), (5, 20), (25, 10), (25, 20)]
    assert len(split.objects(1).labels) == 0


def test_things_may_come_from_cocos_own_instances(tmp_path):
    write_panoptic(tmp_path / "raw", instances=True)
    stated = {
        "annotations": "annotations/panoptic_train.json",
        "instances": "annotations/instances_train.json",
        "images": "images",
    }
    split, _ = prepared(tmp_path / "raw", tmp_path, splits={"train": stated})
    rows = [coco_annotation(1, 100, category_id=1), coco_annotation(2, 100, category_id=2)]
    assert split.to_coco()["annotations"] == rows
    assert split.image_ids.tolist() == [100, 101]
    assert split.has_panoptic and split.semantic_classes == ("things", "sky", "grass")


def test_splits_drawn_from_train_keep_their_maps(tmp_path):
    write_panoptic(tmp_path / "raw")
    config = data_config(
        tmp_path / "raw", tmp_path / "shards", format="coco_panoptic", val_fraction=0.5, test_fraction=0.0
    )
    prepare(config, seed=0, progress=False)
    for name in ("train", "val"):
        split = ShardedSplit.open(tmp_path / "shards", name)
        sky = split.image_ids.tolist() == [100]
        assert len(split) == 1 and (split.semantic(0)[0, 0] == 1) == sky
        assert [segment["id"] for segment in split.panoptic(0)[1]] == ([300, 70000, 5] if sky else [9])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["annotations"].pop(), "1 images without annotation: 100"),
        (lambda d: d["images"].pop(), "1 annotations of images that are not listed: 101"),
        (lambda d: d["annotations"][0].pop("segments_info"), "'segments_info' is missing"),
        (lambda d: d["categories"][0].pop("isthing"), "'isthing' is missing"),
        (lambda d: d["categories"].pop(), "unknown categories: 100"),
    ],
)
def test_faults_of_the_file_are_named(tmp_path, change, message):
    write_panoptic(tmp_path)
    path = tmp_path / "annotations" / "panoptic_train.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=message):
        read_coco_panoptic(tmp_path)


@pytest.mark.parametrize("fault", ["absent", "broken", "size", "unlisted", "grey"])
def test_an_image_whose_map_cannot_be_used_is_skipped_and_named(tmp_path, fault):
    write_panoptic(tmp_path / "raw")
    path = tmp_path / "raw" / "annotations" / "panoptic_train" / "train_1.png"
    reasons = {
        "absent": "train_1.png is not in",
        "broken": "unreadable map",
        "size": "train_1.png is 32 x 24, its image 64 x 48",
        "unlisted": "segment 77 is not in segments_info",
        "grey": "train_1.png is no RGB image",
    }
    match fault:
        case "absent":
            path.unlink()
        case "broken":
            path.write_bytes(path.read_bytes()[:60])
        case "size":
            Image.new("RGB", (32, 24)).save(path)
        case "unlisted":
            Image.new("RGB", (64, 48), (77, 0, 0)).save(path)
        case "grey":
            Image.new("L", (64, 48)).save(path)
    with pytest.raises(ValueError, match="1 of 2 train images cannot be read"):
        prepared(tmp_path / "raw", tmp_path)
    split, report = prepared(tmp_path / "raw", tmp_path, max_corrupt_fraction=0.5)
    assert len(split) == 1 and reasons[fault] in report.splits["train"].skipped["train_1.jpg"]


def write_semantic(root, values):
    for name, value in values.items():
        write_image(root / "images" / f"{name}.jpg")
        path = root / "annotations" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((48, 64), np.uint8)
        pixels[:, :10], pixels[0] = value, 255
        Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(("first_id", "expected"), [(0, [0, 2, 255]), (1, [1, 255])])
def test_folders_of_pngs(tmp_path, first_id, expected):
    """ADE20K's layout; its own files count classes from 1."""
    write_semantic(tmp_path / "raw", {"training/a": 2, "training/b": 2, "validation/c": 2})
    semantic = {"classes": ["wall", "floor", "door"], "first_id": first_id}
    split, report = prepared(tmp_path / "raw", tmp_path, format="semantic", semantic=semantic)
    assert sorted(report.splits) == ["train", "val"]
    assert split.semantic_classes == ("wall", "floor", "door") and split.categories == ()
    assert np.unique(split.semantic(1)).tolist() == expected
    assert split.has_semantic and not split.has_panoptic and split.file_names == ["a.jpg", "b.jpg"]
    assert split.to_coco()["annotations"] == []
    with pytest.raises(ValueError, match="train split has no panoptic maps"):
        split.panoptic(0)


def test_a_class_that_is_none_is_named(tmp_path):
    write_semantic(tmp_path / "raw", {"training/a": 3})
    semantic = {"classes": ["wall", "floor", "door"]}
    with pytest.raises(ValueError, match="1 of 1 train images cannot be read"):
        prepared(tmp_path / "raw", tmp_path, format="semantic", semantic=semantic)
    maps = read_semantic(tmp_path / "raw", None, SemanticPNGs(**semantic)).splits["train"].maps
    assert maps is not None
    with pytest.raises(ValueError, match=r"a\.png holds 3, the ids are 0\.\.2 and 255"):
        maps.read(0, (48, 64))


def test_names_that_differ_by_their_ends(tmp_path):
    """Cityscapes' layout, with a folder for each city."""
    write_image(tmp_path / "leftImg8bit/train/ulm/ulm_1_leftImg8bit.png")
    path = tmp_path / "gtFine/train/ulm/ulm_1_gtFine_labelTrainIds.png"
    path.parent.mkdir(parents=True)
    Image.new("L", (64, 48)).save(path)
    ends = {"image_suffix": "_leftImg8bit.png", "label_suffix": "_gtFine_labelTrainIds.png"}
    found = read_semantic(tmp_path, None, SemanticPNGs(classes=("road",), **ends))
    split = found.splits["train"]
    assert split.images["file_name"].to_pylist() == ["ulm/ulm_1_leftImg8bit.png"]
    assert split.maps is not None and split.maps.files == (path,)
    path.unlink()
    with pytest.raises(ValueError, match="1 PNGs of images are not there: ulm/ulm_1_gtFine"):
        read_semantic(tmp_path, None, SemanticPNGs(classes=("road",), **ends))
    with pytest.raises(ValueError, match=r"no images \*\.jpg; set data\.semantic\.image_suffix"):
        read_semantic(tmp_path, None, SemanticPNGs(classes=("road",)))


def test_coco_mini_panoptic(shared, tmp_path):
    """Areas and boxes of the things are those that COCO's own file states; counts are from the data set's README."""
    root = shared / "data" / "coco_mini"
    splits = {
        name: Split(annotations=f"annotations/panoptic_{name}.json", images="images") for name in ("train", "val")
    }
    data = read_coco_panoptic(root, splits)
    assert (len(data.categories), len(data.semantic_classes)) == (80, 54)
    assert [split.images.num_rows for split in data.splits.values()] == [26, 27]
    document = json.loads((root / "annotations" / "panoptic_val.json").read_text())
    things = {category["id"] for category in document["categories"] if category["isthing"]}
    stated = {entry["image_id"]: entry["segments_info"] for entry in document["annotations"]}
    split = data.splits["val"]
    expected = [
        (image_id, part["bbox"], part["area"])
        for image_id in split.images["image_id"].to_pylist()
        for part in stated[image_id]
        if part["category_id"] in things
    ]
    image_ids = np.array(split.images["image_id"])[np.array(split.objects["sample"])].tolist()
    found = zip(image_ids, split.objects["bbox"].to_pylist(), split.objects["area"].to_pylist(), strict=True)
    assert list(found) == expected
    assert split.maps is not None and split.maps.segments is not None and split.maps.segments.num_rows == 263

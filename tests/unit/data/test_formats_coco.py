import json
import math

import numpy as np
import pytest
from raw_folders import coco_annotation, data_config, write_coco, write_image

from detcore.config.data import Split
from detcore.data import KeypointLayout, ShardedSplit, prepare
from detcore.data.annotations import Annotations
from detcore.data.formats import read_coco


def edit(root, change, split="train"):
    path = root / "annotations" / f"instances_{split}.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def records(split):
    columns = Annotations(split.objects, num_samples=split.images.num_rows)
    return [columns.record(row, image_id=0) for row in range(len(columns))]


def test_values_are_the_sources_to_the_last_bit(tmp_path):
    rle = {"counts": "52203", "size": [9, 10]}
    runs = {"counts": [3, 2, 85], "size": [9, 10]}
    annotations = [
        coco_annotation(1, 101),
        coco_annotation(5, 100, category_id=90, iscrowd=1, segmentation=rle),
        coco_annotation(9, 100, segmentation=runs),
        coco_annotation(2**40, 100, segmentation=None, area=None),
    ]
    write_coco(tmp_path, annotations=annotations)
    data = read_coco(tmp_path)
    assert data.categories == ("cat", "dog")
    split = data.splits["train"]
    found = records(split)
    for record, annotation in zip(found, annotations, strict=True):
        for key in ("id", "bbox", "iscrowd"):
            assert record[key] == annotation[key]
        assert record["segmentation"] == annotation["segmentation"] if annotation["segmentation"] else True
        assert record["area"] == (annotation["area"] or 20.7 * 30.9)
    assert [record["category_id"] for record in found] == [1, 2, 1, 1]  # class + 1, whatever the source calls it
    assert split.objects["sample"].to_pylist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("layout", "images"),
    [
        ("annotations/instances_{}2017.json", "{}2017"),
        ("annotations/instances_{}2017.json", "images/{}2017"),
        ("annotations/instances_{}.json", "images/{}"),
        ("annotations/{}.json", "{}"),
        ("{}/_annotations.coco.json", "{}"),
        ("{}.json", "images"),
    ],
)
def test_usual_layouts_are_found(tmp_path, layout, images):
    val = "valid" if "_annotations" in layout else "val"
    for number, split in enumerate(("train", val, "test")):
        path = tmp_path / layout.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        name = f"{number}.jpg"
        write_image(tmp_path / images.format(split) / name)
        document = {
            "categories": [{"id": 1, "name": "cat"}],
            "images": [{"id": 1, "file_name": name}],
            "annotations": [],
        }
        path.write_text(json.dumps(document))
    found = read_coco(tmp_path).splits
    assert {name: str(split.folder.relative_to(tmp_path)) for name, split in found.items()} == {
        "train": images.format("train"),
        "val": images.format(val),
        "test": images.format("test"),
    }


def test_one_file_for_all_counts_as_train(tmp_path):
    write_coco(tmp_path)
    (tmp_path / "annotations" / "instances_train.json").rename(tmp_path / "annotations" / "instances_default.json")
    assert list(read_coco(tmp_path).splits) == ["train"]


def test_stated_splits_are_taken_as_stated(tmp_path):
    write_coco(tmp_path, split="train", images=2)
    write_coco(tmp_path, split="extra", images=3)
    split = Split(annotations="annotations/instances_extra.json", images="images")
    assert read_coco(tmp_path, {"train": split}).splits["train"].images.num_rows == 3


def test_two_candidates_for_a_split_are_an_error(tmp_path):
    for year in ("train2014", "train2017"):
        write_coco(tmp_path, split=year, images=1)
    with pytest.raises(ValueError, match=r"train could be .*2014.*2017.*set data\.splits"):
        read_coco(tmp_path)


def test_unused_supercategory_of_others_is_no_class(tmp_path):
    write_coco(tmp_path)

    def change(document):
        document["categories"] = [
            {"id": 0, "name": "animals", "supercategory": "none"},
            {"id": 7, "name": "cat", "supercategory": "animals"},
            {"id": 8, "name": "person", "supercategory": "person"},
        ]

    edit(tmp_path, change)
    assert read_coco(tmp_path).categories == ("cat", "person")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["annotations"][3].update(id=1), "two annotations with one id: 1"),
        (lambda d: d["images"][3].update(id=100), "two images with one id: 100"),
        (
            lambda d: d["images"][3].update(file_name="train_000.jpg"),
            "images with other ids have one file_name more than once: train_000",
        ),
        (lambda d: d["annotations"][3].update(category_id=8), r"unknown category 8 in annotation 4"),
        (lambda d: d["annotations"][3].update(image_id=8), "annotation 4 is of image 8, which is not listed"),
        (lambda d: d["annotations"][3].pop("bbox"), "entry 4 of annotations: 'bbox' is missing"),
        (lambda d: d["annotations"][3].update(bbox=[1, 2, 3]), "entry 4 of annotations: bbox"),
        (lambda d: d["annotations"][3].update(bbox=[1, 2, 3, "x"]), "entry 4 of annotations"),
        (lambda d: d["annotations"][3].update(segmentation=[[1, 2, 3]]), "entry 4 of annotations: segmentation"),
        (lambda d: d["annotations"][3].update(id="four"), "entry four of annotations"),
        (lambda d: d["images"][3].pop("file_name"), "entry 103 of images: 'file_name' is missing"),
        (lambda d: d.pop("categories"), "has no list categories"),
        (lambda d: d["images"].append(3), "images holds 3, not an object"),
    ],
)
def test_faults_are_named_with_their_file(tmp_path, change, message):
    write_coco(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(ValueError, match=rf"instances_train\.json: .*{message}"):
        read_coco(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"images": [', '{"images" 3}', "not json"])
def test_what_is_not_cocos_json_is_named(tmp_path, text):
    write_coco(tmp_path)
    (tmp_path / "annotations" / "instances_train.json").write_text(text)
    with pytest.raises(ValueError, match=r"instances_train\.json: "):
        read_coco(tmp_path)


def test_categories_that_differ_between_splits_are_an_error(tmp_path):
    write_coco(tmp_path)
    write_coco(tmp_path, split="val")
    edit(tmp_path, lambda d: d["categories"][0].update(name="horse"), split="val")
    with pytest.raises(ValueError, match="category 7 is both 'cat' and 'horse'"):
        read_coco(tmp_path)


def test_two_categories_of_one_name_are_an_error(tmp_path):
    write_coco(tmp_path)
    edit(tmp_path, lambda d: d["categories"][1].update(name="cat"))
    with pytest.raises(ValueError, match="categories with other ids have one name more than once: cat"):
        read_coco(tmp_path)


def test_what_is_not_utf8_is_named(tmp_path):
    write_coco(tmp_path)
    path = tmp_path / "annotations" / "instances_train.json"
    path.write_bytes(path.read_bytes().replace(b"cat", b"\xe9"))
    with pytest.raises(ValueError, match=r"instances_train\.json: is not UTF-8"):
        read_coco(tmp_path)


def test_a_folder_without_annotations_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no annotations such as annotations"):
        read_coco(tmp_path)


def test_coco_mini_is_read_whole(shared):
    """Counts from the data set's README."""
    data = read_coco(shared / "data" / "coco_mini")
    counts = {name: (split.images.num_rows, split.objects.num_rows) for name, split in data.splits.items()}
    assert counts == {"train": (26, 333), "val": (47, 469)}
    assert len(data.categories) == 80
    assert data.categories[0] == "person"


PERSON = {"id": 7, "name": "cat", "keypoints": ["nose", "left_eye", "right_eye"], "skeleton": [[1, 2], [1, 3]]}


def write_keypoints(root):
    points = [[12, 13, 2, 14, 15, 1, 0, 0, 0], [0] * 9]
    rows = [coco_annotation(n + 1, 100 + n, keypoints=p, num_keypoints=2 - 2 * n) for n, p in enumerate(points)]
    write_coco(root, images=2, annotations=[*rows, coco_annotation(3, 100, category_id=90)])
    edit(root, lambda d: d.update(categories=[PERSON, {"id": 90, "name": "dog"}]))


def test_keypoints_and_their_layout(tmp_path):
    write_keypoints(tmp_path)
    data = read_coco(tmp_path)
    assert data.keypoints == KeypointLayout.of(PERSON["keypoints"], [(0, 1), (0, 2)])
    assert data.splits["train"].objects["keypoints"].to_pylist() == [[12, 13, 2, 14, 15, 1, 0, 0, 0], [0] * 9, None]


def test_keypoints_come_back_from_shards_half_a_pixel_on(tmp_path):
    """COCO's keypoints are numbers of pixels, whose centres lie at .5."""
    write_keypoints(tmp_path / "raw")
    config = data_config(tmp_path / "raw", tmp_path / "shards", val_fraction=0.0, test_fraction=0.0)
    prepare(config, seed=0, progress=False)
    split = ShardedSplit.open(tmp_path / "shards", "train")
    keypoints = split.objects(0).keypoints
    assert keypoints is not None
    assert keypoints.tolist() == [[[12.5, 13.5, 2], [14.5, 15.5, 1], [0, 0, 0]], [[0, 0, 0]] * 3]
    truth = split.to_coco()
    first, dog, second = truth["annotations"]
    assert (first["keypoints"], first["num_keypoints"]) == ([12, 13, 2, 14, 15, 1, 0, 0, 0], 2)
    assert second["num_keypoints"] == 0 and "keypoints" not in dog
    assert truth["categories"][0] == {**PERSON, "id": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["annotations"][0].update(keypoints=[1, 2]), "entry 1 of annotations: keypoints are 2 numbers"),
        (
            lambda d: d["annotations"][0].update(keypoints=[1, 2, 2]),
            "annotation 1 has 1 keypoints, its categories name 3",
        ),
        (lambda d: d["categories"][0].pop("keypoints"), "annotation 1 has 3 keypoints, its categories name 0"),
        (lambda d: d["categories"][1].update(keypoints=["tail"]), "cat, dog have keypoints of different kinds"),
    ],
)
def test_keypoints_that_do_not_fit_are_named(tmp_path, change, message):
    write_keypoints(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        read_coco(tmp_path)


@pytest.mark.parametrize(
    ("angles", "angle"),
    [
        ("degrees_ccw", 30.0),
        ("degrees_ccw", -150.0),
        ("degrees_cw", -30.0),
        ("radians_ccw", math.pi / 6),
        ("radians_cw", 5 * math.pi / 6),
    ],
)
def test_rotated_boxes_in_any_unit_and_sense(tmp_path, angles, angle):
    """Each is a box at 30 degrees counter-clockwise, or the same turned by 180."""
    rows = [coco_annotation(1, 100, bbox=[30, 20, 20, 10, angle], segmentation=None)]
    rows[0].pop("area")
    write_coco(tmp_path, images=1, annotations=rows)
    split = read_coco(tmp_path, angles=angles).splits["train"]
    np.testing.assert_allclose(split.objects["bbox_rotated"].to_pylist(), [[30, 20, 20, 10, 30]])
    assert split.objects["area"].to_pylist() == [200]
    half_w, half_h = 10 * math.cos(math.pi / 6) + 2.5, 5 + 5 * math.cos(math.pi / 6)
    upright = [30 - half_w, 20 - half_h, 2 * half_w, 2 * half_h]
    np.testing.assert_allclose(split.objects["bbox"].to_pylist(), [upright])


def test_rotated_boxes_are_of_their_own_format(tmp_path):
    write_coco(tmp_path, images=1, annotations=[coco_annotation(1, 100, bbox=[30, 20, 20, 10, 0])])
    with pytest.raises(ValueError, match=r"set data\.format to coco_rotated"):
        read_coco(tmp_path)
    write_coco(tmp_path, images=1)
    with pytest.raises(ValueError, match="is not cx, cy, width, height, angle"):
        read_coco(tmp_path, angles="degrees_ccw")


def test_ignored_categories_are_crowd_regions_of_every_class(tmp_path):
    rows = [coco_annotation(1, 100), coco_annotation(5, 101, category_id=8), coco_annotation(3, 101, category_id=90)]
    write_coco(tmp_path, images=2, annotations=rows)
    edit(tmp_path, lambda d: d["categories"].append({"id": 8, "name": "DontCare"}))
    data = read_coco(tmp_path, ignore=["DontCare"])
    assert data.categories == ("cat", "dog")
    objects = data.splits["train"].objects
    columns = [objects[name].to_pylist() for name in ("sample", "annotation_id", "label", "crowd")]
    assert list(zip(*columns, strict=True)) == [(0, 1, 0, False), (1, 3, 1, False), (1, 6, 0, True), (1, 7, 1, True)]
    with pytest.raises(ValueError, match=r"data\.ignore names horse, which is no category"):
        read_coco(tmp_path, ignore=["horse"])


def test_hit_uav_is_read_whole(shared):
    """Counts from the data set's README and files; regions DontCare (7 in train) are there for each of 4 classes."""
    splits = {"train": Split(annotations="rotated_train.json", images="images")}
    data = read_coco(shared / "data" / "hit_uav", splits, angles="radians_cw", ignore=["DontCare"])
    assert data.categories == ("Person", "Car", "Bicycle", "OtherVehicle")
    objects = data.splits["train"].objects
    assert objects.num_rows == 1112 - 7 + 4 * 7
    assert sum(objects["crowd"].to_pylist()) == 28
    angles = np.array(objects["bbox_rotated"].to_pylist())[:, 4]
    assert angles.min() >= -90 and angles.max() < 90

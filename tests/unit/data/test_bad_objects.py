"""Objects that are wrong in themselves: left out and named, or refused by file and annotation."""

import json
import math

import numpy as np
import pytest
from raw_folders import coco_annotation, data_config, write_coco

from detcore.data import ShardedSplit, prepare

WHOLE = {"val_fraction": 0.0, "test_fraction": 0.0}
KEYPOINTS = {"keypoints": ["left", "right"], "skeleton": [[1, 2]]}


def run(tmp_path, *annotations, **changes):
    """Prepares two images of 48 x 64, the annotations all on the first; returns its report."""
    rows = [{**coco_annotation(number, 100), **own} for number, own in enumerate(annotations, 1)]
    write_coco(tmp_path / "raw", images=2, annotations=rows)
    path = tmp_path / "raw" / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    document["categories"][0] |= KEYPOINTS
    path.write_text(json.dumps(document))
    return prepare(data_config(tmp_path / "raw", tmp_path / "shards", **WHOLE, **changes), seed=0, progress=False)


GOOD = {"segmentation": [[1, 1, 20, 1, 20, 20]]}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"bbox": [1, 1, math.nan, 4]}, "not a number"),
        ({"bbox": [1, 1, math.inf, 4]}, "not a number"),
        ({"area": math.nan}, "not a number"),
        ({"segmentation": [[1, 1, 20, math.nan, 20, 20]]}, "not a number"),
        ({"keypoints": [1, 1, 2, math.inf, 1, 2]}, "not a number"),
        ({"segmentation": [[1, 1, 20, 20]]}, "segmentation without area"),
        ({"segmentation": [[]]}, "segmentation without area"),
        ({"segmentation": [[70, 1, 90, 1, 90, 20]]}, "outside the image"),
        ({"segmentation": [[1, -9, 20, -9, 20, 0]]}, "outside the image"),
        ({"segmentation": {"counts": [48 * 64], "size": [48, 64]}}, "segmentation without area"),
    ],
)
def test_what_cannot_be_trained_on_is_left_out_and_named(tmp_path, bad, reason):
    report = run(tmp_path, GOOD, {**GOOD, **bad}).splits["train"]
    assert {why: places for why, places in report.dropped.items() if places} == {reason: [("train_000.jpg", 2)]}
    assert report.objects == 1


def test_rotated_boxes_that_are_no_numbers_are_left_out_and_named(tmp_path):
    boxes = [[30, 20, 10, 5, angle] for angle in (10.0, math.nan, math.inf)]
    write_coco(
        tmp_path / "raw", images=1, annotations=[coco_annotation(n, 100, bbox=box) for n, box in enumerate(boxes, 1)]
    )
    config = data_config(tmp_path / "raw", tmp_path / "shards", format="coco_rotated", **WHOLE)
    report = prepare(config, seed=0, progress=False).splits["train"]
    assert report.dropped["not a number"] == [("train_000.jpg", 2), ("train_000.jpg", 3)]


def test_an_outline_that_crosses_itself_is_taken_as_it_is(tmp_path):
    """COCO's own have such: whoever fills them decides. So is a ring partly outside, or too short beside a good one."""
    bow = [[5, 5, 25, 25, 25, 5, 5, 25]]
    mixed = [[1, 1, 2, 2], [50, 5, 90, 5, 90, 30]]
    report = run(tmp_path, {"segmentation": bow}, {"segmentation": mixed})
    split = ShardedSplit.open(tmp_path / "shards", "train")
    assert report.splits["train"].objects == 2 and split.has_masks
    assert [annotation["segmentation"] for annotation in split.to_coco()["annotations"]] == [bow, mixed]
    np.testing.assert_array_equal(split.objects(0).polygons[1], [[[50, 5], [90, 5], [90, 30]]])


@pytest.mark.parametrize("crowd", [0, 1])
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"counts": [5, 5], "size": [48, 64]}, "run lengths of 10 pixels in a mask of 48 x 64"),
        ({"counts": [48 * 63], "size": [48, 63]}, r"mask of size \[48, 63\] on an image of \[48, 64\]"),
        ({"counts": [2**62] * 4 + [48 * 64], "size": [48, 64]}, "run lengths of 18446744073709554688 pixels"),
        ({"counts": "o" * 40, "size": [48, 64]}, "run-length counts hold a number beyond any image"),
        ({"counts": "é", "size": [48, 64]}, "character 'é' in run-length counts"),
        ({"counts": "0o", "size": [48, 64]}, "run-length counts end within a number"),
    ],
)
def test_a_broken_mask_is_named_also_of_a_crowd_region(tmp_path, crowd, mask, message):
    where = r"instances_train\.json: annotation 2 of train_000\.jpg: "
    with pytest.raises(ValueError, match=where + message):
        run(tmp_path, GOOD, {"segmentation": mask, "iscrowd": crowd})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"segmentation": {"counts": [-1, 3073], "size": [48, 64]}}, r"counts -1 is not in 0\.\."),
        ({"segmentation": {"counts": [1.5], "size": [48, 64]}}, "counts 1.5 is not a whole number"),
        ({"segmentation": {"counts": [3072], "size": [48]}}, r"size \[48\] of a mask is not height, width"),
        ({"segmentation": {"counts": [3072], "size": [48, 2**40]}}, "size 1099511627776 is not in"),
        ({"segmentation": [[1, 2, None]]}, "a ring of segmentation .* is not a list of numbers"),
        ({"segmentation": 5}, "segmentation 5 is neither rings"),
        ({"iscrowd": "0"}, "iscrowd '0' is neither 0 nor 1"),
        ({"bbox": {"x": 1, "y": 1, "w": 1, "h": 1}}, "bbox .* is not a list of numbers"),
        ({"bbox": [1, 2, "x", 10**12]}, "bbox .* is not a list of numbers"),
        ({"bbox": [1, 2, 10**400, 1]}, "int too large to convert to float"),
        ({"keypoints": [1, 2]}, "keypoints are 2 numbers"),
        ({"keypoints": "x"}, "keypoints 'x' is not a list of numbers"),
        ({"area": "big"}, "area 'big' is not a number"),
        ({"id": True}, "id True is not a whole number"),
        ({"id": 2**63}, "id 9223372036854775808 is not in"),
        ({"image_id": 100.0}, "image_id 100.0 is not a whole number"),
        ({"category_id": None}, "category_id None is not a whole number"),
    ],
)
def test_values_of_another_kind_are_refused_by_entry(tmp_path, bad, message):
    with pytest.raises(ValueError, match=rf"instances_train\.json: entry .* of annotations: {message}"):
        run(tmp_path, GOOD, bad)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ('{"images": [],\n "annotations": [}', "is not JSON: Expecting value: line 2 column 18"),
        ('{"images": [] "annotations": []}', "expecting '}': line 1 column 15"),
        ('{"images": [], "annotations": [], "categories": []} {}', "is not JSON: expecting the end: line 1 column 53"),
        ('{"images": [], "images": []}', "has two lists images"),
        ('{"images": {}}', "images is {}, not a list"),
        ('{"images": [{"id": ' + "[" * 100_000, "is nested too deeply"),
        ('{"info": ' + "[" * 100_000, "is nested too deeply"),
        ("[]", "is not JSON: expecting '{': line 1 column 1"),
    ],
)
def test_what_is_no_json_is_refused_by_line_and_column(tmp_path, text, message):
    write_coco(tmp_path / "raw", images=1)
    (tmp_path / "raw" / "annotations" / "instances_train.json").write_text(text)
    with pytest.raises(ValueError, match=rf"instances_train\.json: .*{message}"):
        prepare(data_config(tmp_path / "raw", tmp_path / "shards", **WHOLE), seed=0, progress=False)

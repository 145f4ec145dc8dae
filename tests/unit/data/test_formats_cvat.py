"""CVAT's XML 1.1: exports as docs.cvat.ai describes them ('XML annotation format')."""

import hotcoco
import numpy as np
import pytest
from cvat_exports import CVAT_IMAGES, CVAT_TRACKS, write_cvat, write_cvat_video
from raw_folders import data_config, write_image

from detcore.config.data import Split
from detcore.data import ShardedSplit, check, prepare
from detcore.data.formats import read_cvat
from detcore.data.outlines import decode_mask


def run(root, shards, **changes):
    config = data_config(root, shards, format="cvat", test_fraction=0, val_fraction=0, **changes)
    report = prepare(config, seed=0, progress=False).splits["train"]
    return report, ShardedSplit.open(shards, "train")


def boxes_of(split):
    found = {}
    for sample, box in zip(*(split.objects[name].to_pylist() for name in ("sample", "bbox")), strict=True):
        found.setdefault(split.images["file_name"][sample].as_py(), []).append(box)
    return found


def test_every_kind_of_shape_comes_through_the_shards(tmp_path):
    write_cvat(tmp_path / "raw")
    report, split = run(tmp_path / "raw", tmp_path / "shards")
    assert split.categories == ("car", "person")
    assert split.keypoints.names == ("head", "left hand", "right hand") and split.keypoints.skeleton == ((0, 2),)
    assert split.keypoints.flip == (0, 2, 1)
    box, polygon, mask, skeleton, ellipse = split.to_coco()["annotations"]
    assert box["bbox"] == [10, 5.5, 20.25, 14.5] and "segmentation" not in box
    assert polygon["segmentation"] == [[40, 10, 60, 10, 60, 30]] and polygon["area"] == 200
    # 1 off, 2 on, 1 off, 4 on along the rows of 4: .XX. and XXXX.
    assert mask["bbox"] == [20, 30, 4, 2] and mask["area"] == 6
    pixels = decode_mask(np.array(mask["segmentation"]["counts"]), height=48, width=64)
    assert np.argwhere(pixels).tolist() == [[30, 21], [30, 22], [31, 20], [31, 21], [31, 22], [31, 23]]
    assert skeleton["category_id"] == 2 and skeleton["bbox"] == [38.5, 12.25, 11.5, 28.25]
    assert skeleton["num_keypoints"] == 2
    np.testing.assert_array_equal(split.objects(0).keypoints[3], [[38.5, 12.25, 2], [0, 0, 0], [50, 40.5, 1]])
    # Turned by 90 degrees: 10 wide and 20 high.
    np.testing.assert_allclose(ellipse["bbox"], [27, 14, 10, 20], atol=1e-9)
    assert ellipse["area"] == pytest.approx(np.pi * 50, rel=0.002)
    assert report.dropped["polyline, which is no target"] == [("lot/a.jpg", 5)]
    assert report.dropped["tag, which is no target"] == [("lot/a.jpg", 6)]


def test_the_check_tells_what_is_left_out(tmp_path):
    write_cvat(tmp_path)
    found = {one.code: one for one in check(tmp_path).findings}
    assert found["no_target"].places == (
        "train: lot/a.jpg: annotation 5: polyline, which is no target",
        "train: lot/a.jpg: annotation 6: tag, which is no target",
    )


def test_where_a_box_is_rotated_every_box_has_a_rotated_one(tmp_path):
    """CVAT turns clockwise about the centre."""
    image = (
        '<image id="0" name="b.jpg" width="64" height="48">'
        '<box label="car" occluded="0" xtl="20" ytl="20" xbr="40" ybr="30" rotation="30.00" z_order="0"/>'
        '<box label="car" occluded="0" xtl="1" ytl="2" xbr="4" ybr="8" z_order="0"/></image>'
    )
    write_cvat(tmp_path / "raw", images=image)
    _, split = run(tmp_path / "raw", tmp_path / "shards")
    assert split.has_rotated
    np.testing.assert_allclose(split.objects(0).boxes_xywha, [[30, 25, 20, 10, -30], [2.5, 5, 3, 6, 0]], atol=1e-12)
    width, height = 20 * np.cos(np.pi / 6) + 10 * 0.5, 20 * 0.5 + 10 * np.cos(np.pi / 6)
    expected = [30 - width / 2, 25 - height / 2, 30 + width / 2, 25 + height / 2]
    np.testing.assert_allclose(split.objects(0).boxes_xyxy[0], expected)


def test_tracks_are_read_frame_by_frame(tmp_path):
    write_cvat_video(tmp_path / "raw")
    report, split = run(tmp_path / "raw", tmp_path / "shards")
    assert (report.images, report.images_without_objects) == (5, 2)
    by_frame = {}
    for annotation in split.to_coco()["annotations"]:
        by_frame.setdefault(split.file_names[annotation["image_id"] - 1], []).append(annotation["bbox"])
    assert by_frame == {
        "frame_000000.png": [[0, 0, 10, 10]],
        "frame_000001.png": [[10, 5, 15, 10], [10, 20, 10, 10]],  # half way, and the skeleton
        "frame_000002.png": [[20, 10, 20, 10]],
    }


def test_a_track_stays_before_it_goes_outside_and_where_points_differ_in_number(tmp_path):
    tracks = (
        '<track id="0" label="car"><polygon frame="0" keyframe="1" outside="0" occluded="0" points="1,1;9,1;9,9"/>'
        '<polygon frame="2" keyframe="1" outside="0" occluded="0" points="21,1;29,1;29,9;21,9"/>'
        '<polygon frame="4" keyframe="1" outside="1" occluded="0" points="31,1;39,1;39,9;31,9"/></track>'
    )
    write_cvat_video(tmp_path, tracks=tracks)
    split = read_cvat(tmp_path).splits["train"]
    first, second = [1, 1, 8, 8], [21, 1, 8, 8]
    assert list(boxes_of(split).values()) == [[first], [first], [second], [second]]


def test_a_rotation_takes_the_shorter_way(tmp_path):
    box = '<box frame="{}" keyframe="1" outside="0" occluded="0" xtl="20" ytl="20" xbr="40" ybr="30" rotation="{}"/>'
    tracks = f'<track id="0" label="car">{box.format(0, 350)}{box.format(2, 20)}</track>'
    write_cvat_video(tmp_path, tracks=tracks)
    rotated = read_cvat(tmp_path).splits["train"].objects["bbox_rotated"].to_pylist()
    np.testing.assert_allclose([box[4] for box in rotated], [10, -5, -20], atol=1e-9)  # 350, 5 and 20 degrees clockwise


def test_points_are_keypoints_where_all_are_as_many(tmp_path):
    image = (
        '<image id="{0}" name="{0}.jpg" width="64" height="48"><points label="car" occluded="0" points="{1}"/></image>'
    )
    for number in range(2):
        write_image(tmp_path / "images" / f"{number}.jpg", seed=number)
    write_cvat(tmp_path, images=image.format(0, "1,2;3,4") + image.format(1, "5,6;9,9"))
    text = (tmp_path / "annotations.xml").read_text()
    cut = text[: text.index("<label><name>person")] + text[text.index("</labels>") :]
    (tmp_path / "annotations.xml").write_text(cut)
    data = read_cvat(tmp_path)
    assert data.categories == ("car",) and data.keypoints.names == ("1", "2")
    assert data.splits["train"].objects["keypoints"].to_pylist()[0] == [0.5, 1.5, 2, 2.5, 3.5, 2]
    (tmp_path / "annotations.xml").write_text(cut.replace("5,6;9,9", "5,6"))
    split = read_cvat(tmp_path).splits["train"]
    assert split.objects.num_rows == 0
    assert split.left_out == {"points, which is no target": [("0.jpg", 1), ("1.jpg", 1)]}


def test_subsets_of_a_project_are_splits(tmp_path):
    image = '<image id="0" name="{0}.jpg" subset="{1}" width="64" height="48"/>'
    pairs = [("one", "Train"), ("one", "Validation"), ("two", "default"), ("three", "Train")]
    for name, subset in pairs:
        write_image(tmp_path / "images" / (subset if name != "three" else "") / f"{name}.jpg")
    images = "".join(image.format(*pair) for pair in pairs)
    write_cvat(tmp_path, images=images)
    splits = read_cvat(tmp_path).splits
    assert {name: split.images["file_name"].to_pylist() for name, split in splits.items()} == {
        "train": ["Train/one.jpg", "default/two.jpg", "three.jpg"],
        "val": ["Validation/one.jpg"],
    }
    assert all(
        (split.folder / name).is_file() for split in splits.values() for name in split.images["file_name"].to_pylist()
    )
    write_cvat(tmp_path, images=images + image.format("c", "holdout"))
    with pytest.raises(ValueError, match=r"image 'c\.jpg' is of subset 'holdout', which is none of Train"):
        read_cvat(tmp_path)


def test_one_file_a_split(tmp_path):
    for name in ("train", "validation"):
        write_cvat(tmp_path / name)
    data = read_cvat(tmp_path)
    assert {name: split.folder for name, split in data.splits.items()} == {
        "train": tmp_path / "train" / "images",
        "val": tmp_path / "validation" / "images",
    }
    stated = Split(annotations="validation/annotations.xml", images="validation/images")
    assert list(read_cvat(tmp_path, {"test": stated}).splits) == ["test"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('xtl="10.00" ', "", "image 'lot/a.jpg': <box> has no xtl"),
        ('xtl="10.00"', 'xtl="left"', "image 'lot/a.jpg': xtl 'left' is not a number"),
        ("40.00,10.00;60.00,10.00;", "", "image 'lot/a.jpg': a polygon of 1 points"),
        ("40.00,10.00;60.00,10.00;", "40.00;", "image 'lot/a.jpg': points .* are not x,y;x,y"),
        ('rle="1, 2, 1, 4"', 'rle="1, 2, 1, 3"', "'lot/a.jpg': shape 3: run lengths of 7 pixels in a mask of 4 x 2"),
        ('rle="1, 2, 1, 4"', 'rle="1, -2, 1, 4"', "rle ' -2' is not a whole number"),
        ('left="20"', 'left="62"', "shape 3: a mask of 4 x 2 at 62, 30 leaves its image of 64 x 48"),
        ('<box label="car"', '<box label="lorry"', "unknown label 'lorry'; the labels are car, person"),
        ('<box label="car"', "<box", "<box> has no label"),
        ('points label="head" source', 'points label="foot" source', "'foot' is not among the points of its label"),
        ('occluded="1" points="50.00,40.50"', 'occluded="2" points="50,40"', "occluded '2' is neither 0 nor 1"),
        ("ellipse", "circle", "unknown kind of annotation <circle>"),
        ('width="64" height="48">\n    <box', 'width="6x" height="48">\n    <box', "width '6x' is not a whole number"),
        ('name="b.jpg"', 'name="lot/a.jpg"', "has an image more than once: lot/a.jpg"),
        ("</image>\n  <image", "</imag>\n  <image", "mismatched tag: line [0-9]+, column [0-9]+"),
    ],
)
def test_faults_are_named_with_their_file_and_image(tmp_path, old, new, message):
    assert old in CVAT_IMAGES
    write_cvat(tmp_path, images=CVAT_IMAGES.replace(old, new))
    with pytest.raises(ValueError, match=rf"annotations\.xml: .*{message}"):
        read_cvat(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('<box frame="2"', '<box frame="0"', "track '0': two shapes in frame 0"),
        ('<box frame="2"', "<box", "track '0': <box> has no frame"),
        ('<box frame="3"', '<box frame="1000000000"', None),
        ('xtl="20.00"', "", "track '0': frame 2: <box> has no xtl"),
        ('frame="1"', 'frame="7"', "track '1': is in frame 7, of which there is no image"),
    ],
)
def test_faults_of_tracks_are_named(tmp_path, old, new, message):
    write_cvat_video(tmp_path, tracks=CVAT_TRACKS.replace(old, new))
    if message is None:  # outside in a frame far away: the box stays to the end
        assert [len(boxes) for boxes in boxes_of(read_cvat(tmp_path).splits["train"]).values()] == [1, 2, 1, 1, 1]
        return
    with pytest.raises(ValueError, match=rf"annotations\.xml: {message}"):
        read_cvat(tmp_path)


def test_entities_are_refused(tmp_path):
    write_cvat(tmp_path)
    path = tmp_path / "annotations.xml"
    bomb = '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]>'
    path.write_text(path.read_text().replace("<annotations>", f"{bomb}<annotations>"))
    with pytest.raises(ValueError, match=r"annotations\.xml: declares the document type 'a', which is not allowed"):
        read_cvat(tmp_path)


def test_what_hotcoco_writes_is_read_back(tmp_path, shared):
    """hotcoco writes polygons of coco_mini as CVAT has them; what has several rings becomes several."""
    source = shared / "data" / "coco_mini"
    coco = hotcoco.COCO(str(source / "annotations" / "instances_val.json"))
    counts = coco.to_cvat(str(tmp_path / "annotations.xml"))
    (tmp_path / "images").symlink_to(source / "images")
    data = read_cvat(tmp_path)
    split = data.splits["train"]
    assert data.categories == tuple(category["name"] for category in coco.dataset["categories"])
    assert split.images.num_rows == counts["images"]
    assert split.objects.num_rows == counts["boxes"] + counts["polygons"]
    theirs = hotcoco.COCO.from_cvat(str(tmp_path / "annotations.xml"))
    files = {image["id"]: image["file_name"] for image in theirs.dataset["images"]}
    expected = {}
    for annotation in theirs.dataset["annotations"]:
        expected.setdefault(files[annotation["image_id"]], []).append(annotation["bbox"])
    found = boxes_of(split)
    assert found.keys() == expected.keys()
    for name, boxes in found.items():
        np.testing.assert_allclose(sorted(boxes), sorted(expected[name]), atol=1e-6)

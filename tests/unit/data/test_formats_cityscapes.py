"""Cityscapes: files as its toolbox's documentation describes them, and conf/data's own of the semantic formats."""

import json

import numpy as np
import pytest
from PIL import Image
from raw_folders import data_config, write_cityscapes, write_image, write_semantic

from detcore import config as detcore_config
from detcore.data import ShardedSplit, prepare
from detcore.data.formats import read_cityscapes, read_semantic
from detcore.data.outlines import decode_mask

POLYGONS = "gtFine/train/bochum/bochum_000000_000019_gtFine_polygons.json"


def run(root, shards, **changes):
    config = data_config(root, shards, test_fraction=0, val_fraction=0, **changes)
    report = prepare(config, seed=0, progress=False)
    return report, ShardedSplit.open(shards, "train")


def test_what_is_to_see_of_each_thing_comes_through_the_shards(tmp_path):
    write_cityscapes(tmp_path / "raw")
    report, split = run(tmp_path / "raw", tmp_path / "shards", format="cityscapes")
    assert split.categories == ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    assert split.has_masks and split.has_semantic
    person, first, second = sorted(split.to_coco()["annotations"], key=lambda a: (a["category_id"], a["bbox"]))
    assert (person["category_id"], person["iscrowd"], person["bbox"]) == (1, 1, [40, 30, 6, 6])
    # PIL draws both ends: the first car is 10..19, the second 15..30, in both directions 10 rows and 16.
    assert (first["category_id"], first["bbox"], first["area"]) == (3, [10, 10, 5, 10], 50)
    assert (second["bbox"], second["area"], second["iscrowd"]) == ([15, 10, 16, 16], 256, 0)
    mask = decode_mask(np.array(first["segmentation"]["counts"]), height=48, width=64)
    expected = np.zeros((48, 64), bool)
    expected[10:20, 10:15] = True
    np.testing.assert_array_equal(mask, expected)
    name = "bochum/bochum_000000_000019_leftImg8bit.png"
    assert report.splits["train"].dropped["wholly behind others"] == [(name, 2)]


def test_semantic_classes_are_those_evaluated(tmp_path):
    write_cityscapes(tmp_path / "raw")
    _, split = run(tmp_path / "raw", tmp_path / "shards", format="cityscapes")
    pixels = split.semantic(0)
    names = split.semantic_classes
    assert len(names) == 19 and names[0] == "road" and names[18] == "bicycle"
    assert (pixels[:2] == 255).all(), "out of roi"
    assert names[pixels[5, 5]] == "road" and names[pixels[12, 12]] == "car" and names[pixels[31, 41]] == "person"


def test_splits_are_found_without_test(tmp_path):
    for split in ("train", "val", "test"):
        write_cityscapes(tmp_path, split=split, numbers=2)
    data = read_cityscapes(tmp_path)
    assert list(data.splits) == ["train", "val"]
    assert [split.images["image_id"].to_pylist() for split in data.splits.values()] == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("imgHeight"), "'imgHeight' is missing"),
        (lambda d: d.update(imgWidth=63), r"imgHeight, imgWidth are \(48, 63\), those of the image \(48, 64\)"),
        (lambda d: d["objects"][2].update(label="carr"), "object 3: unknown label 'carr'"),
        (lambda d: d["objects"][2].update(polygon=[[1, 1], [2, 2]]), "object 3: polygon .* is not 3 or more finite"),
        (lambda d: d["objects"][2]["polygon"][0].append(1), "object 3: polygon .* is not 3 or more finite"),
        (lambda d: d["objects"][2]["polygon"][0].__setitem__(0, float("nan")), "object 3: polygon .* is not 3 or more"),
        (lambda d: d["objects"][2].pop("label"), "object 3: 'label' is missing"),
        (lambda d: d["objects"].insert(0, "x"), "object 1: 'x' is not an object"),
    ],
)
def test_faults_are_named_with_their_file_and_object(tmp_path, change, message):
    write_cityscapes(tmp_path)
    document = json.loads((tmp_path / POLYGONS).read_text())
    change(document)
    (tmp_path / POLYGONS).write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"bochum_000000_000019_gtFine_polygons\.json: {message}"):
        read_cityscapes(tmp_path)


def test_files_that_are_missing_are_named(tmp_path):
    write_cityscapes(tmp_path)
    with pytest.raises(ValueError, match=r"no folder leftImg8bit/train of Cityscapes; set data\.splits"):
        read_cityscapes(tmp_path / "gtFine")
    (tmp_path / POLYGONS).unlink()
    with pytest.raises(
        ValueError, match=r"1 files of images are not there: bochum/bochum_000000_000019_gtFine_polygons"
    ):
        read_cityscapes(tmp_path)


def test_ade20ks_ids_count_from_one(tmp_path):
    """ADEChallengeData2016: 0 is not labelled, 1 is wall, 150 is flag."""
    settings = detcore_config.load(overrides=["data=ade20k", f"data.root={tmp_path}"]).data
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        write_image(tmp_path / "images" / split / f"{name}.jpg", height=10, width=16)
        path = tmp_path / "annotations" / split / f"{name}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(
            np.tile(np.arange(135, 151, dtype=np.uint8) * (np.arange(16) > 0), (10, 1)).astype(np.uint8)
        ).save(path)
    prepare(settings.model_copy(update={"shards": str(tmp_path / "shards")}), seed=0, progress=False)
    split = ShardedSplit.open(tmp_path / "shards", "val")
    assert split.semantic(0)[0].tolist() == [255, *range(135, 150)]
    assert split.semantic_classes[0] == "wall" and split.semantic_classes[149] == "flag"


def test_a_semantic_png_of_another_id_is_named(tmp_path):
    write_semantic(tmp_path)
    classes = data_config(tmp_path, tmp_path, format="semantic", semantic={"classes": ["a", "b"]}).semantic
    maps = read_semantic(tmp_path, None, classes).splits["train"].maps
    with pytest.raises(ValueError, match=r"^0\.png holds 2, the ids are 0\.\.1 and 255$"):
        maps.read(0, (48, 64))

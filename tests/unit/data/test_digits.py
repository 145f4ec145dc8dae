import io
import json

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from PIL import Image
from raw_folders import data_config
from sklearn.datasets import load_digits

from detcore.config.data import Digits
from detcore.data.prepare import prepare
from detcore.data.shards import ShardedSplit
from detcore.data.sources import digits, make_digits, obtain

SMALL = Digits(train=14, val=4, test=4)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def truth(folder, split):
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "raw"
    make_digits(folder, SMALL, progress=False)
    return folder


def test_scenes_are_an_ordinary_coco_folder(made, tmp_path):
    report = prepare(data_config(made, tmp_path / "shards"), seed=0, progress=False)
    assert {name: split.images for name, split in report.splits.items()} == {"train": 14, "val": 4, "test": 4}
    for split in report.splits.values():
        assert not any(split.dropped.values())
        assert not split.clipped
    train = ShardedSplit.open(tmp_path / "shards", "train")
    assert train.categories == tuple("0123456789")
    assert train.has_masks
    assert set(train.heights.tolist() + train.widths.tolist()) == {160}


def test_one_seed_gives_the_same_bytes_and_another_does_not(made, tmp_path):
    make_digits(tmp_path / "again", SMALL, progress=False)
    assert contents(tmp_path / "again") == contents(made)
    make_digits(tmp_path / "other", SMALL.model_copy(update={"seed": 1}), progress=False)
    assert contents(tmp_path / "other") != contents(made)


def test_a_scene_does_not_depend_on_how_many_there_are(made, tmp_path):
    """The pools of samples do, so only the number of scenes in proportion may change."""
    make_digits(tmp_path / "half", Digits(train=7, val=2, test=2), progress=False)
    some = contents(tmp_path / "half")
    assert some["images/train_00006.jpg"] == contents(made)["images/train_00006.jpg"]


def test_no_sample_is_in_two_splits(monkeypatch, tmp_path):
    images = load_digits().images
    numbers = {image.tobytes(): number for number, image in enumerate(images)}
    used: list[set[int]] = []
    compose, glyph = digits._compose, digits._glyph

    def composing(rng, glyphs, pool, photographs, source):
        if not used or used[-1] != set(pool.tolist()):
            used.append(set(pool.tolist()))
        return compose(rng, glyphs, pool, photographs, source)

    drawn = set()

    def drawing(sample, label):
        drawn.add(numbers[sample.tobytes()])
        return glyph(sample, label)

    monkeypatch.setattr(digits, "_compose", composing)
    monkeypatch.setattr(digits, "_glyph", drawing)
    make_digits(tmp_path / "raw", SMALL, progress=False)
    assert len(used) == 3
    assert set.union(*used) == set(range(1797))
    assert sum(map(len, used)) == 1797
    assert drawn <= set(range(1797))
    assert len(drawn) > 50


def test_boxes_masks_and_labels_fit_each_other(made):
    sizes, counts, labels = [], [], set()
    for split in ("train", "val", "test"):
        document = truth(made, split)
        for image in document["images"]:
            objects = [a for a in document["annotations"] if a["image_id"] == image["id"]]
            counts.append(len(objects))
            for annotation in objects:
                labels.add(annotation["category_id"])
                x, y, width, height = annotation["bbox"]
                assert 0 < x < x + width < 160
                assert 0 < y < y + height < 160
                sizes.append(max(width, height))
                mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(annotation["segmentation"], 160, 160)))
                rows, columns = np.nonzero(mask)
                found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                np.testing.assert_allclose(found, [x, y, x + width, y + height], atol=1.01)
                assert abs(mask.sum() - annotation["area"]) < 0.15 * annotation["area"] + 5
    assert labels == set(range(1, 11))
    assert 1 <= min(counts) <= 3
    assert 9 <= max(counts) <= 12
    # 24 to 64 pixels upright; turned by up to 25 degrees, a box is a little larger or smaller.
    assert 20 < min(sizes) < 30
    assert 58 < max(sizes) < 72


def test_a_mask_is_the_filled_outline_of_the_ink():
    """Of every zero: ink all around and none in the middle, where the mask is."""
    data = load_digits()
    zeros = [digits._glyph(image, 0) for image in data.images[data.target == 0][:20]]
    filled = 0
    for glyph in zeros:
        size = glyph.ink.width
        rings = [(ring * glyph.extent + glyph.centre).reshape(-1).tolist() for ring in glyph.rings]
        mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, size, size))).astype(bool)
        ink = np.asarray(glyph.ink) >= 128
        assert (ink & ~mask).sum() < 0.03 * ink.sum()  # the outline is simplified
        filled += bool((mask & ~ink).sum() > 0.05 * ink.sum())
    assert filled >= 18


def test_ink_lies_where_the_outline_says(made):
    """Against the same scenes without a digit: what differs lies inside the outlines, but for their soft edge."""
    document = truth(made, "train")
    rng = np.random.default_rng((0, 0, 0))
    _, _, photographs = digits._material()
    background = np.asarray(digits._background(rng, photographs, 160)).astype(int)
    scene = np.asarray(Image.open(io.BytesIO(contents(made)["images/train_00000.jpg"]))).astype(int)
    mask = np.zeros((160, 160), bool)
    for annotation in document["annotations"]:
        if annotation["image_id"] == 1:
            rings = coco_mask.frPyObjects(annotation["segmentation"], 160, 160)
            mask |= coco_mask.decode(coco_mask.merge(rings)).astype(bool)
    changed = np.abs(scene - background).max(axis=2) > 60
    assert (changed & mask).sum() > 0.5 * mask.sum()
    assert (changed & ~mask).sum() < 0.1 * mask.sum()


def test_no_digit_hides_too_much_of_another(made):
    for split in ("train", "val", "test"):
        document = truth(made, split)
        for image in document["images"]:
            visible: list[np.ndarray] = []
            areas = []
            for annotation in (a for a in document["annotations"] if a["image_id"] == image["id"]):
                rings = coco_mask.frPyObjects(annotation["segmentation"], 160, 160)
                mask = coco_mask.decode(coco_mask.merge(rings)).astype(bool)
                visible = [below & ~mask for below in visible] + [mask]
                areas.append(mask.sum())
            for left, area in zip(visible, areas, strict=True):
                assert left.sum() > (1 - digits.MOST_HIDDEN) * area * 0.9  # another rasteriser's pixels


def test_a_folder_from_another_configuration_is_made_anew_and_your_own_is_not(made, tmp_path):
    config = data_config(tmp_path / "raw", tmp_path / "shards", source=Digits(train=1, val=1, test=1))
    obtain(config, progress=False)
    first = contents(tmp_path / "raw")
    stamp = (tmp_path / "raw").stat().st_mtime_ns
    obtain(config, progress=False)
    assert (tmp_path / "raw").stat().st_mtime_ns == stamp
    more = config.model_copy(update={"source": Digits(train=2, val=1, test=1)})
    obtain(more, progress=False)
    assert len(contents(tmp_path / "raw")) == len(first) + 1
    (tmp_path / "raw" / "digits.json").unlink()
    obtain(config, progress=False)
    assert len(contents(tmp_path / "raw")) == len(first)

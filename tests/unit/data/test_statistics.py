"""`detcore data stats`: numbers that were counted by hand, and the same for raw and for prepared data."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from raw_folders import coco_annotation, write_coco, write_image

from detcore.cli import main
from detcore.data import prepare
from detcore.data.locate import locate
from detcore.data.statistics import describe
from detcore.data.statistics.columns import SplitColumns
from detcore.data.statistics.comparing import compare_splits, cooccurrence

TRANSFORMS = "data.train_transforms=[{type: resize_fixed, height: 60, width: 90}]"


def folder(root: Path) -> list[str]:
    """Three training images and one of validation; boxes of 10 x 10, 40 x 10 and 60 x 40 on 64 x 48."""
    annotations = [
        coco_annotation(1, 100, bbox=[0, 0, 10, 10], area=100),
        coco_annotation(2, 100, bbox=[0, 0, 40, 10], area=1024, category_id=90),
        coco_annotation(3, 101, bbox=[0, 0, 60, 40], area=9217),
        coco_annotation(4, 101, bbox=[0, 0, 20, 20], area=400, iscrowd=1, category_id=90),
    ]
    write_coco(root, images=3, annotations=annotations)
    write_coco(root, images=1, annotations=[coco_annotation(1, 100, category_id=90)], split="val")
    write_image(root / "images" / "val_000.jpg", seed=9)
    return [str(root), TRANSFORMS, "data.test_fraction=0", "engine.batch_size=2", f"data.shards={root / 'shards'}"]


def test_numbers_counted_by_hand(tmp_path: Path) -> None:
    found, _ = describe(locate(folder(tmp_path)))
    train, val = found.splits["train"], found.splits["val"]
    assert (train.images, train.objects, train.crowd, train.images_without_objects) == (3, 3, 1, 1)
    assert (train.objects_by_class, train.images_by_class) == ({"cat": 2, "dog": 1}, {"cat": 2, "dog": 1})
    assert train.areas == {"small": 1, "medium": 1, "large": 1}  # 32² is medium, 96² + 1 is large
    assert train.objects_per_image["mean"] == 1.0 and train.objects_per_image["max"] == 2.0
    assert_allclose(train.box_size["median"], 20.0)  # of 10, 20 and 49
    assert_allclose(train.relative_box_size["min"], 10 / np.sqrt(48 * 64))
    assert_allclose((train.aspect_ratio["min"], train.aspect_ratio["max"]), (1.0, 4.0))
    assert train.image_sizes == {"64 x 48": 3} and val.objects_by_class == {"cat": 0, "dog": 1}
    difference = found.differences["val"]
    assert_allclose(difference.classes, 2 / 3)  # shares of 2/3 and 1/3 against 0 and 1
    assert difference.only_in_train == ["cat"] and difference.only_here == []
    assert found.cooccurrence == (["cat", "dog"], [[2, 1], [1, 1]])
    # 60 x 90 in a batch of 64 x 96; four rows for three images.
    (bucket,) = found.padding.buckets
    assert (bucket.height, bucket.width, bucket.images, bucket.batches) == (64, 96, 3, 2)
    assert_allclose(found.padding.waste, 64 * 96 / (60 * 90) - 1)
    assert_allclose(found.padding.waste_with_empty_rows, 4 * 64 * 96 / (3 * 60 * 90) - 1)


def test_batches_are_of_the_images_that_training_takes(tmp_path: Path) -> None:
    config = locate([*folder(tmp_path), "data.min_objects=2"])  # one image of three has two
    raw, _ = describe(config)
    assert [bucket.images for bucket in raw.padding.buckets] == [1] and raw.splits["train"].images == 3
    prepare(config.data, seed=config.seed, progress=False)
    prepared, columns = describe(config)
    assert columns.prepared and prepared.padding == raw.padding


def test_prepared_data_have_the_numbers_of_the_raw(tmp_path: Path) -> None:
    config = locate(folder(tmp_path))
    raw, columns = describe(config)
    prepare(config.data, seed=config.seed, progress=False)
    prepared, of_shards = describe(config)
    assert (columns.prepared, of_shards.prepared) == (False, True)
    assert prepared.to_dict() == raw.to_dict()


def columns(samples: list[int], labels: list[int], *, images: int) -> SplitColumns:
    number = len(samples)
    return SplitColumns(
        sizes=np.full((images, 2), 100),
        samples=np.array(samples),
        labels=np.array(labels),
        crowd=np.zeros(number, bool),
        sides=np.ones((number, 2)),
        areas=np.ones(number),
    )


def test_a_random_split_differs_by_no_more_than_chance_and_a_sorted_one_does() -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, 5, 400)
    halves = [columns(list(range(200)), labels[half].tolist(), images=200) for half in (slice(0, 200), slice(200, 400))]
    found = compare_splits(*halves, tuple("abcde"))
    assert 0 < found.classes < found.classes_by_chance < 0.2
    ordered = np.sort(labels)
    halves = [
        columns(list(range(200)), ordered[half].tolist(), images=200) for half in (slice(0, 200), slice(200, 400))
    ]
    found = compare_splits(*halves, tuple("abcde"))
    assert found.classes > 0.7 > 3 * found.classes_by_chance
    assert found.sizes == 0.0


def test_cooccurrence_keeps_the_most_frequent_classes() -> None:
    names = tuple(f"c{k}" for k in range(30))
    found = cooccurrence(columns(list(range(30)) * 2, list(range(30)) + [29] * 30, images=30), names)
    assert found is not None
    assert found[0][0] == "c29" and len(found[0]) == 20
    assert found[1][0][:3] == [30, 1, 1] and found[1][1][1] == 1


def test_the_command_writes_a_page_of_its_own_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, html, file = folder(tmp_path), tmp_path / "a.html", tmp_path / "a.json"
    assert main(["data", "stats", *words, "--html", str(html), "--json", str(file)]) == 0
    told = capsys.readouterr().out
    assert "96 x 64" in told and "crowd, ignored" in told
    page = html.read_text()
    assert page.count('src="data:image/svg+xml;base64,') == 7 and 'src="http' not in page
    assert json.loads(file.read_text())["splits"]["train"]["objects"] == 3
    assert main(["data", "stats", *words, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(file.read_text())
    assert main(["data", "stats", *words, "--html", str(tmp_path)]) == 2


def test_maps_are_counted_by_pixels(shared: Path) -> None:
    root = shared / "data" / "coco_mini"
    found, _ = describe(locate(["data=coco_mini_panoptic", f"data.root={root}", "data.shards=none"]))
    shares = found.splits["train"].pixels_by_class
    assert shares is not None and len(shares) == 54 and max(shares, key=lambda name: shares[name]) == "things"
    assert_allclose(sum(shares.values()), 1.0)

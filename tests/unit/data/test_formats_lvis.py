"""LVIS v1: the format as lvisdataset.org publishes it."""

import json

import hotcoco
import pytest
from raw_folders import data_config, write_lvis, write_semantic

from detcore.data import ShardedSplit, prepare
from detcore.data.formats import read_lvis


def edit(root, change, split="train"):
    path = root / f"lvis_v1_{split}.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def shards(tmp_path, **changes):
    config = data_config(tmp_path / "raw", tmp_path / "shards", format="lvis", test_fraction=0, **changes)
    report = prepare(config, seed=0, progress=False)
    return report, ShardedSplit.open(tmp_path / "shards", "train")


def test_what_was_looked_for_comes_through_the_shards(tmp_path):
    write_lvis(tmp_path / "raw")
    _, split = shards(tmp_path)
    assert split.categories == ("aerosol_can", "airplane", "apple")
    assert split.frequencies == ("r", "c", "f")
    row = split.file_names.index("train2017/000000000009.jpg")
    assert split.federated.negative(row).tolist() == [0, 1]
    assert split.federated.not_exhaustive(row).tolist() == [2]
    assert split.federated.negative(1 - row).tolist() == split.federated.not_exhaustive(1 - row).tolist() == []
    truth = split.to_coco()
    by_id = {image["id"]: image for image in truth["images"]}
    assert by_id[9]["neg_category_ids"] == [1, 2] and by_id[9]["not_exhaustive_category_ids"] == [3]
    assert by_id[25]["file_name"] == "val2017/000000000025.jpg" and by_id[25]["neg_category_ids"] == []
    assert [category["frequency"] for category in truth["categories"]] == ["r", "c", "f"]
    assert {a["image_id"]: a["category_id"] for a in truth["annotations"]} == {9: 3, 25: 2}


def test_the_truth_is_what_an_lvis_evaluation_reads(tmp_path):
    """A detection of a class that nobody looked for counts neither way; one of a negative class is false."""
    write_lvis(tmp_path / "raw")
    truth = shards(tmp_path)[1].to_coco()
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    box = truth["annotations"][0]["bbox"]
    right = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": box, "score": 0.5}
        for a in truth["annotations"]
    ]

    def ap(more):
        truth = hotcoco.COCO(str(path))
        evaluation = hotcoco.LVISeval(truth, truth.load_res(right + more), "bbox")
        evaluation.run()
        return evaluation.get_results()["AP"]

    assert ap([]) == pytest.approx(1.0)
    wrong = {"image_id": 25, "category_id": 3, "bbox": [0, 0, 5, 5], "score": 0.9}
    assert ap([wrong]) == pytest.approx(1.0)
    assert ap([{**wrong, "image_id": 9, "category_id": 2}]) == pytest.approx(0.75)  # airplane: 1/2; apple: 1


def test_the_classes_looked_for_are_part_of_the_content(tmp_path):
    write_lvis(tmp_path / "raw")
    first, _ = shards(tmp_path)
    edit(tmp_path / "raw", lambda d: d["images"][0]["neg_category_ids"].remove(5))
    second, _ = shards(tmp_path)
    for category in ("train", "val"):
        edit(tmp_path / "raw", lambda d: d["categories"][0].update(frequency="c"), category)
    third, _ = shards(tmp_path)
    assert len({report.content_hash for report in (first, second, third)}) == 3


def test_absent_images_are_refused_or_skipped_and_named(tmp_path):
    write_lvis(tmp_path / "raw")
    (tmp_path / "raw" / "val2017" / "000000000025.jpg").unlink()
    with pytest.raises(
        ValueError, match=r"1 images are not in .*000000000025\.jpg; to do without .*absent_images=skip"
    ):
        shards(tmp_path)
    report, split = shards(tmp_path, absent_images="skip")
    assert report.splits["train"].absent == ["val2017/000000000025.jpg"] and report.splits["val"].absent == []
    assert split.file_names == ["train2017/000000000009.jpg"] and split.federated.negative(0).tolist() == [0, 1]
    assert "absent images skipped" in list(report.table().columns[0].cells)
    (tmp_path / "raw" / "train2017" / "000000000009.jpg").unlink()
    with pytest.raises(ValueError, match="2 images are not in"):
        shards(tmp_path, absent_images="skip")


def test_other_data_is_not_federated(tmp_path):
    write_semantic(tmp_path / "raw")
    config = data_config(
        tmp_path / "raw", tmp_path / "shards", format="semantic", semantic={"classes": ["a", "b", "c"]}, val_fraction=0,
        test_fraction=0,
    )  # fmt: skip
    prepare(config, seed=0, progress=False)
    split = ShardedSplit.open(tmp_path / "shards", "train")
    assert split.federated is None and split.frequencies == ()
    assert "neg_category_ids" not in split.to_coco()["images"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["images"][0].pop("neg_category_ids"), "entry 9 of images: 'neg_category_ids' is missing"),
        (lambda d: d["images"][0].pop("coco_url"), "entry 9 of images: 'coco_url' is missing"),
        (lambda d: d["images"][0].update(neg_category_ids=3), "neg_category_ids 3 is not a list"),
        (lambda d: d["images"][0].update(neg_category_ids=[3.5]), "neg_category_ids 3.5 is not a whole number"),
        (lambda d: d["images"][0].update(neg_category_ids=[4]), "unknown category 4 is among those looked for"),
        (lambda d: d["categories"][0].pop("frequency"), "category 3: 'frequency' is missing; .*data.format to coco"),
        (lambda d: d["categories"][0].update(frequency="x"), "category 3: frequency 'x' is none of r, c, f"),
        (lambda d: d["categories"][0].update(frequency="f"), "category 3: frequency '.', in another split"),
    ],
)
def test_faults_are_named_with_their_file(tmp_path, change, message):
    write_lvis(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(ValueError, match=rf"lvis_v1_(train|val)\.json: .*{message}"):
        read_lvis(tmp_path)


def test_stated_splits_are_taken_as_stated(tmp_path):
    write_lvis(tmp_path)
    config = data_config(
        tmp_path, tmp_path / "shards", splits={"train": {"annotations": "lvis_v1_val.json", "images": "."}}
    )
    data = read_lvis(tmp_path, config.splits)
    assert data.splits["train"].images["file_name"].to_pylist() == ["train2017/000000000030.jpg"]
    assert data.categories == ("aerosol_can", "airplane", "apple")

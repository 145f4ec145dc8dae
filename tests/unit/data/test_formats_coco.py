import json

import pytest
from raw_folders import coco_annotation, write_coco, write_image

from detcore.config.data import Split
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
        (lambda d: d["images"].append(3), "images holds '3', not an object"),
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
    with pytest.raises(ValueError, match=r"instances_train\.json: 'utf-8' codec can't decode"):
        read_coco(tmp_path)


def test_a_folder_without_annotations_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no COCO annotations"):
        read_coco(tmp_path)


def test_coco_mini_is_read_whole(shared):
    """Counts from the data set's README."""
    data = read_coco(shared / "data" / "coco_mini")
    counts = {name: (split.images.num_rows, split.objects.num_rows) for name, split in data.splits.items()}
    assert counts == {"train": (26, 333), "val": (47, 469)}
    assert len(data.categories) == 80
    assert data.categories[0] == "person"

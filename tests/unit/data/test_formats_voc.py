import hotcoco
import numpy as np
import pytest
from raw_folders import voc_object, write_voc

from detcore.config.data import Split
from detcore.data.formats import read_voc

CAT = voc_object("cat", (1, 2, 10, 20))
DOG = voc_object("dog", (5, 5, 64, 48))


def boxes(split):
    return split.objects["bbox"].to_pylist()


def test_one_based_inclusive_corners_become_pixel_edges(tmp_path):
    """The whole 48 x 64 image is (1, 1, 64, 48) in VOC."""
    write_voc(tmp_path, {"a": [voc_object("cat", (1, 1, 64, 48)), voc_object("cat", (10, 20, 11, 21))]})
    split = read_voc(tmp_path).splits["train"]
    assert boxes(split) == [[0, 0, 64, 48], [9, 19, 2, 2]]
    assert split.objects["area"].to_pylist() == [64 * 48, 4]
    assert split.images["height"].to_pylist() == [48]
    assert split.images["width"].to_pylist() == [64]


def test_a_box_that_encloses_nothing_has_no_size(tmp_path):
    write_voc(tmp_path, {"a": [voc_object("cat", (5, 5, 5, 9)), voc_object("cat", (9, 9, 5, 5))]})
    assert boxes(read_voc(tmp_path).splits["train"]) == [[4, 4, 0, 5], [8, 8, 0, 0]]


def test_names_in_use_are_the_classes_sorted(tmp_path):
    write_voc(tmp_path, {"a": [DOG], "b": [CAT]}, lists={"train": ["a"], "val": ["b"]})
    data = read_voc(tmp_path)
    assert data.categories == ("cat", "dog")
    assert data.splits["train"].objects["label"].to_pylist() == [1]
    assert data.splits["val"].objects["label"].to_pylist() == [0]
    assert [split.images["image_id"].to_pylist() for split in data.splits.values()] == [[1], [2]]


def test_stated_classes_are_closed(tmp_path):
    write_voc(tmp_path, {"a": [DOG], "b": [CAT]})
    (tmp_path / "classes.txt").write_text("dog\nhorse\n")
    with pytest.raises(ValueError, match=r"b\.xml: unknown category 'cat'; the classes are dog, horse"):
        read_voc(tmp_path)
    (tmp_path / "classes.txt").write_text("dog\nhorse\ncat\n")
    data = read_voc(tmp_path)
    assert data.categories == ("dog", "horse", "cat")
    assert data.splits["train"].objects["label"].to_pylist() == [0, 2]


def test_difficult_objects_are_crowd_regions(tmp_path):
    write_voc(tmp_path, {"a": [CAT, voc_object("cat", (1, 1, 9, 9), extra="<difficult>1</difficult>")]})
    assert read_voc(tmp_path).splits["train"].objects["crowd"].to_pylist() == [False, True]


def test_the_folder_may_lie_below_the_root(tmp_path):
    write_voc(tmp_path / "VOCdevkit" / "VOC2012", {"a": [CAT], "b": [CAT]}, lists={"trainval": ["b"]})
    assert read_voc(tmp_path).splits["train"].images["file_name"].to_pylist() == ["b.jpg"]
    write_voc(tmp_path / "VOCdevkit" / "VOC2007", {"a": [CAT]})
    with pytest.raises(ValueError, match="several folders hold Annotations/: VOC2007, VOC2012"):
        read_voc(tmp_path)


def test_stated_splits_name_lists(tmp_path):
    write_voc(tmp_path, {"a": [CAT], "b": [CAT]}, lists={"train": ["a"], "mine": ["b"]})
    split = Split(annotations="mine.txt", images="JPEGImages")
    assert read_voc(tmp_path, {"train": split}).splits["train"].images["file_name"].to_pylist() == ["b.jpg"]


@pytest.mark.parametrize(
    ("element", "message"),
    [
        ("<object><name>cat</name></object>", "object 1 has no bndbox"),
        ("<object><bndbox/></object>", "object 1 has no name"),
        (voc_object("cat", (1, 2, 3, "x")), "'x' is not a number"),
        ("<object>", "mismatched tag"),
    ],
)
def test_faults_are_named_with_their_file(tmp_path, element, message):
    write_voc(tmp_path, {"a": [CAT], "bad": [element]})
    with pytest.raises(ValueError, match=rf"bad\.xml: .*{message}"):
        read_voc(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_no_entity_is_ever_read(tmp_path, encoding):
    secret = tmp_path / "secret.txt"
    secret.write_text("cat")
    write_voc(tmp_path, {"a": [CAT]})
    hostile = f'<!DOCTYPE x [<!ENTITY name SYSTEM "{secret.as_uri()}">]>' + (
        "<annotation><object><name>&name;</name></object></annotation>"
    )
    (tmp_path / "Annotations" / "a.xml").write_bytes(
        f'<?xml version="1.0" encoding="{encoding}"?>{hostile}'.encode(encoding)
    )
    with pytest.raises(ValueError, match=r"a\.xml: declares the document type 'x', which is not allowed"):
        read_voc(tmp_path)


def test_a_list_that_names_no_annotation_is_an_error(tmp_path):
    write_voc(tmp_path, {"a": [CAT]}, lists={"train": ["a", "lost"]})
    with pytest.raises(ValueError, match=r"train\.txt: 1 without a file in Annotations/: lost"):
        read_voc(tmp_path)


def test_a_list_that_names_an_image_twice_is_an_error(tmp_path):
    write_voc(tmp_path, {"a": [CAT], "b": [CAT]}, lists={"train": ["a", "b", "a"]})
    with pytest.raises(ValueError, match=r"train\.txt: lists more than once: a$"):
        read_voc(tmp_path)


def test_a_class_stated_twice_is_an_error(tmp_path):
    write_voc(tmp_path, {"a": [CAT]})
    (tmp_path / "classes.txt").write_text("cat\ndog\ncat\n")
    with pytest.raises(ValueError, match=r"classes\.txt: names a class more than once: cat$"):
        read_voc(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("classes.txt", b"caf\xe9\n", r"is not UTF-8 \(byte 3\)"),
        ("ImageSets/Main/train.txt", b"\xe9\n", "is not UTF-8"),
        ("Annotations/a.xml", b"<annotation>\xe9</annotation>", "not well-formed"),
        ("Annotations/a.xml", b'<?xml version="1.0" encoding="klingon"?><annotation/>', "unknown encoding: klingon"),
    ],
)
def test_what_cannot_be_decoded_is_named(tmp_path, name, data, message):
    write_voc(tmp_path, {"a": [CAT]}, lists={"train": ["a"]})
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        read_voc(tmp_path)


def test_a_folder_without_annotations_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no folder Annotations/"):
        read_voc(tmp_path)


def test_bccd_is_hotcocos_reading_of_it(shared):
    """Its converter knows no splits and gives a box of one pixel where nothing is enclosed; all else is the same."""
    root = shared / "data" / "bccd"
    theirs = hotcoco.COCO.from_voc(str(root / "BCCD")).dataset
    names = {image["id"]: image["file_name"] for image in theirs["images"]}
    expected = sorted(
        (names[a["image_id"]], a["category_id"], *a["bbox"]) for a in theirs["annotations"] if min(a["bbox"][2:]) > 1
    )
    data = read_voc(root)
    assert data.categories == tuple(category["name"] for category in theirs["categories"])
    found = []
    for split in data.splits.values():
        files = np.array(split.images["file_name"].to_pylist())[split.objects["sample"].to_numpy()]
        columns = zip(files.tolist(), split.objects["label"].to_pylist(), boxes(split), strict=True)
        found += [(file, label + 1, *box) for file, label, box in columns if min(box[2:]) > 1]
    assert sorted(found) == expected
    assert len(expected) == 4886

"""Folders and names to a configuration; the format by the files."""

from pathlib import Path

import pytest
from raw_folders import voc_object, write_coco, write_voc

from detcore.data.formats.guess import SIGNS, guess_format
from detcore.data.locate import locate

LAYOUTS = {
    "coco": ["annotations/instances_train2017.json"],
    "coco_panoptic": ["annotations/panoptic_val.json"],
    "voc": ["VOCdevkit/VOC2012/Annotations/a.xml"],
    "yolo": ["data.yaml", "labels/train/a.txt"],
    "dota": ["train/labelTxt-v1.0/a.txt"],
    "semantic": ["images/training/a.jpg", "annotations/training/a.png"],
    "lvis": ["lvis_v1_train.json", "train2017/a.jpg"],
    "cityscapes": ["leftImg8bit/train/bochum/a_leftImg8bit.png", "gtFine/train/bochum/a_gtFine_polygons.json"],
    "open_images": ["oidv6-train-annotations-bbox.csv", "train/a.jpg"],
    "cvat": ["annotations.xml", "images/a.jpg"],
}


@pytest.mark.parametrize("format", SIGNS)
def test_the_format_is_told_by_the_files(tmp_path: Path, format: str) -> None:
    for name in LAYOUTS[format]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert guess_format(tmp_path) == format


def test_two_formats_in_one_folder_are_told(tmp_path: Path) -> None:
    write_coco(tmp_path, images=1)
    (tmp_path / "annotations" / "panoptic_train.json").touch()
    with pytest.raises(ValueError, match="is in several formats: coco, coco_panoptic, as far as its files tell; say"):
        locate([str(tmp_path)])
    assert locate([str(tmp_path)], format="coco").data.format == "coco"
    assert locate([str(tmp_path), "data=coco2017_panoptic"]).data.format == "coco_panoptic"


@pytest.mark.parametrize("name", ["plain", "it's", "a b=c, {d} [e]", "ends\\", "${oc.env:HOME}", "\\${x}"])
def test_any_folder_name_survives_the_override_grammar(tmp_path: Path, name: str) -> None:
    write_voc(tmp_path / name, {"a": [voc_object("cat", (1, 1, 9, 9))]})
    data = locate([str(tmp_path / name), "data.val_fraction=0.2"]).data
    assert (data.root, data.format, data.val_fraction) == (str(tmp_path / name), "voc", 0.2)


def test_names_of_conf_data(tmp_path: Path) -> None:
    assert locate(["data=digits", f"data.root={tmp_path}"]).data.name == "digits"
    with pytest.raises(ValueError, match="name the data: a folder, or data=NAME of conf/data"):
        locate([])

import pytest
from raw_folders import data_config


@pytest.mark.parametrize("name", ["coco2017", "my data_set-2", "Blutkörperchen"])
def test_a_plain_name_is_taken(tmp_path, name):
    assert data_config(tmp_path, tmp_path, name=name).name == name


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "v1.0", "50%", "a'b", 'a"b', "-a", "a ", "a\n"])
def test_a_name_that_mlflow_would_refuse_is_an_error(tmp_path, name):
    with pytest.raises(ValueError, match="is no name for data: only letters, digits"):
        data_config(tmp_path, tmp_path, name=name)


def test_a_resize_without_sizes_is_an_error(tmp_path):
    resize = {"type": "resize_shortest_edge", "sizes": [], "max_size": 64}
    with pytest.raises(ValueError, match="at least 1 item"):
        data_config(tmp_path, tmp_path, train_transforms=[resize])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"angles": "radians_cw"}, "angles is for format coco_rotated, not for coco"),
        ({"format": "semantic"}, "format semantic needs semantic.classes"),
        ({"semantic": {"classes": ["road"]}}, "semantic is for format semantic, not for coco"),
        ({"format": "voc", "ignore": ["dog"]}, "ignore is for the formats coco and coco_rotated, not for voc"),
        (
            {"splits": {"train": {"annotations": "a", "images": "b", "instances": "c"}}},
            "splits.train.instances is for format coco_panoptic, not for coco",
        ),
        ({"sampling": {"type": "repeat_factor", "threshold": 0}}, "greater than 0"),
    ],
)
def test_what_the_format_does_not_have_is_an_error(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        data_config(tmp_path, tmp_path, **changes)


RESIZE = {"type": "resize_fixed", "height": 64, "width": 64}


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([{"type": "horizontal_flip"}], "train_transforms: no resize: one of resize_shortest_edge, "),
        (
            [RESIZE, {"type": "hsv_jitter"}, {"type": "horizontal_flip"}],
            "train_transforms: horizontal_flip after hsv_jitter, which changes finished pixels: put it before",
        ),
        (
            [RESIZE, {"type": "mixup"}, {"type": "random_crop", "size": [0.5, 0.5], "max_class_share": 0.75}],
            "train_transforms: random_crop with max_class_share after mixup: put it before",
        ),
        ([RESIZE, {"type": "random_crop", "size": [50, 50]}], "in mode relative_range a share of the image, at most 1"),
        (
            [RESIZE, {"type": "random_crop", "mode": "absolute_range", "size": [50, 40]}],
            "in mode absolute_range the least and the greatest, in pixels",
        ),
        ([RESIZE, {"type": "rotate", "degrees": [30]}], r"degrees \[30.0\]: with sample range, the least and the gre"),
        (
            [{"type": "resize_shortest_edge", "sizes": [1, 2, 3], "max_size": 9, "sample": "range"}],
            r"sizes \[1, 2, 3\]: with sample range, the least and the greatest size",
        ),
        ([RESIZE, {"type": "affine", "scale": [2, 1]}], r"\[2.0, 1.0\]: the least and the greatest value"),
        ([RESIZE, {"type": "mozaic"}], "mozaic"),
    ],
)
def test_a_pipeline_that_makes_no_sense_is_an_error(tmp_path, transforms, message):
    with pytest.raises(ValueError, match=message):
        data_config(tmp_path, tmp_path, train_transforms=transforms)


@pytest.mark.parametrize("transforms", [[], [{"type": "horizontal_flip"}], [RESIZE, {"type": "vertical_flip"}]])
def test_a_test_pipeline_is_one_resize(tmp_path, transforms):
    with pytest.raises(ValueError, match="test_transforms"):
        data_config(tmp_path, tmp_path, test_transforms=transforms)

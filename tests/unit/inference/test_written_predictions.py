"""Predictions written as data sets, and read back with the readers of raw data."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from detcore.config.data import Split
from detcore.data.annotations import Annotations, Objects
from detcore.data.formats import RawDataset, read_coco, read_cvat, read_yolo
from detcore.data.outlines import decode_mask, decode_runs, ring_area
from detcore.inference import Prediction, Predictions
from detcore.inference.writing import writer_of
from detcore.inference.writing.yolo import corners_of, joined

NAMES = ("ring", "square", 'bar: wide, "best"')
HEIGHT, WIDTH = 40, 60


def prediction(path: Path, **kinds: Any) -> Prediction:
    return Prediction(
        source=path,
        height=HEIGHT,
        width=WIDTH,
        boxes_xyxy=np.array([[3.25, 2.5, 19.0, 30.0], [20.0, 10.0, 50.5, 39.0]]),
        scores=np.array([0.75, 0.5], dtype=np.float32),
        labels=np.array([2, 0]),
        class_names=(NAMES[2], NAMES[0]),
        categories=NAMES,
        **kinds,
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images, one of them in a subfolder."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "deep/a.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name)
    return folder


def some(photos: Path, **kinds: Any) -> Predictions:
    """Two objects in two of the images."""
    nothing = {name: value[:0] for name, value in kinds.items() if isinstance(value, np.ndarray)}
    one = prediction(photos / "a.png", **kinds)
    empty = replace(
        one,
        source=photos / "b.jpg",
        boxes_xyxy=one.boxes_xyxy[:0],
        scores=one.scores[:0],
        labels=one.labels[:0],
        class_names=(),
        **nothing,
    )
    return Predictions([one, empty, replace(one, source=photos / "deep/a.png")])


def read_back(photos: Path, found: Predictions, name: str, folder: Path, **options: Any) -> tuple[RawDataset, Objects]:
    """What the format's reader sees in the image of the subfolder, the images lying where they were."""
    found.save(folder, name)  # type: ignore[arg-type]
    reader, place = {
        "coco": (read_coco, "annotations.json"),
        "yolo": (read_yolo, "labels"),
        "cvat": (read_cvat, "annotations.xml"),
    }[name]
    read: RawDataset = reader(folder, {"train": Split(annotations=place, images=str(photos))})  # type: ignore[operator]
    split = read.splits["train"]
    names = split.images["file_name"].to_pylist()
    assert sorted(names) == ["a.png", "b.jpg", "deep/a.png"] and split.objects.num_rows == 4
    assert read.categories == NAMES
    number = 0 if read.keypoints is None else len(read.keypoints)
    annotations = Annotations(split.objects, num_samples=3)
    return read, annotations.objects(
        names.index("deep/a.png"), height=HEIGHT, width=WIDTH, num_keypoints=number, **options
    )


@pytest.mark.parametrize("name", ["coco", "yolo", "cvat"])
def test_boxes_come_back(photos: Path, tmp_path: Path, name: str) -> None:
    found = some(photos)
    _, objects = read_back(photos, found, name, tmp_path / "found")
    np.testing.assert_allclose(objects.boxes_xyxy, found[0].boxes_xyxy, atol=1e-6)
    np.testing.assert_array_equal(objects.labels, found[0].labels)
    assert not objects.crowd.any()


def two_masks() -> NDArray[np.bool_]:
    """An L, and three separate parts of one object."""
    masks = np.zeros((2, HEIGHT, WIDTH), np.bool_)
    masks[0, 3:30, 4:9] = masks[0, 25:30, 4:19] = True
    masks[1, 10:20, 20:30] = masks[1, 12:39, 40:50] = masks[1, 35:37, 22:25] = True
    return masks


@pytest.mark.parametrize("name", ["coco", "yolo", "cvat"])
def test_masks_come_back(photos: Path, tmp_path: Path, name: str) -> None:
    masks = two_masks()
    read, objects = read_back(photos, some(photos, masks=masks), name, tmp_path / "found")
    np.testing.assert_array_equal(objects.labels, [2, 0])
    np.testing.assert_allclose(objects.areas, masks.sum(axis=(1, 2)))
    if name != "yolo":
        rows = read.splits["train"].objects.slice(2, 2)
        if name == "coco":
            runs = [decode_runs(counts) for counts in rows["rle_counts"].to_pylist()]
        else:
            runs = [np.array(counts) for counts in rows["rle_runs"].to_pylist()]
        np.testing.assert_array_equal([decode_mask(run, height=HEIGHT, width=WIDTH) for run in runs], masks)
    else:
        for rings, mask in zip(objects.polygons, masks, strict=True):
            np.testing.assert_array_equal(filled(rings), mask)


def filled(rings: list[NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Pixels whose centre lies inside of the rings together, by the crossings to the left of it."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    crossings = np.zeros((HEIGHT, WIDTH), int)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            between = (np.minimum(y0, y1) <= y) & (y < np.maximum(y0, y1))
            if y0 != y1:
                crossings += between & (x0 + (y - y0) / (y1 - y0) * (x1 - x0) < x)
    return crossings % 2 == 1


@pytest.mark.parametrize("name", ["coco", "yolo", "cvat"])
def test_keypoints_come_back(photos: Path, tmp_path: Path, name: str) -> None:
    points = np.array(
        [[[5.5, 4.5, 0.9], [18.5, 29.25, 0.4], [10.0, 9.0, 0.0]], [[21.0, 11.0, 1.5], [50.0, 38.0, 2.0], [30, 20, 0.1]]]
    )
    found = some(
        photos, keypoints=points, keypoint_names=("head", "left_foot", "right_foot"), skeleton=((0, 1), (0, 2))
    )
    read, objects = read_back(photos, found, name, tmp_path / "found")
    expected = np.where(points[..., 2:] > 0, points, 0.0)
    expected[..., 2] = np.where(points[..., 2] > 0, 2.0, 0.0)
    assert objects.keypoints is not None and read.keypoints is not None
    np.testing.assert_allclose(objects.keypoints, expected, atol=1e-4)
    assert read.keypoints.names == found[0].keypoint_names and read.keypoints.flip == (0, 2, 1)
    assert read.keypoints.skeleton == (() if name == "yolo" else found[0].skeleton)  # YOLO has no place for lines
    if name != "cvat":  # whose skeletons have no box
        np.testing.assert_allclose(objects.boxes_xyxy, found[0].boxes_xyxy, atol=1e-6)


@pytest.mark.parametrize("name", ["yolo", "cvat"])
def test_rotated_boxes_come_back(photos: Path, tmp_path: Path, name: str) -> None:
    boxes = np.array([[11.0, 16.0, 12.0, 8.0, 30.0], [35.0, 24.0, 20.0, 10.0, -70.0]])
    _, objects = read_back(photos, some(photos, boxes_xywha=boxes), name, tmp_path / "found", rotated=name == "cvat")
    if name == "cvat":
        assert objects.boxes_xywha is not None
        np.testing.assert_allclose(objects.boxes_xywha, boxes, atol=1e-5)
    else:
        np.testing.assert_allclose(np.stack([rings[0] for rings in objects.polygons]), corners_of(boxes), atol=1e-6)
        np.testing.assert_allclose(objects.areas, boxes[:, 2] * boxes[:, 3], atol=1e-4)


def test_corners_of_a_turned_box() -> None:
    # A quarter turn counter-clockwise as one sees it: what was right is on top.
    np.testing.assert_allclose(
        corners_of(np.array([[10.0, 10.0, 8.0, 2.0, 90.0]]))[0], [[9, 14], [9, 6], [11, 6], [11, 14]]
    )


def test_joined_rings_enclose_their_sum() -> None:
    squares = [np.array([[0, 0], [2, 0], [2, 2], [0, 2]]) + shift for shift in ((0.0, 0.0), (5.0, 1.0), (3.0, 9.0))]
    assert ring_area(joined(squares)) == 12.0
    assert joined(squares[:1]) is squares[0]


def test_the_csv_is_the_data_frame(photos: Path, tmp_path: Path) -> None:
    found = some(photos, masks=two_masks())
    found.save(tmp_path / "found", "csv")
    with (tmp_path / "found" / "detections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    frame = found.to_pandas()
    assert list(rows[0]) == list(frame.columns)
    assert [row["class_name"] for row in rows] == list(frame["class_name"]) == [NAMES[2], NAMES[0]] * 2
    assert rows[3]["image"] == str(photos / "deep/a.png") and float(rows[3]["x2"]) == 50.5
    assert frame["score"].tolist() == [0.75, 0.5] * 2


def test_arrays_and_results(photos: Path) -> None:
    found = some(photos)
    np.testing.assert_array_equal(
        found[0].to_numpy(), [[3.25, 2.5, 19.0, 30.0, 0.75, 2.0], [20.0, 10.0, 50.5, 39.0, 0.5, 0.0]]
    )
    assert found[1].to_numpy().shape == (0, 6) and found[1].to_pandas().empty
    assert [row["image_id"] for row in found.to_coco()] == [1, 1, 3, 3]
    assert found[0].to_yolo()[0].split()[0] == "2"


def test_supervision(photos: Path) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    boxes = np.array([[11.0, 16.0, 12.0, 8.0, 30.0], [35.0, 24.0, 20.0, 10.0, -70.0]])
    found = some(photos, masks=two_masks(), boxes_xywha=boxes)
    detections = found[0].to_supervision()
    assert isinstance(detections, supervision.Detections) and len(detections) == 2
    np.testing.assert_array_equal(detections.class_id, [2, 0])
    np.testing.assert_array_equal(detections.mask, two_masks())
    assert detections[detections.confidence > 0.6].data["class_name"].tolist() == [NAMES[2]]
    assert len(found[1].to_supervision()) == 0


def test_images_from_memory_get_names(photos: Path, tmp_path: Path) -> None:
    one = replace(prediction(photos / "a.png"), source=np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    Predictions([one, one]).save(tmp_path / "found", "yolo")
    assert sorted(path.name for path in (tmp_path / "found/labels").iterdir()) == [
        "image_000001.txt",
        "image_000002.txt",
    ]


def test_what_cannot_be_written_is_said(photos: Path, tmp_path: Path) -> None:
    found = some(photos)
    with pytest.raises(ValueError, match="format 'voc': take coco, yolo, cvat, csv"):
        found.save(tmp_path / "found", "voc")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no prediction to save"):
        Predictions().save(tmp_path / "found", "coco")
    twin = replace(found[0], source=photos / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg: YOLO has one file of labels for it and for a\.png"):
        Predictions([found[0], twin]).save(tmp_path / "twins", "yolo")
    assert (tmp_path / "twins/labels/a.txt").is_file()
    with pytest.raises(ValueError, match="labels: holds labels already"):
        found.save(tmp_path / "twins", "yolo")
    with (
        pytest.raises(ValueError, match=r"second image that is named a\.png"),
        writer_of("coco", tmp_path / "found", categories=NAMES) as writer,
    ):
        writer.add(found[0])
        writer.add(found[2])
    read = read_coco(tmp_path / "found", {"train": Split(annotations="annotations.json", images=str(photos))})
    assert read.splits["train"].objects.num_rows == 2  # what there was until then

"""Tiles of huge images: by a model that sees exactly what there is, and by one with random weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from detcore.config.transforms import ResizeShortestEdge
from detcore.inference import Prediction, Predictor, load_folder
from detcore.inference.preprocessing import Preprocessing
from detcore.inference.tiling import Tiling
from detcore.structures.batch import Batch, Detections

TILE = 64
NUM_OBJECTS = 40


class Exact(nn.Module):
    """Finds the rectangles of `mosaic`: object k has red k + 1, a class of three, a score, and two keypoints."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def detect(self, batch: Batch) -> Detections:
        self.seen.append(len(batch))
        red = batch.images[:, 0].round().long()
        rows, size = len(batch), red.shape[1:]
        boxes = torch.zeros(rows, NUM_OBJECTS, 4)
        for image in range(rows):
            for number in range(NUM_OBJECTS):
                found = (red[image] == number + 1).nonzero()
                if len(found):
                    boxes[image, number] = torch.cat((found.amin(0).flip(0), found.amax(0).flip(0) + 1))
        valid = boxes[..., 2] > 0
        numbers = torch.arange(NUM_OBJECTS).expand(rows, -1)
        # The top left corner and the bottom right one; one that lies on an edge of the tile is less certain.
        points = boxes.reshape(rows, NUM_OBJECTS, 2, 2)
        inside = ((points > 0) & (points < torch.tensor(size).flip(0))).all(-1)
        return Detections(
            boxes_xyxy=boxes,
            scores=torch.where(valid, 0.5 + numbers / 100, 0.0),
            labels=numbers % 3,
            valid=valid,
            masks=torch.ones(rows, NUM_OBJECTS, 28, 28),
            keypoints=torch.cat((points, torch.where(inside, 0.9, 0.2)[..., None]), dim=-1),
        )


@pytest.fixture
def exact() -> Predictor:
    return Predictor(
        model=Exact(),
        labels=("a", "b", "c"),
        keypoint_names=("first", "last"),
        preprocessing=Preprocessing(
            transform=ResizeShortestEdge(sizes=(TILE,), max_size=TILE),
            image_mean=(0.0, 0.0, 0.0),
            image_std=(1.0, 1.0, 1.0),
            size_divisor=1,
        ),
        device=torch.device("cpu"),
    )


def mosaic(height: int, width: int, *, largest: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """An image and its rectangles, none on another, by number."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.uint8)
    boxes: list[list[int]] = []
    while len(boxes) < NUM_OBJECTS:
        w, h = rng.integers(6, largest, 2).tolist()
        x, y = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
        if not image[max(0, y - 2) : y + h + 2, max(0, x - 2) : x + w + 2].any():
            image[y : y + h, x : x + w, 0] = len(boxes) + 1
            boxes.append([x, y, x + w, y + h])
    return image, np.array(boxes, np.float64)


@pytest.mark.parametrize("largest", [12, 60, 100])  # below the overlap of 12; below a tile's side; above
def test_objects_across_seams_are_found_once_and_whole(exact: Predictor, largest: int) -> None:
    image, boxes = mosaic(300, 500, largest=largest, seed=largest)
    found = exact.predict(image, tile=TILE, overlap=0.2, batch_size=5, score_threshold=0.1)
    assert isinstance(found, Prediction) and (found.height, found.width) == (300, 500)
    assert len(found) == NUM_OBJECTS
    numbers = np.round((found.scores - 0.5) * 100).astype(int)
    np.testing.assert_array_equal(numbers, np.arange(NUM_OBJECTS)[::-1])
    np.testing.assert_array_equal(found.labels, numbers % 3)
    np.testing.assert_allclose(found.boxes_xyxy, boxes[numbers], atol=1e-3)
    assert found.masks is not None and found.keypoints is not None
    for number, mask in zip(numbers.tolist(), found.masks, strict=True):
        np.testing.assert_array_equal(mask, image[..., 0] == number + 1)
    np.testing.assert_allclose(found.keypoints[..., :2].reshape(-1, 4), boxes[numbers], atol=1e-3)
    assert isinstance(exact.model, Exact) and max(exact.model.seen) == 5


def test_neighbours_of_one_class_stay_two(exact: Predictor) -> None:
    image = np.zeros((64, 116, 3), np.uint8)  # two tiles, 0..64 and 52..116
    image[10:30, 40:60, 0] = 1  # a class
    image[30:50, 50:80, 0] = 4  # the same, touching it, in both tiles
    found = exact.predict(image, tile=TILE, overlap=0.18, score_threshold=0.1)
    assert isinstance(found, Prediction)
    assert found.boxes_xyxy.tolist() == [[50.0, 30.0, 80.0, 50.0], [40.0, 10.0, 60.0, 30.0]]


def test_pieces_of_a_mosaic_are_seen_as_by_themselves(
    published: Path, draw_scene: Callable[[int, int, int], Image.Image]
) -> None:
    predictor = load_folder(published, device="cpu")
    pieces = [np.asarray(draw_scene(96, 96, seed)) for seed in range(6)]
    whole = np.concatenate([np.concatenate(pieces[:3], axis=1), np.concatenate(pieces[3:], axis=1)])
    found = predictor.predict(whole, tile=96, overlap=0.0, score_threshold=0.1, batch_size=6)
    alone = predictor.predict(pieces, score_threshold=0.1, batch_size=6)
    assert isinstance(found, Prediction) and isinstance(alone, list)
    corners = [(96 * (index % 3), 96 * (index // 3)) for index in range(6)]
    expected = [
        (score, label, *(box + np.array([x, y, x, y])).tolist())
        for piece, (x, y) in zip(alone, corners, strict=True)
        for score, label, box in zip(piece.scores.tolist(), piece.labels.tolist(), piece.boxes_xyxy, strict=True)
    ]
    rows = np.column_stack([found.scores, found.labels, found.boxes_xyxy])
    assert len(rows) > 10
    np.testing.assert_allclose(
        rows[np.lexsort(rows.T)], np.array(sorted(expected, key=lambda row: row[::-1])), atol=1e-3
    )


def test_the_tiles_of_an_image() -> None:
    tiling = Tiling(64, 0.25)
    tiles = tiling.tiles(64, 200)
    assert [tile.box_xyxy for tile in tiles] == [(0, 0, 64, 64), (45, 0, 109, 64), (91, 0, 155, 64), (136, 0, 200, 64)]
    covered = np.zeros((150, 333), int)
    for tile in tiling.tiles(150, 333):
        left, top, right, bottom = tile.core_xyxy
        covered[top:bottom, left:right] += 1
        assert tile.box_xyxy[2] - tile.box_xyxy[0] == tile.box_xyxy[3] - tile.box_xyxy[1] == 64
    assert (covered == 1).all()
    assert [tile.box_xyxy for tile in tiling.tiles(50, 20)] == [(0, 0, 20, 50)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 0}, "tile 0 is less than 1 pixel"),
        ({"tile": 9, "overlap": 1.0}, r"overlap 1\.0 is not between 0 and 0"),
    ],
)
def test_bad_tiles_are_refused(exact: Predictor, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        exact.predict(np.zeros((10, 10, 3), np.uint8), **options)  # type: ignore[arg-type]

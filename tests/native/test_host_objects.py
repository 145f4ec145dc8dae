"""Objects on their way into a batch: the host module against the same in numpy."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import CATEGORIES

from detcore.data import Sample, ShardedSplit, write_split
from detcore.data.augmentation.geometry import mirror_x, scaling, shift, turn
from detcore.data.augmentation.objects import Limits, PlacedObjects, cut, moved, placed
from detcore.ops import native

FIELDS = ("boxes_xyxy", "labels", "vertices", "ring_counts", "ring_objects")


@pytest.fixture(scope="module", autouse=True)
def host_module() -> None:
    if native.host() is None:
        pytest.skip("the host module is not built (no compiler, or DETCORE_NATIVE=off)", allow_module_level=True)


def drawn_polygons(
    rng: np.random.Generator, number: int, *, least: int = 0, decimals: int | None = None
) -> list[list[np.ndarray]]:
    """`least` to three rings an object, of three to nine points, some of them outside of an image of 100 x 80."""
    objects = []
    for _ in range(number):
        centre = rng.uniform(-10, 110, 2)
        rings = [centre + rng.normal(0, 15, (int(rng.integers(3, 10)), 2)) for _ in range(int(rng.integers(least, 4)))]
        objects.append([ring if decimals is None else ring.round(decimals) for ring in rings])
    return objects


def drawn_objects(seed: int) -> PlacedObjects:
    rng = np.random.default_rng(seed)
    number = int(rng.integers(7))
    low = rng.uniform(-10, 90, (number, 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 40, (number, 2))], axis=1)
    return PlacedObjects.of(boxes_xyxy=boxes, labels=rng.integers(5, size=number), polygons=drawn_polygons(rng, number))


def assert_same(found: PlacedObjects, expected: PlacedObjects, *, tolerance: float = 0.0) -> None:
    for name in FIELDS:
        own, wanted = getattr(found, name), getattr(expected, name)
        assert (own.dtype, own.shape) == (wanted.dtype, wanted.shape), name
        np.testing.assert_allclose(own, wanted, rtol=0, atol=tolerance, err_msg=name)


@given(
    seed=st.integers(0, 10**6), resized=st.floats(0.3, 3.0), mirrored=st.booleans(), visible=st.sampled_from((0, 0.5))
)
@settings(max_examples=200, deadline=None)
def test_resized_and_mirrored_to_the_last_bit(seed: int, resized: float, mirrored: bool, visible: float) -> None:
    size = round(80 * resized), round(100 * resized)
    geometry = scaling((80, 100), size)
    if mirrored:
        geometry = mirror_x(size[1]) @ geometry
    objects, limits = drawn_objects(seed), Limits(min_size=1.0, min_visible=visible)
    assert_same(placed(objects, geometry, size, limits), cut(moved(objects, geometry), size, limits))


@given(seed=st.integers(0, 10**6), degrees=st.floats(-180, 180), x=st.floats(-40, 40))
@settings(max_examples=200, deadline=None)
def test_turned_and_cropped(seed: int, degrees: float, x: float) -> None:
    """Sums of two products, which numpy may round otherwise."""
    geometry, size = shift(-x, 3.0) @ turn(degrees, (50, 40), (50, 40)), (70, 90)
    objects, limits = drawn_objects(seed), Limits(min_size=1.0, min_visible=0.1)
    expected = cut(moved(objects, geometry), size, limits)
    assert_same(placed(objects, geometry, size, limits), expected, tolerance=1e-9)


@pytest.mark.parametrize("decimals", [1, None], ids=["stored as whole numbers", "as float64"])
@pytest.mark.parametrize("outlines", [True, False])
def test_targets_are_the_splits_objects_without_crowds(tmp_path: Path, decimals: int | None, outlines: bool) -> None:
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(12):
        number = int(rng.integers(6))
        low = rng.uniform(0, 60, (number, 2))
        samples.append(
            Sample(
                image=np.zeros((80, 100, 3), np.uint8),
                boxes_xyxy=np.concatenate([low, low + rng.uniform(1, 40, (number, 2))], axis=1),
                labels=rng.integers(2, size=number),
                polygons=drawn_polygons(rng, number, least=1, decimals=decimals) if outlines else None,
                crowd=rng.random(number) < 0.3,
            )
        )
    write_split(samples, tmp_path, split="train", categories=CATEGORIES)
    split = ShardedSplit.open(tmp_path, "train")
    assert split.has_masks == outlines
    crowds = 0
    for index in range(len(split)):
        objects, flat = split.objects(index), split.targets(index)
        targets = np.flatnonzero(~objects.crowd)
        crowds += len(objects.labels) - len(targets)
        expected = PlacedObjects.of(
            boxes_xyxy=objects.boxes_xyxy[targets],
            labels=objects.labels[targets],
            polygons=[objects.polygons[i] for i in targets] if outlines else [],
        )
        assert flat is not None
        assert_same(PlacedObjects(*flat), expected)
    assert crowds
    split.close()


def test_arrays_that_do_not_fit_are_refused() -> None:
    host = native.host()
    assert host is not None
    boxes, none = np.zeros((1, 4)), np.zeros(0, np.int64)
    with pytest.raises(ValueError, match="counts do not fit the vertices"):
        host.place_objects(boxes, np.zeros(1, np.int64), np.zeros((2, 2)), none, none, np.eye(3), 9, 9, 0, 0)
    with pytest.raises(ValueError, match="different lengths"):
        host.place_objects(boxes, none, np.zeros((0, 2)), none, none, np.eye(3), 9, 9, 0, 0)
    starts, labels = np.zeros(2, np.int64), np.zeros(1, np.int32)
    with pytest.raises(ValueError, match="rings do not fit their objects"):
        host.targets(boxes, labels, np.zeros(1, bool), starts, starts, np.zeros(0), 1, 9, 9)
    with pytest.raises(ValueError, match="object 0: a ring is not finite"):
        host.targets(boxes, labels, np.zeros(1, bool), np.array([0, 1]), np.array([0, 6]), np.full(6, np.nan), 1, 9, 9)

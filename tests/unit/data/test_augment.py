"""Pixels, boxes and outlines go through the same matrix."""

import numpy as np
import pytest
import torch
from detcore.data.augment import Draw, content_sizes, draw, num_size_choices, place_objects
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance

from detcore.config.data import Affine, ColorJitter, HorizontalFlip, ResizeFixed, ResizeShortestEdge
from detcore.ops import warp_normalize

ANYWHERE = (10_000, 10_000)


def pipeline(*transforms, image, seed=0, choice=0, within=ANYWHERE):
    return draw(transforms, image=image, choice=choice, random=np.random.default_rng(seed), within=within)


def place(placement, boxes, polygons=(), *, min_size=1e-3):
    return place_objects(
        boxes_xyxy=np.array(boxes, float).reshape(-1, 4),
        labels=np.arange(len(boxes)),
        polygons=[[np.array(ring, float) for ring in rings] for rings in polygons],
        placement=placement,
        min_size=min_size,
    )


def pixels(image, placement):
    """(h, w, 3) as the network would see the image."""
    warped = warp_normalize(
        [torch.from_numpy(image)],
        torch.from_numpy(placement.geometry)[None].float(),
        torch.from_numpy(placement.colour)[None].float(),
        placement.content_size,
        content_sizes=torch.tensor([placement.content_size]),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    return warped[0].permute(1, 2, 0).numpy()


@st.composite
def pipelines(draw_):
    """Any resize, then flips and affine maps in any order."""
    resize = draw_(
        st.one_of(
            st.builds(ResizeFixed, height=st.integers(40, 120), width=st.integers(40, 120)),
            st.builds(
                ResizeShortestEdge,
                sizes=st.tuples(st.integers(40, 90), st.integers(40, 90)),
                max_size=st.integers(80, 150),
            ),
        )
    )
    affine = st.builds(
        Affine,
        degrees=st.floats(0, 60),
        scale=st.tuples(st.floats(0.7, 1.0), st.floats(1.0, 1.4)),
        shear_degrees=st.floats(0, 15),
        translate=st.floats(0, 0.2),
    )
    flip = st.builds(HorizontalFlip, probability=st.sampled_from([0.0, 0.5, 1.0]))
    return (resize, *draw_(st.lists(st.one_of(flip, affine), max_size=3)))


@settings(max_examples=80, deadline=None)
@given(pipelines(), st.integers(0, 2**31), st.integers(0, 1), st.data())
def test_pixels_and_geometry_move_together(transforms, seed, choice, data):
    """A bright rectangle is where its box and its outline say, to a pixel."""
    height, width = data.draw(st.integers(50, 90)), data.draw(st.integers(50, 90))
    x0, y0 = data.draw(st.integers(0, width - 25)), data.draw(st.integers(0, height - 25))
    x1, y1 = data.draw(st.integers(x0 + 20, width)), data.draw(st.integers(y0 + 20, height))
    image = np.zeros((height, width, 3), np.uint8)
    image[y0:y1, x0:x1] = 255
    placement = pipeline(*transforms, image=image, seed=seed, choice=choice)
    outline = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
    placed = place(placement, [[x0, y0, x1, y1]], [[outline]])
    bright = pixels(image, placement)[..., 0] > 127
    if len(placed.labels) == 0:
        assert bright.mean() < 0.1
        return
    drawn = Image.new("L", (bright.shape[1] * 4, bright.shape[0] * 4))
    ImageDraw.Draw(drawn).polygon([tuple(point) for point in (placed.vertices * 4 - 0.5).tolist()], fill=1)
    inside = np.asarray(drawn).reshape(bright.shape[0], 4, bright.shape[1], 4).mean(axis=(1, 3))
    # Pixels wholly inside are bright, those wholly outside are dark; one pixel of blur at the border is let be.
    solid, clear = inside == 1, inside == 0
    assert bright[erode(solid)].all()
    assert not bright[erode(clear)].any()
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    if placement.geometry[0, 1] == placement.geometry[1, 0] == 0:
        extent = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(placed.boxes_xyxy[0], extent, atol=1.0)


def erode(mask):
    padded = np.pad(mask, 1, constant_values=False)
    shifts = [(dy, dx) for dy in range(3) for dx in range(3)]
    return np.all([padded[dy : dy + mask.shape[0], dx : dx + mask.shape[1]] for dy, dx in shifts], axis=0)


def test_resized_sizes():
    """By hand: 480x640 to 800 is 640 * 800 / 480 = 1066.67; 375x1242 to 800 would be 2650 wide, so 1333 and 402.47."""
    sizes = np.array([[480, 640], [640, 480], [375, 1242], [500, 500], [1, 5000]])
    resize = (ResizeShortestEdge(sizes=(800,), max_size=1333),)
    expected = [[800, 1067], [1067, 800], [402, 1333], [800, 800], [1, 1333]]
    assert content_sizes(sizes, resize, np.zeros(5, int)).tolist() == expected


def test_choices_run_over_all_combinations_of_sizes():
    resizes = (
        ResizeShortestEdge(sizes=(40, 50), max_size=1000),
        HorizontalFlip(),
        ResizeShortestEdge(sizes=(60, 70, 80), max_size=1000),
        ResizeFixed(height=90, width=100),
    )
    assert num_size_choices(resizes) == 6
    sizes = content_sizes(np.full((6, 2), 20), resizes[:3], np.arange(6))
    assert sorted(sizes[:, 0].tolist()) == [60, 60, 70, 70, 80, 80]
    image = np.zeros((20, 20, 3), np.uint8)
    assert [pipeline(*resizes[:3], image=image, choice=c).content_size[0] for c in range(6)] == sizes[:, 0].tolist()
    assert content_sizes(np.full((6, 2), 20), resizes, np.arange(6)).tolist() == [[90, 100]] * 6


def test_flip_maps_both_edges():
    image = np.zeros((10, 40, 3), np.uint8)
    placement = pipeline(ResizeFixed(height=20, width=80), HorizontalFlip(probability=1.0), image=image)
    assert place(placement, [[0, 0, 10, 5]]).boxes_xyxy.tolist() == [[60, 0, 80, 10]]
    unflipped = pipeline(ResizeFixed(height=20, width=80), HorizontalFlip(probability=0.0), image=image)
    assert place(unflipped, [[0, 0, 10, 5]]).boxes_xyxy.tolist() == [[0, 0, 20, 10]]


def rotation(degrees, size=(100, 100)):
    """About the centre of a square image."""
    angle = np.radians(degrees)
    geometry = np.eye(3)
    geometry[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    geometry[:2, 2] = np.array([50, 50]) - geometry[:2, :2] @ [50, 50]
    return Draw(geometry, np.eye(3, 4), size)


def test_a_turned_box_is_the_extent_of_its_outline_or_else_of_its_corners():
    """By hand: a diamond of half-diagonal 20, turned by 45 degrees, is a square of half-side 20 / sqrt 2 = 14.14."""
    diamond = [[50, 30], [70, 50], [50, 70], [30, 50]]
    placed = place(rotation(45), [[30, 30, 70, 70], [30, 30, 70, 70]], [[diamond], []])
    half, corner = 20 / np.sqrt(2), 20 * np.sqrt(2)
    np.testing.assert_allclose(placed.boxes_xyxy[0], [50 - half, 50 - half, 50 + half, 50 + half])
    np.testing.assert_allclose(placed.boxes_xyxy[1], [50 - corner, 50 - corner, 50 + corner, 50 + corner])


def test_what_is_hardly_left_is_dropped_and_outlines_follow_their_objects():
    shift = Draw(np.array([[1.0, 0, -50], [0, 1, 0], [0, 0, 1]]), np.eye(3, 4), (100, 100))
    boxes = [[0, 0, 40, 10], [42, 0, 51, 10], [30, 0, 70, 10], [60, 20, 60.05, 30], [60, 0, 90, 10]]
    square = [[0, 0], [1, 0], [1, 1]]
    polygons = [
        [square],
        [square, square],
        [square, [[2, 2], [3, 2], [3, 3], [2, 3]]],
        [square],
        [[[60, 0], [90, 0], [90, 10]]],
    ]
    placed = place(shift, boxes, polygons, min_size=0.1)
    # Gone: the first is outside, of the second a ninth is left (kept), the fourth is narrower than 0.1 pixels.
    assert placed.labels.tolist() == [1, 2, 4]
    assert placed.boxes_xyxy.tolist() == [[0, 0, 1, 10], [0, 0, 20, 10], [10, 0, 40, 10]]
    assert placed.ring_counts.tolist() == [3, 3, 3, 4, 3]
    assert placed.ring_objects.tolist() == [0, 0, 1, 1, 2]
    assert placed.vertices[-3:].tolist() == [[10, 0], [40, 0], [40, 10]]
    mostly_gone = place(shift, [[0, 0, 55, 10]])  # 5 of 55 columns are left
    assert len(mostly_gone.labels) == 0


def test_no_objects():
    placed = place(rotation(30), [])
    assert placed.boxes_xyxy.shape == (0, 4)
    assert placed.vertices.shape == (0, 2)


@pytest.mark.parametrize("seed", range(4))
def test_colours_equal_pils(seed):
    """Pillow's ImageEnhance, one after the other; it cuts to whole levels. Mid greys, so that nothing is clamped."""
    random = np.random.default_rng(seed)
    blocks = random.integers(100, 150, (8, 8, 3)).astype(np.uint8)
    image = np.repeat(np.repeat(blocks, 8, axis=0), 8, axis=1)
    jitter = ColorJitter(brightness=0.3, contrast=0.4, saturation=0.5)
    placement = pipeline(ResizeFixed(height=64, width=64), jitter, image=image, seed=seed)
    brightness, contrast, saturation = 1 + np.random.default_rng(seed).uniform(-1, 1, 3) * [0.3, 0.4, 0.5]
    expected = Image.fromarray(image)
    for enhance, factor in (
        (ImageEnhance.Brightness, brightness),
        (ImageEnhance.Contrast, contrast),
        (ImageEnhance.Color, saturation),
    ):
        expected = enhance(expected).enhance(factor)
    np.testing.assert_allclose(pixels(image, placement), np.asarray(expected), atol=4.0)
    assert abs(pixels(image, placement) - image).max() > 10


def test_an_image_that_outgrew_its_batch_is_shrunk_into_it():
    image = np.zeros((50, 200, 3), np.uint8)
    resize = ResizeShortestEdge(sizes=(64,), max_size=1000)
    placement = pipeline(resize, image=image, within=(96, 128))
    assert placement.content_size == (32, 128)
    assert place(placement, [[0, 0, 200, 50]]).boxes_xyxy.tolist() == [[0, 0, 128, 32]]


def test_affine_stays_within_its_ranges():
    image = np.zeros((80, 120, 3), np.uint8)
    affine = Affine(degrees=20, scale=(0.5, 2.0), translate=0.25)
    angles, scales, shifts = [], [], []
    for seed in range(200):
        geometry = pipeline(ResizeFixed(height=80, width=120), affine, image=image, seed=seed).geometry
        angles.append(np.degrees(np.arctan2(geometry[1, 0], geometry[0, 0])))
        scales.append(np.sqrt(np.linalg.det(geometry[:2, :2])))
        shifts.append(((geometry @ [60, 40, 1])[:2] - [60, 40]) / [120, 80])
    assert -20 <= min(angles) < -15 and 15 < max(angles) <= 20
    assert 0.5 <= min(scales) < 0.7 and 1.8 < max(scales) <= 2.0
    assert np.abs(shifts).max() <= 0.25 and (np.abs(shifts).max(axis=0) > 0.2).all()

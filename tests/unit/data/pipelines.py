"""Pictures with painted objects, random pipelines, and what a network would see of them."""

import numpy as np
import torch
from hypothesis import assume
from hypothesis import strategies as st

from detcore.config.transforms import (
    Affine,
    Extent,
    FixedSizeCrop,
    HorizontalFlip,
    MinIoUCrop,
    RandomCrop,
    ResizeFixed,
    ResizeScale,
    ResizeShortestEdge,
    Rotate,
    VerticalFlip,
)
from detcore.data.augmentation.canvas import Picture
from detcore.data.augmentation.compositing import compose, compose_labels
from detcore.data.augmentation.draws import Draws
from detcore.data.augmentation.objects import Limits, PlacedObjects
from detcore.data.augmentation.pipeline import Pipeline
from detcore.data.augmentation.pointwise import apply_steps
from detcore.data.augmentation.sizes import content_sizes, num_size_choices
from detcore.data.outlines import fill_rings
from detcore.ops import warp_nearest, warp_normalize

ANYWHERE = (10_000, 10_000)
MEAN, STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def picture_of(image):
    """Of (h, w, 3), without objects."""
    nothing = PlacedObjects.of(boxes_xyxy=np.zeros((0, 4)), labels=np.zeros(0, np.int64))
    return Picture(torch.from_numpy(image), nothing)


def run(transforms, picture, *, seed=0, choice=None, within=ANYWHERE, others=(), mixes=True, flip=(), **limits):
    """A pipeline on one picture; its size is drawn too, and `others` are what mixtures draw from."""
    number = num_size_choices(transforms)
    choice = int(np.random.default_rng(seed).integers(number)) if choice is None else choice
    pipeline = Pipeline(
        transforms,
        limits=Limits(**{"min_size": 1e-3, "min_visible": 0.0, **limits}),
        keypoint_flip=flip,
        num_samples=len(others),
        load=lambda sample, draws: others[sample],
    )
    return pipeline(picture, choice=choice, draws=Draws(seed, 0, 0), within=within, mixes=mixes)


def planned_size(transforms, picture, *, seed):
    """What the sampler takes the image's size to be."""
    choice = np.random.default_rng(seed).integers(num_size_choices(transforms))
    return tuple(content_sizes(np.array([picture.size]), transforms, np.array([choice]))[0].tolist())


def seen(placement):
    """(h, w, 3) grey levels of the content, as a network would see them."""
    size = placement.content_size
    layers = placement.layers
    warped = warp_normalize(
        [layer.image for layer in layers],
        torch.from_numpy(np.stack([layer.geometry for layer in layers])).float(),
        torch.from_numpy(np.stack([layer.colour for layer in layers])).float(),
        size,
        content_sizes=torch.tensor(size).expand(len(layers), 2),
        mean=MEAN,
        std=STD,
    )
    compose(warped[0], warped[1:].unbind(), layers, size)
    apply_steps(warped[0], placement.steps, mean=MEAN, std=STD)
    return warped[0].permute(1, 2, 0).numpy()


def seen_labels(placement):
    """(h, w) classes of the content."""
    size, layers = placement.content_size, placement.layers
    warped = warp_nearest(
        [layer.semantic for layer in layers],
        torch.from_numpy(np.stack([layer.geometry for layer in layers])).float(),
        size,
        content_sizes=torch.tensor(size).expand(len(layers), 2),
        fill=255,
    )
    compose_labels(warped[0], warped[1:].unbind(), layers, size)
    return warped[0].numpy()


def outline_mask(objects, index, size, *, scale=1, margin=0):
    """An object's outline, filled, within an image with a margin, enlarged by `scale`."""
    ends = np.cumsum(objects.ring_counts)
    own = np.flatnonzero(objects.ring_objects == index)
    rings = [objects.vertices[ends[ring] - objects.ring_counts[ring] : ends[ring]] for ring in own]
    points = (np.concatenate([np.zeros((0, 2)), *rings]) + margin) * scale
    return fill_rings(points, objects.ring_counts[own], tuple((side + 2 * margin) * scale for side in size))


BLUR = 3
"""So many pixels from its border, an object is wholly of its colour, and what is outside has nothing of it."""


def inner_and_outer(objects, index, size):
    """The pixels of an image that are surely the object's, and those that surely are not."""
    mask = outline_mask(objects, index, size, margin=BLUR)
    within = np.s_[BLUR:-BLUR, BLUR:-BLUR]
    return eroded(mask)[within], eroded(~mask)[within]


def unbordered(size):
    """The pixels of an image that nothing beyond its edges reaches."""
    inside = np.zeros(size, bool)
    inside[BLUR:-BLUR, BLUR:-BLUR] = True
    return inside


def eroded(mask):
    """Without the pixels within BLUR of the border."""
    for _ in range(BLUR):
        padded = np.pad(mask, 1, mode="edge")
        height, width = mask.shape
        mask = np.all([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)
    return mask


COLOURS = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250]], np.uint8)


def painted(random, *, height=None, width=None, count=3, first_label=0):
    """A dark picture with one turned rectangle of each colour, apart from each other.

    Object i has colour i, the class i + 1 in the map, and three keypoints: left and right of its centre, and that.
    Returned twice: with upright boxes and keypoints, and with rotated boxes.
    """
    height = int(random.integers(60, 110)) if height is None else height
    width = int(random.integers(90, 140)) if width is None else width
    image = np.full((height, width, 3), 20, np.uint8)
    semantic = np.zeros((height, width), np.uint8)
    boxes, rings, keypoints, rotated = [], [], [], []
    for index in range(count):
        centre = np.array([(index + 0.5) * width / count, height * random.uniform(0.35, 0.65)])
        w, h = random.uniform(0.5, 0.75) * width / count, random.uniform(0.25, 0.5) * height
        angle = random.uniform(-20, 20)
        cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        corners = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2 @ np.array([[cos, -sin], [sin, cos]]) + centre
        mask = fill_rings(corners, np.array([4]), (height, width))
        image[mask], semantic[mask] = COLOURS[index % 3], index + 1
        boxes.append([*corners.min(axis=0), *corners.max(axis=0)])
        rings.append([corners])
        sides = np.array([-w, w])[:, None] * [0.4, 0] @ np.array([[cos, -sin], [sin, cos]]) + centre
        keypoints.append([[*sides[0], 2], [*sides[1], 2], [*centre, 2]])
        rotated.append([*centre, w, h, angle])
    labels = np.arange(count) + first_label
    image_tensor, map_tensor = torch.from_numpy(image), torch.from_numpy(semantic)
    arrays = np.array(boxes).reshape(-1, 4), np.array(keypoints).reshape(-1, 3, 3), np.array(rotated).reshape(-1, 5)
    upright = PlacedObjects.of(boxes_xyxy=arrays[0], labels=labels, polygons=rings, keypoints=arrays[1])
    turned = PlacedObjects.of(boxes_xyxy=arrays[0], labels=labels, polygons=rings, boxes_xywha=arrays[2])
    return Picture(image_tensor, upright, map_tensor), Picture(image_tensor, turned, map_tensor)


SIZES = st.integers(60, 120)
RANGES = st.tuples(st.floats(0.7, 1.0), st.floats(1.0, 1.4))
SIZING = st.one_of(
    st.builds(ResizeFixed, height=SIZES, width=SIZES),
    st.builds(ResizeShortestEdge, sizes=st.tuples(SIZES, SIZES), max_size=st.integers(90, 170)),
    st.builds(ResizeShortestEdge, sizes=st.just((60, 120)), max_size=st.integers(90, 170), sample=st.just("range")),
    st.builds(ResizeScale, height=SIZES, width=SIZES, scale=RANGES),
)
MOVES = st.one_of(
    st.builds(FixedSizeCrop, height=SIZES, width=SIZES),
    st.builds(RandomCrop, mode=st.just("relative"), size=st.just((0.8, 0.7))),
    st.builds(RandomCrop, mode=st.just("relative_range"), size=st.just((0.6, 0.6)), probability=st.floats(0, 1)),
    st.builds(RandomCrop, mode=st.just("absolute"), size=st.tuples(st.floats(50, 90), st.floats(50, 90))),
    st.builds(RandomCrop, mode=st.just("absolute_range"), size=st.tuples(st.floats(40, 60), st.floats(60, 90))),
    st.builds(MinIoUCrop),
    st.builds(Extent, scale=RANGES, shift=st.tuples(st.floats(0, 0.3), st.floats(0, 0.3))),
    st.builds(HorizontalFlip, probability=st.sampled_from([0.5, 1.0])),
    st.builds(VerticalFlip, probability=st.sampled_from([0.5, 1.0])),
    st.builds(Rotate, degrees=st.just((-60.0, 90.0)), expand=st.booleans(), probability=st.floats(0, 1)),
    st.builds(Rotate, degrees=st.just((90.0, -30.0, 180.0)), sample=st.just("choice"), expand=st.booleans()),
    st.builds(Rotate, degrees=st.just((-20.0, 20.0)), expand=st.just(False), centre=st.just(((0.2, 0.2), (0.7, 0.9)))),
    st.builds(
        Affine,
        degrees=st.floats(0, 40),
        scale=RANGES,
        shear_degrees=st.floats(0, 15),
        translate=st.floats(0, 0.2),
        perspective=st.sampled_from([0.0, 0.0, 0.2]),
        probability=st.sampled_from([0.5, 1.0]),
    ),
)


@st.composite
def pipelines(draw):
    """Crops, flips, turns and affine maps in any order about a resize."""
    before, after = draw(st.lists(MOVES, max_size=1)), draw(st.lists(MOVES, max_size=3))
    transforms = (*before, draw(SIZING), *after)
    assume(draws_few_sizes(transforms))
    return transforms


def draws_few_sizes(transforms):
    drawing = [type(transform) for transform in transforms if isinstance(transform, RandomCrop | Rotate | Extent)]
    return len(drawing) < 3 and drawing.count(RandomCrop) < 2

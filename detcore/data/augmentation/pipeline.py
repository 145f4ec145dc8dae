"""A pipeline: the transforms of `data.train_transforms`, one after the other, drawn and composed for one image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from detcore.config.transforms import (
    Affine,
    Chance,
    ColorJitter,
    CopyPaste,
    Extent,
    FixedSizeCrop,
    GaussianBlur,
    GaussianNoise,
    HorizontalFlip,
    HSVJitter,
    Lighting,
    MinIoUCrop,
    Mixing,
    MixUp,
    Mosaic,
    RandomCrop,
    RandomErasing,
    ResizeFixed,
    ResizeScale,
    ResizeShortestEdge,
    Rotate,
    Transform,
    VerticalFlip,
)
from detcore.data.augmentation import mixing
from detcore.data.augmentation.canvas import Canvas, Layer, Picture
from detcore.data.augmentation.colours import jitter, lighting, then
from detcore.data.augmentation.crops import anywhere, overlapping, with_several_classes
from detcore.data.augmentation.draws import PARTNER, Draws
from detcore.data.augmentation.geometry import (
    Matrix,
    Size,
    affine,
    extent,
    mirror_x,
    mirror_y,
    rotation,
    scaling,
    shift,
    turn,
)
from detcore.data.augmentation.objects import Limits, PlacedObjects, placed
from detcore.data.augmentation.pointwise import Step, drawn_step
from detcore.data.augmentation.sizes import (
    Integers,
    expanding_angle,
    extent_scale,
    num_size_choices,
    sizes_after,
    take_digits,
)

Load = Callable[[int, Draws], Picture]
"""Reads a sample of the split by its number, to be mixed into another."""


@dataclass(frozen=True)
class Draw:
    """What one image's pipeline came to.

    Attributes:
        layers: what is seen, from the ground up; the first is the sample's own image, except in the other quarters of a
            mosaic.
        content_size: height and width that the image takes up.
        steps: on the finished pixels.
    """

    layers: tuple[Layer, ...]
    content_size: Size
    steps: tuple[Step, ...] = ()

    @property
    def geometry(self) -> Matrix:
        """(3, 3), from the sample's own raw pixel coordinates to the network's, homogeneous."""
        return self.layers[0].geometry

    @property
    def is_composed(self) -> bool:
        """Whether more is seen than one whole image."""
        return len(self.layers) > 1 or bool(self.layers[0].regions)


class Pipeline:
    """Draws and composes transforms. Safe to use from several threads."""

    def __init__(
        self,
        transforms: Sequence[Transform],
        *,
        limits: Limits,
        keypoint_flip: Sequence[int] = (),
        num_samples: int = 0,
        load: Load | None = None,
    ) -> None:
        """A pipeline of some transforms.

        Args:
            transforms: in order.
            limits: which objects are dropped.
            keypoint_flip: which keypoint each one is in a mirrored image.
            num_samples: of the split that mixtures draw from.
            load: reads one of them; None where nothing is mixed.
        """
        self._transforms = tuple(transforms)
        self._choices = [num_size_choices(self._transforms[:number]) for number in range(len(self._transforms))]
        self._limits = limits
        self._flip = keypoint_flip
        self._num_samples = num_samples
        self._load = load

    def __call__(
        self, picture: Picture, *, choice: int, draws: Draws, within: Size, mixes: bool = True
    ) -> tuple[Draw, PlacedObjects]:
        """The matrices and the objects of one image, in pixels of the network's input.

        Args:
            picture: the sample.
            choice: which of the pipeline's sizes, as in `content_sizes`.
            draws: the sample's streams.
            within: height and width of the batch. It was chosen from the image's size before a user's transform ran; an
                image that came out larger is shrunk into it.
            mixes: False leaves out what mixes images.
        """
        canvas = self._carry_out(len(self._transforms), picture, choice, draws, mixes)
        size = canvas.size
        if size[0] > within[0] or size[1] > within[1]:
            ratio = min(within[0] / size[0], within[1] / size[1])
            shrunk = (max(int(size[0] * ratio), 1), max(int(size[1] * ratio), 1))
            canvas.move(scaling(size, shrunk), shrunk)
        canvas.finish(self._flip, self._limits)
        return Draw(tuple(canvas.layers), canvas.size, tuple(canvas.steps)), canvas.objects

    def _carry_out(self, number: int, picture: Picture, choice: int, draws: Draws, mixes: bool) -> Canvas:
        """The first `number` transforms on one picture."""
        canvas, choices = Canvas.of(picture), np.array([choice])
        for site, transform in enumerate(self._transforms[:number]):
            digits, choices = take_digits(transform, choices)
            match transform:
                case Mosaic() | MixUp() | CopyPaste():
                    canvas = self._mix(canvas, transform, site, draws, mixes)
                case ResizeShortestEdge() | ResizeFixed() | ResizeScale() | FixedSizeCrop() | RandomCrop() | Extent():
                    _resize(canvas, transform, digits, draws, site)
                case Rotate(expand=True):
                    _resize(canvas, transform, digits, draws, site)
                case _:
                    self._change(canvas, transform, draws.at(site))
        return canvas

    def _change(self, canvas: Canvas, transform: Transform, random: np.random.Generator) -> None:
        """A transform whose size was not drawn beforehand."""
        if isinstance(transform, Chance | HorizontalFlip | VerticalFlip) and not _happens(transform, random):
            return
        match transform:
            case HorizontalFlip():
                canvas.move(mirror_x(canvas.size[1]))
            case VerticalFlip():
                canvas.move(mirror_y(canvas.size[0]))
            case Affine():
                canvas.move(affine(transform, canvas.size, random))
            case Rotate():
                canvas.move(rotation(transform, canvas.size, random))
            case MinIoUCrop():
                boxes = placed(canvas.objects, canvas.geometry, canvas.size, self._limits, self._flip).boxes_xyxy
                x0, y0, x1, y1 = overlapping(canvas.size, transform, boxes, random)
                canvas.move(shift(-x0, -y0), (y1 - y0, x1 - x0))
            case ColorJitter():
                ground = canvas.layers[0]
                seen = then(ground.colour, canvas.colour)
                canvas.colour = then(canvas.colour, jitter(transform, ground.image.numpy(), seen, random))
            case Lighting():
                canvas.colour = then(canvas.colour, lighting(transform, random))
            case HSVJitter() | GaussianBlur() | GaussianNoise() | RandomErasing():
                canvas.steps.append(drawn_step(transform, random))

    def _mix(self, canvas: Canvas, transform: Mixing, site: int, draws: Draws, mixes: bool) -> Canvas:
        """The canvas with others on it, or as it is."""
        random = draws.at(site)
        happens = mixes and _happens(transform, random)
        match transform:
            case Mosaic(height=height, width=width, centre=centre):
                size = (height, width)
                x, y = (round(random.uniform(*centre) * side) for side in (width, height))
                canvas.settle(self._flip)
                if not happens:
                    return mixing.centred(mixing.trimmed(canvas, self._limits), size)
                partners = [self._partner(site, draws, number, mixes) for number in range(3)]
                ground = mixing.trimmed(canvas, self._limits)
                return mixing.mosaic([ground, *partners], size, (x, y))
            case MixUp(alpha=alpha) if happens:
                opacity = 1.0 - random.beta(alpha, alpha)
                partner = self._partner(site, draws, 0, mixes)
                canvas.settle(self._flip)
                return mixing.mixed(canvas, mixing.centred(partner, canvas.size), opacity)
            case CopyPaste(share=share) if happens:
                partner = mixing.centred(self._partner(site, draws, 0, mixes), canvas.size)
                chosen = draws.of_partner(site, 1).at(site).random(len(partner.objects)) < share
                canvas.settle(self._flip)
                return mixing.pasted(canvas, partner, chosen, self._limits)
        return canvas

    def _partner(self, site: int, draws: Draws, number: int, mixes: bool) -> Canvas:
        """Another image of the split, trimmed, after the transforms before `site`."""
        assert self._load is not None, "a pipeline that mixes images has to be given `load`"
        own = draws.of_partner(site, number)
        random = own.at(PARTNER)
        sample, choice = int(random.integers(self._num_samples)), int(random.integers(self._choices[site]))
        canvas = self._carry_out(site, self._load(sample, own), choice, own, mixes)
        canvas.settle(self._flip)
        return mixing.trimmed(canvas, self._limits)


def _happens(transform: Chance | HorizontalFlip | VerticalFlip, random: np.random.Generator) -> bool:
    return transform.probability >= 1.0 or bool(random.random() < transform.probability)


@lru_cache(maxsize=2**14)
def _size_after(transform: Transform, size: Size, digits: tuple[int, ...]) -> Size:
    """`sizes_after` of one image; those of most have been asked for before."""
    height, width = sizes_after(transform, np.array([size]), [np.array([digit]) for digit in digits])[0].tolist()
    return height, width


def _resize(canvas: Canvas, transform: Transform, digits: list[Integers], draws: Draws, site: int) -> None:
    """A transform after which the canvas has the size that its digits say."""
    size = _size_after(transform, canvas.size, tuple(int(digit[0]) for digit in digits))
    match transform:
        case ResizeShortestEdge() | ResizeFixed() | ResizeScale():
            canvas.move(scaling(canvas.size, size), size)
        case Rotate():
            angle = float(expanding_angle(transform, digits, np.array([canvas.size]))[0])
            about, to = ((side[1] / 2, side[0] / 2) for side in (canvas.size, size))
            canvas.move(turn(angle, about, to), size)
        case Extent():
            scale = float(extent_scale(transform, digits)[0])
            canvas.move(extent(transform, canvas.size, scale, size, draws.at(site)), size)
        case RandomCrop(max_class_share=max_share) if max_share < 1.0:
            semantic = canvas.layers[0].semantic
            if semantic is None:
                raise ValueError("random_crop with max_class_share needs semantic maps, which the data does not have")
            left, top = with_several_classes(
                canvas.size,
                size,
                draws.at(site),
                semantic=semantic.numpy(),
                geometry=canvas.geometry,
                max_share=max_share,
            )
            canvas.move(shift(-left, -top), size)
        case RandomCrop() | FixedSizeCrop():
            left, top = anywhere(canvas.size, size, draws.at(site))
            canvas.move(shift(-left, -top), size)

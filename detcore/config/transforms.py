"""Augmentations: what each draws, and from which ranges. A pipeline is a list of them, in `data.train_transforms`.

Where the kinds differ: sizing, geometric and mixing ones compose into one matrix for each image that is seen, linear
colours into another; pointwise ones change the finished pixels and so stand at a pipeline's end.
"""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from detcore.config.section import Count, Fraction, NonNegative, Positive, Section


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"{list(ends)}: the least and the greatest value, in this order")
    return ends


PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_rising)]
FractionRange = Annotated[tuple[Fraction, Fraction], AfterValidator(_rising)]
NonNegativeRange = Annotated[tuple[NonNegative, NonNegative], AfterValidator(_rising)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]


class Chance(Section):
    """An augmentation that each image gets with some probability."""

    probability: Fraction = 1.0


class ResizeShortestEdge(Section):
    """The shorter side to one of the sizes, the aspect ratio kept; less where the longer one would exceed max_size."""

    type: Literal["resize_shortest_edge"] = "resize_shortest_edge"
    sizes: Annotated[tuple[Count, ...], Field(min_length=1)]
    """One is drawn for each image; a test pipeline has one."""
    max_size: Count
    sample: Literal["choice", "range"] = "choice"
    """range: `sizes` are the least and the greatest, and any whole number between them is drawn."""

    @model_validator(mode="after")
    def _two_ends(self) -> Self:
        if self.sample == "range" and (len(self.sizes) != 2 or self.sizes[0] > self.sizes[1]):
            raise ValueError(f"sizes {list(self.sizes)}: with sample range, the least and the greatest size")
        return self


class ResizeFixed(Section):
    """To an exact size; the aspect ratio is not kept."""

    type: Literal["resize_fixed"] = "resize_fixed"
    height: Count
    width: Count


class ResizeScale(Section):
    """To the largest size that fits into height x width times a drawn scale, the aspect ratio kept."""

    type: Literal["resize_scale"] = "resize_scale"
    height: Count
    width: Count
    scale: PositiveRange = (0.1, 2.0)


class FixedSizeCrop(Section):
    """Exactly height x width: a random part of a larger image; a smaller one at the top left, mean colour around."""

    type: Literal["fixed_size_crop"] = "fixed_size_crop"
    height: Count
    width: Count


class RandomCrop(Chance):
    """A part of the image, anywhere in it, at most as large as the image."""

    type: Literal["random_crop"] = "random_crop"
    mode: Literal["relative", "relative_range", "absolute", "absolute_range"] = "relative_range"
    """relative: `size` times the image's. relative_range: each side between `size` and 1 times the image's. absolute:
    `size` in pixels. absolute_range: each side between size[0] and size[1] pixels."""
    size: tuple[Positive, Positive]
    """Of height and width; for absolute_range the least and the greatest length of both."""
    max_class_share: Share = 1.0
    """Below 1, of ten such parts the first in which no class of the semantic map has a larger share of the labelled
    pixels, told by 64 x 64 of them; the last if there is none."""

    @model_validator(mode="after")
    def _suits_the_mode(self) -> Self:
        if self.mode.startswith("relative") and max(self.size) > 1.0:
            raise ValueError(f"size {list(self.size)}: in mode {self.mode} a share of the image, at most 1")
        if self.mode == "absolute_range" and self.size[0] > self.size[1]:
            raise ValueError(f"size {list(self.size)}: in mode absolute_range the least and the greatest, in pixels")
        return self


class MinIoUCrop(Section):
    """A part that overlaps each object by a drawn IoU and holds the centre of one (SSD, arXiv:1512.02325).

    Its size depends on the objects, so the image's bucket is that of the whole image; a part that does not fit into it
    after a resize is shrunk.
    """

    type: Literal["min_iou_crop"] = "min_iou_crop"
    min_ious: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """One of them is drawn, or the whole image, or a part with any overlap."""
    min_size: Share = 0.3
    """The least height and width, as a share of the image's; width : height is within 0.5 and 2."""


class HorizontalFlip(Section):
    """Left and right change places; of keypoints too."""

    type: Literal["horizontal_flip"] = "horizontal_flip"
    probability: Fraction = 0.5


class VerticalFlip(Section):
    """Top and bottom change places; of keypoints left and right, as the image is mirrored."""

    type: Literal["vertical_flip"] = "vertical_flip"
    probability: Fraction = 0.5


class Rotate(Chance):
    """A turn, counter-clockwise as one sees it."""

    type: Literal["rotate"] = "rotate"
    degrees: Annotated[tuple[float, ...], Field(min_length=1)]
    sample: Literal["range", "choice"] = "range"
    """range: uniform between the two ends in `degrees`; choice: one of `degrees`."""
    expand: bool = True
    """The canvas grows or shrinks so that it just holds the turned image; else it stays."""
    centre: tuple[tuple[Fraction, Fraction], tuple[Fraction, Fraction]] = ((0.5, 0.5), (0.5, 0.5))
    """Least and greatest (x, y) that the image is turned about, as shares of its size; of no account with expand."""

    @model_validator(mode="after")
    def _two_ends(self) -> Self:
        if self.sample == "range" and (len(self.degrees) != 2 or self.degrees[0] > self.degrees[1]):
            raise ValueError(f"degrees {list(self.degrees)}: with sample range, the least and the greatest angle")
        return self


class Extent(Section):
    """A part of `scale` times the image's size whose centre is moved by up to ± shift / 2; it may leave the image."""

    type: Literal["extent"] = "extent"
    scale: PositiveRange
    shift: tuple[NonNegative, NonNegative] = (0.0, 0.0)
    """Of x and y, as shares of width and height."""


class Affine(Chance):
    """Rotation, scale, shear, shift and perspective about the image's centre, uniform in ± each range."""

    type: Literal["affine"] = "affine"
    degrees: NonNegative = 0.0
    scale: PositiveRange = (1.0, 1.0)
    shear_degrees: NonNegative = 0.0
    translate: Fraction = 0.0
    """As a fraction of width and height."""
    perspective: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """The depth of the right side less that of the left one, and of the bottom less that of the top; it is 1 in the
    middle. Warped by slower operators."""


Strength = Fraction | NonNegativeRange
"""A fraction f draws a factor from 1 - f to 1 + f; a pair, from its first to its second number."""


class ColorJitter(Chance):
    """Brightness scales, contrast mixes with the image's mean grey, saturation with a pixel's own; in this order."""

    type: Literal["color_jitter"] = "color_jitter"
    brightness: Strength = 0.0
    contrast: Strength = 0.0
    saturation: Strength = 0.0


class Lighting(Chance):
    """A shift along the principal components of ImageNet's colours (Krizhevsky et al., 2012, section 4.1)."""

    type: Literal["lighting"] = "lighting"
    std: NonNegative = 0.1
    """Standard deviation of the weight of each component."""


class HSVJitter(Chance):
    """Hue is turned; saturation and value are scaled, each by a factor within 1 ± its range."""

    type: Literal["hsv_jitter"] = "hsv_jitter"
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.015
    """± in turns."""
    saturation: Fraction = 0.7
    value: Fraction = 0.4


class GaussianBlur(Chance):
    """A blur whose standard deviation, in pixels, is uniform in `sigma`."""

    type: Literal["gaussian_blur"] = "gaussian_blur"
    sigma: PositiveRange = (0.1, 2.0)
    probability: Fraction = 0.5


class GaussianNoise(Chance):
    """Noise of each pixel and channel, on the scale 0..255; its standard deviation is uniform in 0..std."""

    type: Literal["gaussian_noise"] = "gaussian_noise"
    std: NonNegative = 10.0
    probability: Fraction = 0.5


class RandomErasing(Chance):
    """Rectangles become the mean colour (arXiv:1708.04896). Objects below them remain."""

    type: Literal["random_erasing"] = "random_erasing"
    count: Count = 1
    area: FractionRange = (0.02, 0.2)
    """Share of the image, uniform."""
    aspect: PositiveRange = (0.3, 3.3)
    """Height : width, uniform in its logarithm."""
    probability: Fraction = 0.5


class Mosaic(Chance):
    """Four images that meet in one point of a canvas of height x width (YOLOv4, arXiv:2004.10934).

    The other three are drawn from the split and go through the transforms before this one. They reach beyond the canvas
    where they are larger than their part; a later affine scale below 1 shows more of them. Without a mosaic the image
    lies in the middle of the canvas.
    """

    type: Literal["mosaic"] = "mosaic"
    height: Count
    width: Count
    centre: FractionRange = (0.25, 0.75)
    """Where the images meet: uniform between these shares of height and of width."""


class MixUp(Chance):
    """Another image shines through, at a weight drawn from Beta(alpha, alpha); its objects are added."""

    type: Literal["mixup"] = "mixup"
    alpha: Positive = 32.0
    probability: Fraction = 0.5


class CopyPaste(Chance):
    """Another image's objects are pasted by their outlines (arXiv:2012.07177); what they hide is cut off or removed."""

    type: Literal["copy_paste"] = "copy_paste"
    share: Share = 0.5
    """The probability of each of the other image's objects."""
    probability: Fraction = 0.5


Resize = ResizeShortestEdge | ResizeFixed
Sizing = ResizeShortestEdge | ResizeFixed | ResizeScale | FixedSizeCrop | RandomCrop | Extent
Geometric = MinIoUCrop | HorizontalFlip | VerticalFlip | Rotate | Affine
Colour = ColorJitter | Lighting
Mixing = Mosaic | MixUp | CopyPaste
Pointwise = HSVJitter | GaussianBlur | GaussianNoise | RandomErasing

Transform = Annotated[Sizing | Geometric | Colour | Mixing | Pointwise, Field(discriminator="type")]


def most_images(transforms: Iterable[Transform]) -> int:
    """How many images of the split one sample can be mixed of."""
    images = 1
    for transform in transforms:
        if isinstance(transform, Mixing) and transform.probability > 0.0:
            images *= 4 if isinstance(transform, Mosaic) else 2
    return images


def check_order(transforms: tuple[Transform, ...]) -> None:
    """That a training pipeline makes sense as it stands.

    Raises:
        ValueError: no size, pixels changed before they are finished, or a mixture asked for its semantic map.
    """
    if not any(isinstance(t, Resize | ResizeScale | FixedSizeCrop | Mosaic) for t in transforms):
        raise ValueError("no resize: one of resize_shortest_edge, resize_fixed, resize_scale, fixed_size_crop, mosaic")
    seen_mixing = seen_pointwise = None
    for transform in transforms:
        if isinstance(transform, Pointwise):
            seen_pointwise = transform.type
        elif seen_pointwise:
            raise ValueError(f"{transform.type} after {seen_pointwise}, which changes finished pixels: put it before")
        if isinstance(transform, Mixing):
            seen_mixing = transform.type
        elif seen_mixing and isinstance(transform, RandomCrop) and transform.max_class_share < 1.0:
            raise ValueError(f"random_crop with max_class_share after {seen_mixing}: put it before")

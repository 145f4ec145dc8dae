"""Which images an epoch of training has, and how often."""

from typing import Annotated, Literal

from pydantic import Field

from detcore.config.section import Count, CountOrZero, NonNegative, Section


class UniformSampling(Section):
    """Every image once an epoch."""

    type: Literal["uniform"] = "uniform"


class RepeatFactorSampling(Section):
    """Images of rare classes more than once an epoch (arXiv:1908.03195, section B.2)."""

    type: Literal["repeat_factor"] = "repeat_factor"
    threshold: Annotated[float, Field(gt=0.0, le=1.0)] = 0.001
    """Classes that fewer than this share of the images have are rare."""


class ClassWeightSampling(Section):
    """Images in proportion to the largest weight of their classes, as many an epoch, in the mean, as there are."""

    type: Literal["class_weights"] = "class_weights"
    weights: Annotated[dict[str, NonNegative], Field(min_length=1)]
    """By name of the class; 1 for classes that are not named, and for images without objects."""


class ImageWeightSampling(Section):
    """Images in proportion to weights of their own, as many an epoch, in the mean, as there are."""

    type: Literal["image_weights"] = "image_weights"
    file: str
    """A CSV file with the columns file_name and weight, and a line for every training image; more may stand in it."""


Sampling = Annotated[
    UniformSampling | RepeatFactorSampling | ClassWeightSampling | ImageWeightSampling, Field(discriminator="type")
]


class FractionSubset(Section):
    """A share of the images, drawn once for the whole training; a larger share of the same seed holds a smaller one."""

    type: Literal["fraction"] = "fraction"
    fraction: Annotated[float, Field(gt=0.0, le=1.0)]
    seed: CountOrZero = 0


class FirstSubset(Section):
    """The first images of the split."""

    type: Literal["first"] = "first"
    number: Count


class ListedSubset(Section):
    """Images by name."""

    type: Literal["list"] = "list"
    file: str
    """A text file with a file name or an image id a line."""


Subset = Annotated[FractionSubset | FirstSubset | ListedSubset, Field(discriminator="type")]

"""Parts of an image by their class: stuff, and semantic maps."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from detcore.inference.colours import OPACITY, class_colour, font_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Regions:
    """Coloured parts of an image that are no objects.

    Attributes:
        ids: (height, width) int, the region of each pixel; 0 is left as it is. It may be smaller than the image.
        labels: of each region, the class that chooses its colour.
        names: of each region, what is written on it.
    """

    ids: NDArray[np.int32]
    labels: Mapping[int, int]
    names: Mapping[int, str]


def with_regions(canvas: Image.Image, regions: Regions) -> Image.Image:
    """The canvas with each region under its colour, and dark lines between them."""
    table = np.zeros((max(regions.labels, default=0) + 1, 3), np.uint8)
    for number, label in regions.labels.items():
        table[number] = class_colour(label)
    ids = np.asarray(Image.fromarray(regions.ids.astype(np.int32)).resize(canvas.size, Image.Resampling.NEAREST))
    below = np.asarray(canvas)
    mixed = below + OPACITY * (table[ids].astype(np.float64) - below)
    edge = np.zeros(ids.shape, bool)
    edge[1:] |= ids[1:] != ids[:-1]
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    mixed = np.where(edge[..., None], 0.5 * mixed, np.where(ids[..., None] > 0, mixed, below))
    return Image.fromarray(mixed.round().astype(np.uint8))


def name_regions(canvas: Image.Image, regions: Regions) -> None:
    """Each region's name at the pixel of it that is nearest to its middle, or as near to it as all of it is seen."""
    pen, font = ImageDraw.Draw(canvas), font_of(max(14, round(max(canvas.size) / 60)))
    height, width = regions.ids.shape
    for number, name in regions.names.items():
        places = np.argwhere(regions.ids == number)
        if len(places):
            row, column = places[np.abs(places - np.median(places, axis=0)).sum(axis=1).argmin()].tolist()
            x, y = (column + 0.5) * canvas.width / width, (row + 0.5) * canvas.height / height
            margin = min((pen.textlength(name, font=font) + font.size) / 2, canvas.width / 2)
            place = (min(max(x, margin), canvas.width - margin), min(max(y, font.size), canvas.height - font.size))
            pen.text(place, name, fill=(255, 255, 255), font=font, anchor="mm", stroke_width=2, stroke_fill=(0, 0, 0))

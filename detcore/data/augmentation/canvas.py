"""An image on its way through a pipeline: one picture, or several on one canvas, with the objects of them all."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from detcore.data.augmentation.colours import then
from detcore.data.augmentation.geometry import Matrix, Size
from detcore.data.augmentation.objects import Limits, PlacedObjects, move_points, moved, placed
from detcore.data.augmentation.pointwise import Step

_UNMOVED, _UNCHANGED = np.eye(3), np.eye(3, 4)
for _matrix in (_UNMOVED, _UNCHANGED):
    _matrix.setflags(write=False)  # all canvases begin with them


@dataclass(frozen=True)
class Picture:
    """A sample as it was read: (h, w, 3) uint8 RGB, its objects, and its (h, w) uint8 map of classes, if any."""

    image: Tensor
    objects: PlacedObjects
    semantic: Tensor | None = None

    @property
    def size(self) -> Size:
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True)
class Region:
    """The union of filled rings: points (v, 2) of one after the other, and how many each has."""

    vertices: Matrix
    counts: NDArray[np.int64]

    @classmethod
    def rectangle(cls, x0: float, y0: float, x1: float, y1: float) -> "Region":
        return cls(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]), np.array([4]))


@dataclass(frozen=True)
class Layer:
    """A picture on a canvas. The first layer is the ground; each further one covers what is there by its opacity.

    Attributes:
        image, semantic: of the picture.
        geometry: (3, 3), from its raw pixels to the canvas, homogeneous.
        colour: (3, 4), applied to (R, G, B, 1) on the 0..255 scale.
        regions: of the canvas; the layer is where they all are, or everywhere if there are none.
        opacity: above 0, at most 1.
    """

    image: Tensor
    semantic: Tensor | None
    geometry: Matrix
    colour: Matrix
    regions: tuple[Region, ...] = ()
    opacity: float = 1.0

    def moved(self, geometry: Matrix, colour: Matrix) -> "Layer":
        return replace(
            self,
            geometry=geometry @ self.geometry,
            colour=then(self.colour, colour),
            regions=tuple(replace(region, vertices=move_points(region.vertices, geometry)) for region in self.regions),
        )

    def within(self, region: Region) -> "Layer":
        return replace(self, regions=(*self.regions, region))


@dataclass
class Canvas:
    """What a pipeline has come to; `geometry` and `colour` are still to be applied to `layers` and `objects`."""

    size: Size
    layers: list[Layer]
    objects: PlacedObjects
    geometry: Matrix = field(default_factory=lambda: _UNMOVED)
    colour: Matrix = field(default_factory=lambda: _UNCHANGED)
    steps: list[Step] = field(default_factory=list)

    @classmethod
    def of(cls, picture: Picture) -> "Canvas":
        layer = Layer(picture.image, picture.semantic, _UNMOVED, _UNCHANGED)
        return cls(picture.size, [layer], picture.objects)

    def move(self, geometry: Matrix, size: Size | None = None) -> None:
        """Applies a geometric transform, after which the canvas has another size, or the same."""
        self.geometry = geometry @ self.geometry
        self.size = size or self.size

    def settle(self, keypoint_flip: Sequence[int]) -> None:
        """Layers and objects come to lie where they are seen."""
        self.objects = moved(self.objects, self.geometry, keypoint_flip)
        self._settle_layers()

    def finish(self, keypoint_flip: Sequence[int], limits: Limits) -> None:
        """`settle`, after which nothing changes any more: objects are cut off at the edges, and dropped."""
        self.objects = placed(self.objects, self.geometry, self.size, limits, keypoint_flip)
        self._settle_layers()

    def _settle_layers(self) -> None:
        self.layers = [layer.moved(self.geometry, self.colour) for layer in self.layers]
        self.geometry, self.colour = _UNMOVED, _UNCHANGED

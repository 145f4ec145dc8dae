"""What a split says is in its images."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detcore.evaluation.coco import LoadedTruth

SemanticMap = NDArray[np.uint8]
"""(height, width) classes of a raw image's pixels; 255 does not count."""
PanopticMap = tuple[NDArray[np.int32], list[dict[str, Any]]]
"""(height, width) ids of segments, 0 where there is none, and of each its id, category, is_thing and iscrowd."""


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """The ground truth of a split, of all kinds that it has.

    Attributes:
        coco: a COCO data set. Its `images` are in the split's order (`Batch.sample_ids` index them) and have heights
            and widths; its `categories` are in the order of the model's classes. An annotation of a rotated box has it
            as `bbox_rotated`: centre x, centre y, width, height, angle in degrees, counter-clockwise as one sees it.
        semantic: the semantic map of a sample, or None.
        panoptic: the panoptic map of a sample, or None. The category of a thing is a class of the model; that of any
            other segment is a class of the semantic map.
        semantic_classes: names of the semantic map's classes.
    """

    coco: dict[str, Any]
    semantic: Callable[[int], SemanticMap] | None = None
    panoptic: Callable[[int], PanopticMap] | None = None
    semantic_classes: tuple[str, ...] = ()

    @property
    def classes(self) -> list[str]:
        """Names by 0-based class."""
        return [category["name"] for category in self.coco["categories"]]

    @property
    def names_by_id(self) -> list[str]:
        """Names in the order of the categories' ids, which is that of COCO's arrays."""
        return [c["name"] for c in sorted(self.coco["categories"], key=lambda category: category["id"])]

    @cached_property
    def loaded(self) -> LoadedTruth:
        """What COCO's matching takes; one for all evaluations."""
        return LoadedTruth(self.coco)

    @cached_property
    def classes_by_frequency(self) -> dict[str, list[int]]:
        """Rare, common and frequent classes where categories have LVIS's frequency, as places in `names_by_id`."""
        ordered = sorted(self.coco["categories"], key=lambda category: category["id"])
        groups = {
            name: [place for place, category in enumerate(ordered) if category.get("frequency") == name[0]]
            for name in ("rare", "common", "frequent")
        }
        return {name: places for name, places in groups.items() if places}

    @cached_property
    def objects(self) -> list[dict[str, Any]]:
        """The annotations that are no crowd regions."""
        return [a for a in self.coco["annotations"] if not a.get("iscrowd")]

    @cached_property
    def num_keypoints(self) -> int:
        """Of an object; 0 where there are none."""
        return max((len(a.get("keypoints") or ()) // 3 for a in self.objects), default=0)

    def expect_federated(self) -> None:
        """Raises ValueError if images do not say which classes were looked for in them, as LVIS's do."""
        for image in self.coco["images"]:
            if "neg_category_ids" not in image:
                raise ValueError(
                    f"engine.evaluation.protocol = lvis, but image {image['id']} of the data does not say which "
                    "classes were looked for in it (neg_category_ids): prepare it with "
                    "data=lvis, or take protocol coco"
                )

    def lacks(self, kind: str) -> str | None:
        """Why a kind of prediction cannot be compared with this, or None where it can."""
        if kind == "semantic":
            return None if self.semantic is not None else "it has no semantic maps"
        if kind == "panoptic":
            return None if self.panoptic is not None else "it has no panoptic maps"
        if not self.objects:
            return "it has no object"
        if kind == "keypoints":
            return None if any(a.get("num_keypoints") for a in self.objects) else "no object has keypoints"
        if kind not in _REQUIRED:
            raise ValueError(f"{kind!r} is no kind of prediction: take {', '.join((*_REQUIRED, *_OTHERS))}")
        without = [a["id"] for a in self.objects if not a.get(_REQUIRED[kind])]
        if not without:
            return None
        return f"{len(without)} of {len(self.objects)} objects have no {kind}, the first is annotation {without[0]}"


_REQUIRED = {"boxes": "bbox", "proposals": "bbox", "masks": "segmentation", "rotated": "bbox_rotated"}
"""What every object must have for a kind to be compared."""
_OTHERS = ("keypoints", "semantic", "panoptic")

"""What a detector saw in one image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from detcore.inference.draw import Drawing, draw
from detcore.inference.sources import ImageSource, read_rgb


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """Detections of one image, best first, in pixels of the image as it was given.

    Attributes:
        source: the image.
        height, width: its size.
        boxes_xyxy: (n, 4) float64.
        scores: (n,) float32 in [0, 1].
        labels: (n,) int64, 0-based classes.
        class_names: n names.
        masks: (n, height, width) bool, or None where the detector predicts none.
    """

    source: ImageSource
    height: int
    width: int
    boxes_xyxy: NDArray[np.float64]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    masks: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def name(self) -> str | None:
        """The file that was read, if it was one."""
        return str(self.source) if isinstance(self.source, Path) else None

    def drawing(self) -> Drawing:
        """Boxes, masks and captions such as 'cat 0.93'."""
        captions = [f"{name} {score:.2f}" for name, score in zip(self.class_names, self.scores, strict=True)]
        return Drawing(boxes_xyxy=self.boxes_xyxy, labels=self.labels, captions=captions, masks=self.masks)

    def draw(self) -> Image.Image:
        """The image with what was found on it; a small image is enlarged. A file is read again."""
        return draw(read_rgb(self.source), self.drawing())

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; masks as COCO's compressed run lengths."""
        masks = self._rles()
        detections = []
        for index, class_name in enumerate(self.class_names):
            row = {
                "class_name": class_name,
                "label": int(self.labels[index]),
                "score": float(self.scores[index]),
                "box_xyxy": self.boxes_xyxy[index].tolist(),
            }
            detections.append({**row, "mask": masks[index]} if masks is not None else row)
        return {"image": self.name, "height": self.height, "width": self.width, "detections": detections}

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """COCO's results list; `category_id` is the label + 1, as in data sets that detcore prepares."""
        masks = self._rles()
        rows = []
        for index, (x1, y1, x2, y2) in enumerate(self.boxes_xyxy.tolist()):
            row = {
                "image_id": image_id,
                "category_id": int(self.labels[index]) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(self.scores[index]),
            }
            rows.append({**row, "segmentation": masks[index]} if masks is not None else row)
        return rows

    def _rles(self) -> list[dict[str, Any]] | None:
        if self.masks is None:
            return None
        rles = [coco_mask.encode(np.asfortranarray(mask.view(np.uint8))) for mask in self.masks]
        return [{"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")} for rle in rles]

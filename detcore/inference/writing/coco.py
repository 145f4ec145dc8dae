"""Predictions as a COCO data set: one JSON file (cocodataset.org, 'Data format')."""

import json
from typing import Any

from detcore.inference.prediction import Prediction
from detcore.inference.writing.writer import Writer, seen_keypoints

_COCO_TO_PIXELS = 0.5
"""COCO's keypoints are pixels' numbers, whose centres lie half a pixel further."""


class CocoWriter(Writer):
    """annotations.json: boxes, masks as run lengths, keypoints, rotated boxes; every annotation with its score."""

    _images: list[dict[str, Any]]
    _annotations: list[dict[str, Any]]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._images, self._annotations = [], []

    def add(self, prediction: Prediction) -> None:
        name, image_id = self.image_name(prediction), len(self._images) + 1
        self._images.append({"id": image_id, "file_name": name, "height": prediction.height, "width": prediction.width})
        for index, row in enumerate(prediction.to_coco(image_id)):
            _, _, width, height = row["bbox"]
            area = width * height if prediction.masks is None else float(prediction.masks[index].sum())
            row |= {"id": len(self._annotations) + 1, "area": area, "iscrowd": 0}
            if prediction.keypoints is not None:
                points = seen_keypoints(prediction, index)
                shift = [(_COCO_TO_PIXELS if shown else 0.0) for _, _, shown in points]
                row["keypoints"] = [
                    number
                    for (x, y, shown), by in zip(points, shift, strict=True)
                    for number in (x - by, y - by, shown)
                ]
                row["num_keypoints"] = sum(shown > 0 for _, _, shown in points)
            self._annotations.append(row)

    def close(self) -> None:
        categories: list[dict[str, Any]] = [
            {"id": label + 1, "name": name} for label, name in enumerate(self.categories)
        ]
        if self.keypoint_names:
            skeleton = [[first + 1, second + 1] for first, second in self.skeleton]
            for category in categories:
                category |= {"keypoints": list(self.keypoint_names), "skeleton": skeleton}
        document = {"images": self._images, "annotations": self._annotations, "categories": categories}
        (self.folder / "annotations.json").write_text(json.dumps(document) + "\n")

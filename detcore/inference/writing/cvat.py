"""Predictions as CVAT's XML 1.1 for images (docs.cvat.ai, 'XML annotation format')."""

from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent, tostring

import numpy as np
from numpy.typing import NDArray

from detcore.inference.prediction import Prediction
from detcore.inference.writing.writer import Writer, seen_keypoints

_MANUAL = {"source": "auto", "occluded": "0", "z_order": "0"}


class CvatWriter(Writer):
    """annotations.xml: an object is a skeleton, a mask, or a box, rotated or not; the first of these that it has.

    CVAT has no place for a score, nor for the box of a skeleton or a mask.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._document = Element("annotations")
        SubElement(self._document, "version").text = "1.1"
        labels = SubElement(SubElement(SubElement(self._document, "meta"), "task"), "labels")
        drawing = _drawing(self.keypoint_names, self.skeleton)
        for category in self.categories:
            label = SubElement(labels, "label")
            SubElement(label, "name").text = category
            SubElement(label, "type").text = "skeleton" if self.keypoint_names else "any"
            if self.keypoint_names:
                SubElement(label, "svg").text = drawing
            for keypoint in self.keypoint_names:
                point = SubElement(labels, "label")
                for tag, text in (("name", keypoint), ("type", "points"), ("parent", category)):
                    SubElement(point, tag).text = text
        self._num_images = 0

    def add(self, prediction: Prediction) -> None:
        image = SubElement(
            self._document,
            "image",
            id=str(self._num_images),
            name=self.image_name(prediction),
            width=str(prediction.width),
            height=str(prediction.height),
        )
        self._num_images += 1
        for index in range(len(prediction)):
            if prediction.keypoints is not None:
                self._add_skeleton(image, prediction, index)
            elif prediction.masks is not None and prediction.masks[index].any():
                _add_mask(image, prediction, index)
            else:
                _add_box(image, prediction, index)

    def close(self) -> None:
        indent(self._document)
        ElementTree(self._document).write(self.folder / "annotations.xml", encoding="utf-8", xml_declaration=True)

    def _add_skeleton(self, image: Element, prediction: Prediction, index: int) -> None:
        skeleton = SubElement(image, "skeleton", {"label": prediction.class_names[index], **_MANUAL})
        for name, (x, y, shown) in zip(self.keypoint_names, seen_keypoints(prediction, index), strict=True):
            place = {"points": f"{x:.4f},{y:.4f}", "outside": str(int(not shown)), "occluded": "0", "label": name}
            SubElement(skeleton, "points", place)


def _add_mask(image: Element, prediction: Prediction, index: int) -> None:
    assert prediction.masks is not None
    mask = prediction.masks[index]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    place = {"left": columns[0], "top": rows[0], "width": part.shape[1], "height": part.shape[0]}
    runs, numbers = ", ".join(map(str, _row_runs(part))), {name: str(number) for name, number in place.items()}
    SubElement(image, "mask", {"label": prediction.class_names[index], "rle": runs, **numbers, **_MANUAL})


def _row_runs(mask: NDArray[np.bool_]) -> list[int]:
    """Run lengths along the rows, beginning with background."""
    flat = np.concatenate([[False], mask.ravel()])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs: list[int] = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    return runs


def _add_box(image: Element, prediction: Prediction, index: int) -> None:
    corners, turn = prediction.boxes_xyxy[index].tolist(), {}
    if prediction.boxes_xywha is not None:
        x, y, width, height, angle = prediction.boxes_xywha[index].tolist()
        corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        turn = {"rotation": f"{-angle % 360.0:.6f}"}  # clockwise
    sides = {name: f"{side:.6f}" for name, side in zip(("xtl", "ytl", "xbr", "ybr"), corners, strict=True)}
    SubElement(image, "box", {"label": prediction.class_names[index], **sides, **turn, **_MANUAL})


def _drawing(names: Sequence[str], skeleton: Sequence[tuple[int, int]]) -> str:
    """The skeleton as CVAT draws it: its points on a circle, in per cent of a square, and the lines between them."""
    angles = np.linspace(0.0, 2 * np.pi, len(names), endpoint=False)
    places = np.round(np.stack([50 + 40 * np.sin(angles), 50 - 40 * np.cos(angles)], axis=-1), 2).tolist()
    elements = []
    for first, second in skeleton:
        ends = dict(zip(("x1", "y1", "x2", "y2"), map(str, places[first] + places[second]), strict=True))
        nodes = {"data-node-from": str(first + 1), "data-node-to": str(second + 1)}
        elements.append(Element("line", ends | {"data-type": "edge"} | nodes))
    for number, (name, (x, y)) in enumerate(zip(names, places, strict=True), 1):
        node = {"data-type": "element node", "data-element-id": str(number), "data-node-id": str(number)}
        elements.append(Element("circle", {"r": "1.5", "cx": str(x), "cy": str(y), **node, "data-label-name": name}))
    return "".join(tostring(element, encoding="unicode") for element in elements)

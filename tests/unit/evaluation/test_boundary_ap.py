"""Masks by their boundaries, against pycocotools with the paper's overlap put in, and by hand."""

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_coco_oracle import equal

from detcore.config import EvaluationConfig
from detcore.evaluation import Evaluator, GroundTruth, ImageDetections, Results
from detcore.evaluation.boundary import accumulate_boundaries, boundary_rle, inner_boundary, reach_of
from detcore.evaluation.coco import Accumulated


def eroded_boundary(mask: np.ndarray, times: int) -> np.ndarray:
    """The paper's own words: less the mask eroded so often by 3 x 3, beyond the image's border nothing."""
    inner = mask.astype(bool)
    for _ in range(times):
        around = np.pad(inner, 1)
        height, width = inner.shape
        inner = np.all([around[i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)
    return (mask.astype(bool) & ~inner).astype(np.uint8)


class ByBoundary(COCOeval):
    """pycocotools, where masks overlap by the lesser of two IoUs."""

    def computeIoU(self, image: int, category: int) -> Any:
        whole = super().computeIoU(image, category)
        found, truth = self._dts[image, category], self._gts[image, category]
        if len(whole) == 0:
            return whole
        order = np.argsort([-d["score"] for d in found], kind="mergesort")
        own, true = (
            [
                coco_mask.encode(np.asfortranarray(eroded_boundary(self.cocoGt.annToMask(a), reach_of(96, 128))))
                for a in part
            ]
            for part in ([found[i] for i in order][: self.params.maxDets[-1]], truth)
        )
        return np.minimum(whole, coco_mask.iou(own, true, [int(a["iscrowd"]) for a in truth]))


def test_as_pycocotools_with_the_papers_overlap(truth: dict[str, Any], results: Results) -> None:
    assert sum(a["iscrowd"] for a in truth["annotations"]) >= 5
    loaded = COCO()
    loaded.dataset = truth
    loaded.createIndex()
    evaluation = ByBoundary(loaded, loaded.loadRes(results.mask_results()), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    expected = Accumulated(evaluation.eval["precision"], evaluation.eval["recall"])
    assert ((expected.precision > 0) & (expected.precision < 1)).any()
    equal(accumulate_boundaries(truth, results), expected)


@pytest.mark.parametrize("reach", [1, 2, 5])
def test_a_boundary_is_what_erosion_takes(reach: int) -> None:
    random = np.random.default_rng(reach)
    mask = np.ones((23, 31), np.uint8)
    mask[random.integers(0, 23, 6), random.integers(0, 31, 6)] = 0
    for window in (mask, mask[:, :9], mask[:4], np.zeros((8, 8), np.uint8)):
        np.testing.assert_array_equal(inner_boundary(window, reach), eroded_boundary(window, reach))


def test_a_boundary_by_hand() -> None:
    """The reach in 30 x 40 is 1: of 10 x 6 pixels a frame of one pixel is left, at the border, too."""
    assert reach_of(30, 40) == 1 and reach_of(480, 640) == 16 and reach_of(3, 4) == 1
    mask = np.zeros((30, 40), np.uint8)
    mask[0:6, 5:15] = 1
    boundary = coco_mask.decode(boundary_rle(coco_mask.encode(np.asfortranarray(mask))))
    assert boundary.sum() == 60 - 8 * 4 and boundary[0, 5:15].all() and not boundary[1:5, 6:14].any()


def test_beside_the_masks(truth: dict[str, Any], found: list[ImageDetections]) -> None:
    settings = EvaluationConfig(boundary_iou=True)
    evaluator = Evaluator(
        GroundTruth(coco=truth), predicts=("boxes", "masks"), settings=settings, operating_points=True
    )
    for image in found:
        evaluator.add_image(image)
    evaluation = evaluator.compute()
    assert 0 < evaluation.metrics["mask_boundary_ap"] < evaluation.metrics["mask_ap"]
    assert {"mask_boundary_ap50", "mask_boundary_f1", "mask_f1"} < evaluation.per_class["one"].keys()
    with pytest.raises(ValueError, match="with protocol = lvis there is none"):
        EvaluationConfig(boundary_iou=True, protocol="lvis")


def test_without_detections_or_masks_of_crowds(truth: dict[str, Any], results: Results) -> None:
    for annotation in truth["annotations"]:
        if annotation["iscrowd"]:
            del annotation["segmentation"]
    nothing = results.where(np.zeros(len(results.scores), np.bool_))
    precision = accumulate_boundaries(truth, nothing).precision
    assert precision[precision > -1].max() == 0
    assert accumulate_boundaries(truth, results).precision.max() > 0

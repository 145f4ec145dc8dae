"""What is wrong with detections, against hotcoco's own sums, COCO's figures and cases by hand."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detcore.evaluation import GroundTruth, Results, diagnosis
from detcore.evaluation.bootstrap import interval, mean, resampled
from detcore.evaluation.coco import accumulate
from detcore.evaluation.detections_file import load_detections, save_detections
from detcore.evaluation.diagnosis import Diagnosis, Kind
from detcore.evaluation.judged import Judged, best_f1
from detcore.evaluation.mistakes import mistakes
from detcore.evaluation.operating import score_curves

INF = float("inf")


def one_image(
    objects: list[tuple[int, list[float]]], found: list[tuple[int, list[float], float]]
) -> tuple[GroundTruth, Results]:
    """Boxes x, y, width, height by class; detections with scores."""
    annotations = [
        {"id": 5 + i, "image_id": 3, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, (c, box) in enumerate(objects)
    ]
    truth = GroundTruth(
        coco={
            "images": [{"id": 3, "height": 100, "width": 100}],
            "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
            "annotations": annotations,
        }
    )
    boxes = np.array([box for _, box, _ in found], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return truth, Results(
        image_ids=np.full(len(found), 3),
        category_ids=np.array([c for c, _, _ in found], dtype=np.int64),
        boxes_xyxy=boxes,
        scores=np.array([score for _, _, score in found], dtype=np.float64),
        sizes=np.tile((100, 100), (len(found), 1)),
    )


def test_each_fault_by_hand() -> None:
    truth, results = one_image(
        [(1, [0, 0, 20, 20]), (2, [50, 50, 20, 20])],
        [
            (1, [0, 0, 20, 20], 0.9),  # right
            (1, [1, 0, 20, 20], 0.8),  # the same object again
            (1, [10, 0, 20, 20], 0.7),  # IoU 10 / 30
            (1, [50, 50, 20, 20], 0.6),  # a 'b'
            (1, [60, 50, 20, 20], 0.5),  # IoU 10 / 30 with the 'b'
            (2, [0, 80, 10, 10], 0.4),  # nowhere near anything
        ],
    )
    diagnosis = Diagnosis(truth, results)
    matches = diagnosis.matches()
    assert matches.hits.tolist() == [True, False, False, False, False, False]
    assert matches.objects.tolist() == [0, -1, -1, -1, -1, -1]
    found = mistakes(diagnosis, matches)
    assert [(m.row, m.fault, m.annotation) for m in found] == [
        (1, "Dupe", 0), (2, "Loc", 0), (3, "Cls", 1), (4, "Both", 1), (5, "Bkg", -1),
    ]  # fmt: skip
    assert found[1].iou == pytest.approx(1 / 3)
    assert [m.row for m in mistakes(diagnosis, matches, min_score=0.65)] == [1, 2]
    assert diagnosis.confusion(min_score=0.55).tolist() == [[1, 0, 0], [1, 0, 0], [2, 0, 0]]


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_faults_are_as_many_as_hotcoco_counts(truth: dict[str, Any], results: Results, kind: Kind) -> None:
    diagnosis = Diagnosis(GroundTruth(coco=truth), results, kind=kind)
    _, counts, _ = diagnosis.tide()
    own = Counter(mistake.fault for mistake in mistakes(diagnosis, diagnosis.matches()))
    assert own == {name: count for name, count in counts.items() if count and name != "Miss"}
    assert sum(own.values()) > 50


def test_sizes_are_cocos_where_the_bounds_are(truth: dict[str, Any], results: Results) -> None:
    ground_truth = GroundTruth(coco=truth)
    arrays = accumulate(ground_truth.loaded, results, "bbox")
    bins = Diagnosis(ground_truth, results).by_size([0, 32, 96, INF])
    for place, one in enumerate(bins, start=1):
        values = arrays.precision[..., place, -1]
        expected = None if (values < 0).all() else pytest.approx(100 * values[values > -1].mean(), abs=1e-12)
        assert one.ap == expected
    areas = np.array([a["area"] for a in truth["annotations"] if not a["iscrowd"]])
    assert [one.objects for one in bins[:2]] == [(areas < 32**2).sum(), ((areas >= 32**2) & (areas < 96**2)).sum()]
    assert (bins[0].low, bins[-1].high) == (0, INF)


def test_shapes_part_the_objects() -> None:
    tall, wide = [0, 0, 10, 40], [50, 0, 40, 10]
    truth, results = one_image([(1, tall), (1, wide)], [(1, wide, 0.9)])
    low, middle, high = Diagnosis(truth, results).by_aspect([0, 0.5, 2, INF])
    assert (low.objects, low.ap) == (1, 0.0)
    assert (middle.objects, middle.ap) == (0, None)
    assert (high.objects, high.ap) == (1, pytest.approx(100))


def test_rotated_boxes_are_judged_by_their_own_overlap() -> None:
    """Across each other: the upright boxes around them are one."""
    truth, results = one_image([(1, [20, 20, 40, 40])], [(1, [20, 20, 40, 40], 0.9)])
    truth.coco["annotations"][0]["bbox_rotated"] = [40.0, 40.0, 50.0, 6.0, 45.0]
    crossed = Results(**{**vars(results), "boxes_xywha": np.array([[40.0, 40.0, 50.0, 6.0, -45.0]])})
    aligned = Results(**{**vars(results), "boxes_xywha": np.array([[40.0, 40.0, 50.0, 6.0, 45.0]])})
    assert Diagnosis(truth, aligned, kind="rotated").matches().hits.tolist() == [True]
    diagnosis = Diagnosis(truth, crossed, kind="rotated")
    assert diagnosis.matches().hits.tolist() == [False]
    assert [mistake.fault for mistake in mistakes(diagnosis, diagnosis.matches())] == ["Bkg"]
    (one,) = diagnosis.by_aspect([1, INF])
    assert one.objects == 1


def test_without_hotcoco_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, results = one_image([(1, [0, 0, 9, 9])], [])
    monkeypatch.setattr(diagnosis, "hotcoco", None)
    with pytest.raises(ValueError, match="pip install hotcoco"):
        Diagnosis(truth, results)


def test_of_no_detections() -> None:
    truth, results = one_image([(1, [0, 0, 9, 9])], [])
    found = Diagnosis(truth, results)
    assert found.matches().sought.tolist() == [0]
    assert found.tide()[1]["Miss"] == 1
    assert mistakes(found, found.matches()) == []
    assert resampled(found, sets=3).intervals()["ap"].value == 0.0
    assert score_curves(found.judged(found.matches())).f1.max() == 0.0


# --- how sure


def repeated(truth: dict[str, Any], results: Results, drawn: np.ndarray) -> tuple[GroundTruth, Results]:
    """The data set of these images, by their places, one drawn twice being there twice."""
    ids = [image["id"] for image in truth["images"]]
    images, annotations, rows, image_ids = [], [], [], []
    for number, place in enumerate(drawn.tolist()):
        images.append({**truth["images"][place], "id": number})
        own = [a for a in truth["annotations"] if a["image_id"] == ids[place]]
        annotations += [{**a, "id": 1 + len(annotations) + k, "image_id": number} for k, a in enumerate(own)]
        found = np.flatnonzero(results.image_ids == ids[place])
        rows.append(found)
        image_ids.append(np.full(len(found), number))
    chosen = np.concatenate(rows)
    columns = {
        name: None if column is None else [column[i] for i in chosen] if name == "rles" else column[chosen]
        for name, column in vars(results).items()
    }
    coco = {**truth, "images": images, "annotations": annotations}
    return GroundTruth(coco=coco), Results(**{**columns, "image_ids": np.concatenate(image_ids)})


def test_a_set_is_the_data_set_of_its_images(truth: dict[str, Any], results: Results) -> None:
    # Scores that are all different: of equal ones the order depends on the images' order.
    scores = np.random.default_rng(3).permutation(len(results.scores)) / len(results.scores)
    distinct = Results(**{**vars(results), "scores": scores})
    sets = 5
    samples = resampled(Diagnosis(GroundTruth(coco=truth), distinct), sets=sets)
    rng = np.random.default_rng(0)
    for row in range(1, sets + 1):
        drawn = rng.integers(0, len(truth["images"]), len(truth["images"]))
        again, found = repeated(truth, distinct, drawn)
        precision = accumulate(again.loaded, found, "bbox").precision[..., 0, -1]
        by_class = np.where(precision[0, 0] < 0, np.nan, 100 * precision.mean(axis=(0, 1)))
        # An image drawn twice: its detections, of one score, count one after the other in COCO, together here.
        np.testing.assert_allclose(samples.ap[row], by_class, atol=1.5)


def test_the_bootstraps_first_set_is_cocos_ap(shared: Path) -> None:
    folder = shared / "fixtures" / "coco_eval"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    rows = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    boxes = np.array([row["bbox"] for row in rows])
    boxes[:, 2:] += boxes[:, :2]
    results = Results(
        image_ids=np.array([row["image_id"] for row in rows]),
        category_ids=np.array([row["category_id"] for row in rows]),
        boxes_xyxy=boxes,
        scores=np.array([row["score"] for row in rows]),
        sizes=np.ones((len(rows), 2), np.int64),
    )
    own = Diagnosis(GroundTruth(coco=truth), results)
    kept = np.random.default_rng(1).random(len(rows)) > 0.1
    other = Diagnosis(GroundTruth(coco=truth), results.where(kept))
    samples, others = resampled(own, sets=300), resampled(other, sets=300)
    # pycocotools 2.0.11's figure for these files.
    assert samples.intervals()["ap"].value == pytest.approx(50.45806987249628, abs=1e-10)
    change = interval(mean(others.ap) - mean(samples.ap))
    assert change.low < change.value < change.high < 0  # a tenth of the detections is missing


def test_the_bootstrap_is_cocos_ap_also_with_ties_and_crowds(truth: dict[str, Any], results: Results) -> None:
    ground_truth = GroundTruth(coco=truth)
    for kind, iou_type in (("boxes", "bbox"), ("masks", "segm")):
        samples = resampled(Diagnosis(ground_truth, results, kind=kind), sets=2)  # type: ignore[arg-type]
        precision = accumulate(ground_truth.loaded, results, iou_type).precision[..., 0, -1]  # type: ignore[arg-type]
        by_class = np.where(precision[0, 0] < 0, np.nan, 100 * precision.mean(axis=(0, 1)))
        np.testing.assert_allclose(samples.ap[0], by_class, atol=1e-9)


def test_the_same_seed_draws_the_same_images(truth: dict[str, Any], results: Results) -> None:
    found = Diagnosis(GroundTruth(coco=truth), results)
    first, second, third = (resampled(found, sets=5, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.ap, second.ap)
    assert not np.array_equal(first.ap[1:], third.ap[1:])


# --- thresholds


def test_curves_over_the_threshold_by_hand() -> None:
    judged = Judged(
        classes=np.array([0, 0, 0]), scores=np.array([0.9, 0.5, 0.2]), hits=np.array([True, False, True]),
        num_objects=np.array([2, 0]),
    )  # fmt: skip
    curves = score_curves(judged)
    at = {round(float(t), 3): place for place, t in enumerate(curves.thresholds)}
    assert curves.classes.tolist() == [0]
    assert [curves.precision[0, at[t]] for t in (0.0, 0.3, 0.7, 0.95)] == pytest.approx([2 / 3, 1 / 2, 1, 1])
    assert [curves.recall[0, at[t]] for t in (0.0, 0.3, 0.7, 0.95)] == pytest.approx([1, 1 / 2, 1 / 2, 0])
    best = best_f1(judged, ["a", "b"], prefix="box")["a"]
    assert 100 * curves.f1[0, curves.best] == pytest.approx(best["box_f1"])
    assert 0.0 <= curves.thresholds[curves.best] <= best["box_f1_score"]


def test_there_is_no_curve_without_objects() -> None:
    nothing = np.zeros(0)
    judged = Judged(classes=nothing.astype(int), scores=nothing, hits=nothing.astype(bool), num_objects=np.zeros(2))
    with pytest.raises(ValueError, match="no object"):
        score_curves(judged)


# --- the file


def test_detections_come_back_from_their_file(tmp_path: Path, results: Results) -> None:
    count = len(results.scores)
    whole = Results(
        **{
            **vars(results),
            "keypoints": np.arange(count * 6, dtype=np.float64).reshape(count, 2, 3),
            "boxes_xywha": np.arange(count * 5, dtype=np.float64).reshape(count, 5),
        }
    )
    for written in (whole, results, results.where(np.zeros(count, bool))):
        save_detections(written, tmp_path / "d.parquet")
        read = load_detections(tmp_path / "d.parquet", {int(image): (96, 128) for image in results.image_ids})
        for name, column in vars(written).items():
            np.testing.assert_array_equal(getattr(read, name), column, err_msg=name)


def test_a_file_that_is_none_is_refused(tmp_path: Path, results: Results) -> None:
    path = tmp_path / "d.parquet"
    with pytest.raises(ValueError, match="no Parquet file"):
        load_detections(path, {})
    path.write_text("image_id\n1\n")
    with pytest.raises(ValueError, match="no Parquet file"):
        load_detections(path, {})
    save_detections(results, path)
    with pytest.raises(ValueError, match="image 10, which the ground truth does not have"):
        load_detections(path, {})

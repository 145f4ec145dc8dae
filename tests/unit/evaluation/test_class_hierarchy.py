"""Open Images' classes that are kinds of others: against hotcoco's own expansion, and by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detcore.config import EvaluationConfig
from detcore.evaluation import Evaluation, Evaluator, GroundTruth, ImageDetections
from detcore.evaluation.hierarchy import Hierarchy

hotcoco = pytest.importorskip("hotcoco")
TREE = {
    "LabelName": "Entity",
    "Subcategory": [
        {
            "LabelName": "three",
            "Subcategory": [{"LabelName": "one"}, {"LabelName": "unknown", "Subcategory": [{"LabelName": "two"}]}],
        },
        {"LabelName": "never", "Part": [{"LabelName": "two"}]},
    ],
}
"""one and two are kinds of three; a part is no kind."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "hierarchy.json"
    path.write_text(json.dumps(TREE))
    return path


def evaluated(truth: dict[str, Any], found: list[ImageDetections], file: Path | None) -> Evaluation:
    settings = EvaluationConfig(protocol="open_images", hierarchy=None if file is None else str(file))
    evaluator = Evaluator(GroundTruth(coco=truth), settings=settings)
    for image in found:
        evaluator.add_image(image)
    return evaluator.compute()


def test_as_hotcoco_expands(truth: dict[str, Any], found: list[ImageDetections], file: Path) -> None:
    rng = np.random.default_rng(5)
    found = [
        ImageDetections(
            image_id=image.image_id,
            boxes_xyxy=image.boxes_xyxy,
            scores=rng.random(len(image.scores)),  # of equal scores each has its own order
            labels=image.labels,
        )
        for image in found
    ]
    own = evaluated(truth, found, file)
    plain = {"categories": [{"id": c["id"], "name": c["name"]} for c in truth["categories"]]}
    groups = [{**a, "iscrowd": 0, "is_group_of": bool(a["iscrowd"])} for a in truth["annotations"]]
    loaded = hotcoco.COCO({**truth, **plain, "annotations": groups})
    rows = [
        {
            "image_id": image.image_id,
            "category_id": int(label) + 1,
            "score": float(score),
            "bbox": [*box[:2], *(box[2:] - box[:2])],
        }
        for image in found
        for label, score, box in zip(image.labels, image.scores, image.boxes_xyxy, strict=True)
    ]
    hierarchy = hotcoco.Hierarchy.from_parent_map({1: 3, 2: 3})
    theirs = hotcoco.COCOeval(loaded, loaded.load_res(rows), "bbox", oid_style=True, hierarchy=hierarchy)
    theirs.params.expand_dt = True
    theirs.run()
    expected = theirs.results(per_class=True)
    assert own.metrics["box_ap50"] == pytest.approx(100 * expected["metrics"]["AP"], abs=1e-9)
    assert own.metrics["box_ap50"] != evaluated(truth, found, None).metrics["box_ap50"]


def scene(**image: Any) -> tuple[dict[str, Any], list[ImageDetections]]:
    """A one at the left, which is found; a two at the right, which is taken for a one."""
    places = {"one": [0.0, 0, 20, 20], "two": [50.0, 50, 20, 20]}
    names = ("one", "two", "three")
    truth = {
        "images": [{"id": 1, "height": 100, "width": 100, **image}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": number, "bbox": places[name], "area": 400.0, "iscrowd": 0}
            for number, name in enumerate(names[:2], 1)
        ],
    }
    boxes = np.array([[0.0, 0, 20, 20], [50, 50, 70, 70]])
    return truth, [
        ImageDetections(image_id=1, boxes_xyxy=boxes, scores=np.array([0.9, 0.8]), labels=np.zeros(2, np.int64))
    ]


def test_a_sibling_is_right_one_class_above(file: Path) -> None:
    truth, found = scene()
    table = evaluated(truth, found, file).per_class
    assert {name: values["box_ap50"] for name, values in table.items()} == pytest.approx(
        {"one": 100, "two": 0, "three": 100}
    )
    assert evaluated(truth, found, None).per_class.keys() == {"one", "two"}


def test_what_was_verified_is_expanded() -> None:
    """Not three is neither one nor two; a one that has no box is a three, too."""
    hierarchy = Hierarchy({1: frozenset({3}), 2: frozenset({3})})
    truth, _ = scene(neg_category_ids=[3], not_exhaustive_category_ids=[1])
    (image,) = hierarchy.expand_truth(truth)["images"]
    assert image["neg_category_ids"] == [1, 2, 3] and image["not_exhaustive_category_ids"] == [1, 3]
    assert truth["images"][0]["neg_category_ids"] == [3] and len(truth["annotations"]) == 2


def test_published_codes_are_named_by_the_table_beside(tmp_path: Path) -> None:
    tree = {"LabelName": "/m/0", "Subcategory": [{"LabelName": "/m/3", "Subcategory": [{"LabelName": "/m/1"}]}]}
    (tmp_path / "hierarchy.json").write_text(json.dumps(tree))
    (tmp_path / "challenge-2019-class-descriptions-500.csv").write_text('/m/1,one\n/m/3,"three"\n')
    truth, _ = scene()
    assert Hierarchy.read(tmp_path / "hierarchy.json", truth["categories"]).above == {3: frozenset(), 1: {3}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "no hierarchy of Open Images"),
        ('{"LabelName": 3}', "no hierarchy of Open Images"),
        ('{"LabelName": "/m/1", "Subcategory": [{"LabelName": "/m/2"}]}', "no class of the data lies above another"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "hierarchy.json").write_text(text)
    with pytest.raises(ValueError, match=rf"hierarchy = .*hierarchy.json: {message}"):
        evaluated(*scene(), tmp_path / "hierarchy.json")
    with pytest.raises(ValueError, match="hierarchy is for protocol = open_images"):
        EvaluationConfig(hierarchy="hierarchy.json")

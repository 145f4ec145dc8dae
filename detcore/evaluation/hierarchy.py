"""Classes that are kinds of other classes, as in the Open Images challenge.

Its rules (storage.googleapis.com/openimages/web/evaluation.html): whatever is of a class is of all classes above it,
too; and what was verified to be of no class is of none below it.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from detcore.evaluation.coco import LoadedTruth
from detcore.evaluation.results import Results

_DESCRIPTIONS = "*class-descriptions*.csv"


@dataclass(frozen=True)
class Hierarchy:
    """Of categories, by id: those above each one."""

    above: Mapping[int, frozenset[int]]

    @classmethod
    def read(cls, path: str | Path, categories: Sequence[Mapping[str, Any]]) -> Self:
        """Open Images' JSON: nodes of a LabelName and their Subcategory, a list of nodes.

        A LabelName is the name of a category; or, as published, a code that *class-descriptions*.csv beside the file
        gives the name of. What is no category is passed over, not what lies above and below it.

        Raises:
            ValueError: if the file is no such hierarchy, or knows none of the categories.
        """
        file = Path(path)
        try:
            root = json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            raise ValueError(f"engine.evaluation.hierarchy = {path}: cannot be read ({error})") from None
        tables = [table.read_text(encoding="utf-8").splitlines() for table in sorted(file.parent.glob(_DESCRIPTIONS))]
        names = {row[0]: row[1] for table in tables for row in csv.reader(table) if len(row) > 1}
        ids = {category["name"]: category["id"] for category in categories}
        above: dict[int, set[int]] = defaultdict(set)
        try:
            for path_down in _paths(root):
                known = [ids[name] for label in path_down if (name := names.get(label, label)) in ids]
                if known and names.get(path_down[-1], path_down[-1]) in ids:
                    above[known[-1]] |= {*known[:-1]} - {known[-1]}
        except (TypeError, KeyError, AttributeError, RecursionError):
            raise ValueError(
                f"engine.evaluation.hierarchy = {path}: no hierarchy of Open Images: nodes of a LabelName and a "
                "list of nodes, Subcategory"
            ) from None
        if not any(above.values()):
            raise ValueError(
                f"engine.evaluation.hierarchy = {path}: no class of the data lies above another in it; the data has "
                f"{', '.join(list(ids)[:5])} …. Are they named by a {_DESCRIPTIONS} beside it?"
            )
        return cls({key: frozenset(own) for key, own in above.items()})

    def expanded(self, dataset: Mapping[str, Any], results: Results) -> tuple[LoadedTruth, Results]:
        """Truth and detections, as the protocol takes them."""
        return LoadedTruth(self.expand_truth(dataset)), self.expand_results(results)

    def expand_truth(self, dataset: Mapping[str, Any]) -> dict[str, Any]:
        """A COCO data set whose annotations are repeated for each class above theirs; new ids follow the highest."""
        annotations = list(dataset["annotations"])
        number = max((a["id"] for a in annotations), default=0)
        for annotation in dataset["annotations"]:
            for category in sorted(self.above.get(annotation["category_id"], ())):
                number += 1
                annotations.append({**annotation, "id": number, "category_id": category})
        return {
            **dataset,
            "images": [self._looked_for(image) for image in dataset["images"]],
            "annotations": annotations,
        }

    def expand_results(self, results: Results) -> Results:
        """Every detection, and then the same of each class above its own."""
        rows: list[int] = []
        categories: list[int] = []
        for row, category in enumerate(results.category_ids.tolist()):
            own = (category, *sorted(self.above.get(category, ())))
            rows += [row] * len(own)
            categories += own
        return results.rows_of(np.array(rows, dtype=np.int64), category_ids=np.array(categories, dtype=np.int64))

    def _looked_for(self, image: Mapping[str, Any]) -> dict[str, Any]:
        if "neg_category_ids" not in image:
            return dict(image)
        positive = self._with_above(image["not_exhaustive_category_ids"])
        negative = {*image["neg_category_ids"]}
        negative |= {category for category, above in self.above.items() if above & negative}
        return {**image, "not_exhaustive_category_ids": sorted(positive), "neg_category_ids": sorted(negative)}

    def _with_above(self, categories: Iterable[int]) -> set[int]:
        own = {*categories}
        return own.union(*(self.above.get(category, ()) for category in own))


def _paths(node: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The names from the root down to each node."""
    label = node["LabelName"]
    if not isinstance(label, str):
        raise TypeError(label)
    path = (*before, label)
    yield path
    for below in node.get("Subcategory", ()):
        yield from _paths(below, path)

"""What prepare did: counts a split, and by name what it left out and why."""

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from rich.console import Console
from rich.table import Table

from detcore.data.cleaning import Cleaned


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """One split.

    Attributes:
        images, objects, crowd: what was written; crowd regions are among the objects.
        images_without_objects: images that are background throughout.
        objects_without_outline: objects, crowd regions aside, that have a box alone; one such and the split has no
            masks.
        objects_by_category: written, by name of the class.
        converted: images stored in another form than the file had (colour space, EXIF orientation, file format).
        skipped: why, by file, of the images that cannot be read.
        absent: the images that are listed but not there.
        dropped: [file, annotation id] of the objects left out, by reason; of what the format does not number, its place
            among the image's.
        clipped: [file, annotation id] of the objects whose box is clipped to the image in training.
    """

    images: int
    objects: int
    crowd: int
    images_without_objects: int
    objects_without_outline: int
    objects_by_category: dict[str, int]
    converted: int
    skipped: dict[str, str]
    absent: list[str]
    dropped: dict[str, list[tuple[str, int]]]
    clipped: list[tuple[str, int]]

    @classmethod
    def of(
        cls,
        cleaned: Cleaned,
        *,
        categories: tuple[str, ...],
        skipped: dict[str, str],
        absent: list[str],
        converted: int,
    ) -> Self:
        """The report on a cleaned split."""
        objects = cleaned.split.objects
        crowd = objects["crowd"].to_numpy(zero_copy_only=False)
        outlined = np.diff(objects["polygons"].offsets.to_numpy()) > 0
        by_class = np.bincount(objects["label"].to_numpy(), minlength=len(categories)).tolist()
        images = cleaned.split.images.num_rows
        return cls(
            images=images,
            objects=objects.num_rows,
            crowd=int(crowd.sum()),
            images_without_objects=images - len(np.unique(objects["sample"].to_numpy())),
            objects_without_outline=int((~outlined & ~crowd).sum()),
            objects_by_category=dict(zip(categories, by_class, strict=True)),
            converted=converted,
            skipped=skipped,
            absent=absent,
            dropped=cleaned.dropped | cleaned.split.left_out,
            clipped=cleaned.clipped,
        )


@dataclass(frozen=True, kw_only=True)
class Report:
    """What prepare wrote and left out, by split."""

    name: str
    content_hash: str
    splits: dict[str, SplitReport]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in `report.json`."""
        return asdict(self)

    def table(self) -> Table:
        """Counts, a row a split; a column for a reason to drop only where it occurred."""
        columns: dict[str, dict[str, int]] = {}
        for name, split in self.splits.items():
            columns[name] = {
                "images": split.images,
                "objects": split.objects,
                "crowd": split.crowd,
                "images without objects": split.images_without_objects,
                "images converted": split.converted,
                "unreadable images skipped": len(split.skipped),
                "absent images skipped": len(split.absent),
                **{f"dropped: {reason}": len(dropped) for reason, dropped in split.dropped.items()},
                "boxes clipped": len(split.clipped),
            }
        keys = dict.fromkeys(key for counts in columns.values() for key in counts)
        shown = [key for key in keys if any(counts.get(key) for counts in columns.values())]
        table = Table("", *columns, title=f"{self.name} ({self.content_hash[:12]})")
        for key in shown:
            table.add_row(key, *(f"{counts.get(key, 0):,}" for counts in columns.values()))
        return table

    def print(self) -> None:
        """The table on stderr, with the names of the first that were left out."""
        console = Console(stderr=True)
        console.print(self.table())
        for name, split in self.splits.items():
            left_out = [f"{file}: {why}" for file, why in split.skipped.items()]
            left_out += [f"{file}: is not there" for file in split.absent]
            left_out += [
                f"{file}: annotation {annotation_id}: {reason}"
                for reason, dropped in split.dropped.items()
                for file, annotation_id in dropped
            ]
            for line in left_out[:5]:
                console.print(f"{name}: left out: {line}", markup=False, highlight=False)
            if len(left_out) > 5:
                console.print(f"{name}: and {len(left_out) - 5:,} more in report.json")

"""What a check can find, and what it found."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.table import Table

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
_MOST_PLACES = 20
_SHOWN_PLACES = 3
_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


@dataclass(frozen=True)
class Kind:
    """One thing to find: how bad it is, what it is, how to mend it."""

    level: Level
    what: str
    mend: str


KINDS: dict[str, Kind] = {
    # The annotations as a whole
    "annotations": Kind("error", "annotations that cannot be read", "mend this first: nothing after it was looked at"),
    "duplicate_image_id": Kind("error", "images with one id", "give each image an id of its own"),
    "duplicate_ann_id": Kind("error", "annotations with one id", "give each annotation an id of its own"),
    "duplicate_category_id": Kind("error", "categories with one id", "give each category an id of its own"),
    "orphan_image_id": Kind("error", "annotations of images that are not listed", "list the images or drop these"),
    "orphan_category_id": Kind("error", "annotations of unknown categories", "list the categories or drop these"),
    "zero_dimensions": Kind("error", "images listed with no height or width", "write the size of the file"),
    "no_health_check": Kind("note", "files that hotcoco's health check cannot read", "our own checks were made"),
    # Images
    "missing_image": Kind("error", "images that are not there", "copy them, or drop them from the annotations"),
    "unreadable_image": Kind("error", "images that cannot be decoded", "replace or remove them: prepare skips them"),
    "unreadable_map": Kind("error", "maps that cannot be read", "replace them: prepare skips their images"),
    "other_size": Kind("error", "images of another size than annotated", "annotate the file's size: boxes may be off"),
    "shared_image": Kind("error", "images that are in two splits", "leave each in one split"),
    "same_pixels_across_splits": Kind("error", "images with the pixels of one in another split", "leave one of each: an evaluation on images of the training says nothing"),
    "same_pixels": Kind("warning", "images with the pixels of another in the split", "leave one of each, unless meant"),
    "turned_by_exif": Kind("warning", "images that EXIF turns", "look at them with 'detcore data show': boxes must fit the turned image, or the stored one where only that has the annotated size"),
    "sixteen_bit": Kind("warning", "images of more than 8 bits a channel", "none if the high byte has the picture: prepare keeps that alone; else scale them yourself"),
    "cmyk": Kind("note", "CMYK images", "none: prepare converts them, without their colour profile"),
    "animated": Kind("note", "images of several frames", "none: the first is taken"),
    "without_objects": Kind("note", "images without objects", "none if they are background: they are trained on"),
    # Objects
    "broken_mask": Kind("error", "run-length masks that are broken", "write them again in the size of their image"),
    "not a number": Kind("error", "objects with a coordinate or area that is no number", "mend or drop them: prepare drops them"),
    "zero area": Kind("warning", "boxes without area", "mend or drop them: prepare drops them"),
    "outside the image": Kind("warning", "boxes outside their image", "mend or drop them: prepare drops them"),
    "segmentation without area": Kind("warning", "segmentations that enclose nothing", "mend or drop them: prepare drops them"),
    "clipped": Kind("note", "boxes that reach past their image", "none: they are clipped in training"),
    "zero_area": Kind("note", "annotations with an area of 0", "write the area: evaluation by size reads it"),
    "missing_geometry": Kind("error", "annotations with neither box nor mask", "annotate or drop them"),
    "near_duplicate": Kind("warning", "boxes of one class that nearly coincide (IoU above 0.95)", "leave one of each"),
    "extreme_aspect_ratio": Kind("note", "boxes of an extreme aspect ratio", "look at them: many are slips"),
    "tiny": Kind("note", "objects with a side below 4 pixels after the resize", "train on larger sizes (data.train_transforms), on tiles, or leave them out"),
    # Classes
    "unused_class": Kind("warning", "classes without training objects", "drop them, or add objects: a model cannot learn them"),
    "rare_class": Kind("note", "classes with fewer than 10 training objects", "add objects, or set data.sampling to repeat_factor"),
    "alike_names": Kind("warning", "classes whose names differ in case, blanks or dashes alone", "make them one class, unless meant"),
}  # fmt: skip
"""By code."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that was found.

    Attributes:
        code: the key of `KINDS`.
        level: 'error' (prepare refuses, or results would be wrong), 'warning' (likely a slip), 'note'.
        what: in words.
        count: how many.
        of: of how many, 0 where that says nothing.
        places: the first 20, such as 'train: 000042.jpg: annotation 7'.
        mend: what to do.
    """

    code: str
    level: Level
    what: str
    count: int
    of: int
    places: tuple[str, ...]
    mend: str


def finding(code: str, places: Sequence[str], *, of: int = 0, count: int | None = None) -> list[Finding]:
    """A finding of a kind at its places; none where there is no place."""
    if not places:
        return []
    kind = KINDS.get(code) or Kind("warning", code.replace("_", " "), "look at them")  # a newer hotcoco's
    number = len(places) if count is None else count
    return [
        Finding(
            code=code,
            level=kind.level,
            what=kind.what,
            count=number,
            of=of,
            places=tuple(places[:_MOST_PLACES]),
            mend=kind.mend,
        )
    ]


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """All that was found in a data set, the worst first.

    Attributes:
        name, format: the data set's.
        images, objects: by split, of what could be read.
    """

    name: str
    format: str
    images: dict[str, int]
    objects: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(finding.level == "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {**asdict(self), "errors": self.errors}

    def table(self) -> Table:
        """A row a finding: what, where, how to mend it."""
        shown = Table(title=self.summary(), title_justify="left", show_lines=True)
        shown.add_column("level")
        shown.add_column("what", ratio=3)
        shown.add_column("where", ratio=4, overflow="fold")
        shown.add_column("how to mend", ratio=3)
        for found in self.findings:
            rest = found.count - _SHOWN_PLACES
            more = [f"and {rest:,} more"] if rest > 0 else []
            share = f" of {found.of:,}" if found.of else ""
            shown.add_row(
                f"[{_STYLES[found.level]}]{found.level}[/]",
                f"{found.count:,}{share} {found.what}",
                _plain("\n".join([*found.places[:_SHOWN_PLACES], *more])),
                found.mend,
            )
        return shown

    def summary(self) -> str:
        """One line."""
        counts = [f"{sum(f.level == level for f in self.findings)} {level}s" for level in LEVELS]
        data = ", ".join(
            f"{name} {images:,} images and {self.objects[name]:,} objects" for name, images in self.images.items()
        )
        return f"{self.name} ({self.format}): {data or 'nothing could be read'}: {', '.join(counts)}"


def _plain(text: str) -> str:
    """Brackets in names are no markup."""
    return text.replace("[", "\\[")

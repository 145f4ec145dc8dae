"""What a check can find."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
"""Prepare refuses it or results would be wrong; likely a slip; good to know."""


@dataclass(frozen=True)
class Kind:
    """One thing to find: how bad it is, what it is, how to mend it."""

    level: Level
    what: str
    mend: str


_DROPPED = "mend or drop them: prepare drops them"

KINDS: dict[str, Kind] = {
    # The annotations as a whole; most of these are hotcoco's.
    "annotations": Kind("error", "reason that annotations cannot be read", "mend it and check again: no more was read"),
    "duplicate_image_id": Kind("error", "images with one id", "give each image an id of its own"),
    "duplicate_ann_id": Kind("error", "annotations with one id", "give each annotation an id of its own"),
    "duplicate_category_id": Kind("error", "categories with one id", "give each category an id of its own"),
    "orphan_image_id": Kind("error", "annotations of images that are not listed", "list the images, or drop these"),
    "orphan_category_id": Kind("error", "annotations of unknown categories", "list the categories, or drop these"),
    "missing_geometry": Kind("error", "annotations with neither box nor mask", "annotate or drop them"),
    "zero_dimensions": Kind("error", "images listed without height or width", "write the size that the file has"),
    "no_health_check": Kind("note", "files that hotcoco's health check cannot read", "mend what is above first"),
    # Images
    "missing_image": Kind("error", "images that are not there", "copy them, or do without: data.absent_images=skip"),
    "unreadable_image": Kind("error", "images that are refused", "replace or remove them: prepare skips them"),
    "unreadable_map": Kind("error", "maps that cannot be read", "replace them: prepare skips their images"),
    "other_size": Kind("error", "images of another size than annotated", "write the file's size; look at the boxes"),
    "shared_image": Kind("error", "images that are in two splits", "leave each in one split"),
    "same_pixels_across_splits": Kind(
        "error",
        "images whose very pixels are in another split",
        "leave one of each: an evaluation on what was trained on tells nothing",
    ),
    "same_pixels": Kind(
        "warning", "images whose very pixels are in the split twice", "leave one of each, unless meant"
    ),
    "turned_by_exif": Kind(
        "warning",
        "images that EXIF turns",
        "look at them with 'detcore data show': prepare turns them, unless only the stored size is the annotated one",
    ),
    "sixteen_bit": Kind(
        "warning",
        "images of more than 8 bits a channel",
        "scale them to 8 bits yourself, unless the high byte has the picture: prepare keeps that",
    ),
    "cmyk": Kind("note", "CMYK images", "nothing, or RGB: prepare converts them, without their colour profile"),
    "several_pages": Kind("note", "files of several pages", "nothing: the first page is taken"),
    "without_objects": Kind("note", "images without objects", "nothing, if they are background"),
    # Objects
    "broken_mask": Kind("error", "splits with a broken run-length mask", "write it again, in the size of its image"),
    "not_finite": Kind("error", "objects with a coordinate or area that is no number", _DROPPED),
    "degenerate_box": Kind("warning", "boxes without area", _DROPPED),
    "outside_image": Kind("warning", "boxes outside their image", _DROPPED),
    "empty_segmentation": Kind("warning", "segmentations that enclose nothing", _DROPPED),
    "clipped_box": Kind("note", "boxes that reach past their image", "nothing: training clips them"),
    "zero_area": Kind("note", "annotations with an area of 0", "write the area: evaluation by size reads it"),
    "near_duplicate": Kind("warning", "boxes of one class on each other (IoU above 0.95)", "leave one of each"),
    "extreme_aspect_ratio": Kind("note", "boxes of an aspect ratio above 20", "look at them: many are slips"),
    "no_target": Kind("note", "annotations that no object can say", "do without them: prepare leaves them out"),
    "tiny": Kind(
        "note",
        "objects with a side below 4 pixels after evaluation's resize",
        "train on larger sizes (data.train_transforms, data.test_transforms) or on tiles",
    ),
    # Classes
    "unused_class": Kind("warning", "classes without training objects", "drop them, or add objects"),
    "rare_class": Kind(
        "note",
        "classes with fewer than 10 training objects",
        "add objects, or sample by data.sampling.type=repeat_factor",
    ),
    "alike_names": Kind(
        "warning", "names of classes that differ in case, blanks or dashes alone", "make them one class, unless meant"
    ),
}
"""By code."""

"""Which format a folder is in, told by the files that lie in it."""

from pathlib import Path

from detcore.data.formats.raw import listing

_SPLITS = ("train", "val", "valid", "test")
_VOC = ("", "*/", "*/*/")  # the root, or one at most two below it
SIGNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "coco": (
        ("annotations/instances*.json",),
        ("*/_annotations.coco.json",),
        *((f"annotations/{split}*.json",) for split in _SPLITS),
        *((f"{split}.json",) for split in _SPLITS),
        ("annotations.json",),
        ("_annotations.coco.json",),
    ),
    "coco_panoptic": (("annotations/panoptic_*.json",), ("panoptic_*.json",)),
    "voc": tuple((f"{above}Annotations/*.xml",) for above in _VOC),
    "yolo": (("*.y*ml", "labels/**/*.txt"), ("*.y*ml", "*/labels/*.txt")),
    "dota": (("*/labelTxt*/*.txt",),),
    "semantic": (
        ("images/*/*", "annotations/*/*.png"),
        ("images/*/*", "labels/*/*.png"),
    ),
    "lvis": (("lvis*.json",), ("annotations/lvis*.json",)),
    "cityscapes": (("leftImg8bit/*/*", "gtFine/*/*"),),
    "open_images": tuple((f"{folder}*-annotations-bbox.csv",) for folder in ("", "annotations/", "csv/", "metadata/")),
    "cvat": (
        ("annotations.xml",),
        *((f"{split}.xml",) for split in (*_SPLITS, "validation")),
        *((f"{split}/annotations.xml",) for split in (*_SPLITS, "validation")),
    ),
}
"""A format's signs: any of the tuples, and of that one each pattern finds a file below the folder."""


def guess_format(root: Path) -> str:
    """The format of a raw folder, one of `SIGNS`.

    Raises:
        ValueError: there is no such folder, or the files in it are of no known format, or of several.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")
    found = [name for name, signs in SIGNS.items() if any(_all_there(root, patterns) for patterns in signs)]
    if len(found) == 1:
        return found[0]
    what = f"is in several formats: {listing(found)}" if found else f"is in none of the formats {listing(list(SIGNS))}"
    raise ValueError(f"{root} {what}, as far as its files tell; say which with data=NAME of conf/data, or --format")


def _all_there(root: Path, patterns: tuple[str, ...]) -> bool:
    return all(next(root.glob(pattern), None) is not None for pattern in patterns)

"""Semantic segmentation: a folder of images and one of PNGs of class ids, as ADE20K and Cityscapes have them."""

from pathlib import Path

from detcore.config.data import SemanticPNGs
from detcore.data.annotation_building import AnnotationBuilder
from detcore.data.formats.raw import RawDataset, RawSplit, Splits, images_batch, listing, upright_size
from detcore.data.label_maps import LabelMaps, numbered_classes

_PAIRS = (
    ("images/{}", "annotations/{}"),  # ADE20K
    ("leftImg8bit/{}", "gtFine/{}"),  # Cityscapes
    ("images/{}", "labels/{}"),
)
_ALIASES = {"train": ("train", "training"), "val": ("val", "validation"), "test": ("test", "testing")}


def read_semantic(root: Path, splits: Splits | None, labels: SemanticPNGs) -> RawDataset:
    """Reads images and, for each, the PNG whose path below its own folder is the image's with another end.

    Without `splits`, looks for images/{training,validation} beside annotations/, leftImg8bit/{train,val} beside
    gtFine/, and images/{train,val} beside labels/. There are no objects. Image ids count the images by path, from 1.

    Raises:
        ValueError: no such folders, no images in one, or images without a PNG.
    """
    if splits:
        folders = {name: (root / split.images, root / split.annotations) for name, split in splits.items()}
    else:
        folders = _folders(root)
    found, first_id = {}, 1
    for name, (images, pngs) in folders.items():
        paths = sorted(str(path.relative_to(images)) for path in images.rglob(f"*{labels.image_suffix}"))
        if not paths:
            raise ValueError(f"{images}: no images *{labels.image_suffix}; set data.semantic.image_suffix")
        files = tuple(pngs / f"{path.removesuffix(labels.image_suffix)}{labels.label_suffix}" for path in paths)
        absent = [str(path.relative_to(pngs)) for path in files if not path.is_file()]
        if absent:
            raise ValueError(f"{pngs}: {len(absent)} PNGs of images are not there: {listing(absent)}")
        sizes = [upright_size(images / path) for path in paths]
        batch = images_batch(
            image_ids=range(first_id, first_id + len(paths)),
            file_names=paths,
            heights=[size[0] for size in sizes],
            widths=[size[1] for size in sizes],
        )
        first_id += len(paths)
        maps = LabelMaps(files=files, class_of=numbered_classes(len(labels.classes), labels.first_id))
        objects = AnnotationBuilder().batch()
        found[name] = RawSplit(folder=images, images=batch, objects=objects, source=str(pngs), maps=maps)
    return RawDataset(categories=(), splits=found, semantic_classes=labels.classes)


def _folders(root: Path) -> dict[str, tuple[Path, Path]]:
    for images, pngs in _PAIRS:
        found = {
            split: (root / images.format(alias), root / pngs.format(alias))
            for split, aliases in _ALIASES.items()
            for alias in aliases
            if (root / images.format(alias)).is_dir() and (root / pngs.format(alias)).is_dir()
        }
        if found:
            return found
    raise ValueError(f"{root}: no folders images/train and annotations/train or the like; set data.splits")

"""Readers of raw data sets: each gives the same columns, whatever the files look like."""

from pathlib import Path

from detcore.config.data import DataConfig
from detcore.data.formats.cityscapes import read_cityscapes
from detcore.data.formats.coco import read_coco
from detcore.data.formats.coco_panoptic import read_coco_panoptic
from detcore.data.formats.cvat import read_cvat
from detcore.data.formats.dota import read_dota
from detcore.data.formats.lvis import read_lvis
from detcore.data.formats.open_images import read_open_images
from detcore.data.formats.raw import RawDataset, RawSplit
from detcore.data.formats.semantic import read_semantic
from detcore.data.formats.voc import read_voc
from detcore.data.formats.yolo import read_yolo

__all__ = [
    "RawDataset",
    "RawSplit",
    "read_cityscapes",
    "read_coco",
    "read_coco_panoptic",
    "read_cvat",
    "read_dota",
    "read_lvis",
    "read_open_images",
    "read_raw",
    "read_semantic",
    "read_voc",
    "read_yolo",
]


def read_raw(config: DataConfig, root: Path) -> RawDataset:
    """Reads the raw folder in the format that the configuration names."""
    splits = None if config.splits is None else {str(name): split for name, split in config.splits.items()}
    match config.format:
        case "coco":
            return read_coco(root, splits, ignore=config.ignore)
        case "coco_rotated":
            return read_coco(root, splits, angles=config.angles or "degrees_ccw", ignore=config.ignore)
        case "coco_panoptic":
            return read_coco_panoptic(root, splits)
        case "lvis":
            return read_lvis(root, splits)
        case "cityscapes":
            return read_cityscapes(root, splits)
        case "open_images":
            return read_open_images(root, splits)
        case "cvat":
            return read_cvat(root, splits)
        case "dota":
            return read_dota(root, splits)
        case "semantic":
            assert config.semantic is not None  # the section checks it
            return read_semantic(root, splits, config.semantic)
        case "voc":
            return read_voc(root, splits)
        case "yolo":
            return read_yolo(root, splits)

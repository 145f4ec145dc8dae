"""YOLO: a text file an image, a line an object, coordinates as fractions of the image (docs.ultralytics.com)."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from detcore.data.annotation_building import AnnotationBuilder
from detcore.data.annotations import PIXEL_CENTRE
from detcore.data.formats.fields import brief, shown
from detcore.data.formats.raw import (
    IMAGE_SUFFIXES,
    RawDataset,
    RawSplit,
    Splits,
    images_batch,
    listing,
    read_text,
    refuse_repeats,
    upright_size,
)
from detcore.data.keypoints import KeypointLayout
from detcore.data.outlines import ring_area

_ALIASES = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}


def read_yolo(root: Path, splits: Splits | None = None) -> RawDataset:
    """Reads a folder with data.yaml (its `names`, and where it says so the images of each split).

    Where data.yaml names no folder for a split, images/{train,val,test} and {train,valid,test}/images are looked for,
    then images/ as a whole, which counts as train. Labels lie where `images` in an image's path is `labels`. A line is
    'class x_center y_center width height' or 'class x1 y1 x2 y2 x3 y3 ...', the outline of the object. An image
    With kpt_shape in data.yaml (of K points, 2 or 3 numbers each) a line is 'class x_center y_center width height' and
    then x, y and, of three, visibility of each keypoint; kpt_names, one list or one a class, are their names. An image
    without a label file has no objects; a label file without an image counts for nothing. Image ids count
    the images of all splits by path, from 1.

    Raises:
        ValueError: no data.yaml, no names in it or one twice, a folder in it that does not exist (or is a list of
            images), no images; kpt_shape or kpt_names of another form; a line of another form; a class outside the
            names; text that is not UTF-8.
    """
    config_path, config = _data_yaml(root)
    names = _names(config_path, config)
    layout, numbers = _keypoints(config_path, config)
    if splits:
        folders = {name: (root / split.images, root / split.annotations) for name, split in splits.items()}
    else:
        folders = {name: (images, _labels_of(images)) for name, images in _find(root, config).items()}
    if not folders:
        raise ValueError(f"{root}: no images/train, train/images or images; set data.splits")
    files = {name: _image_files(images) for name, (images, _) in folders.items()}
    first_id = 1
    found = {}
    for name, (images, labels) in folders.items():
        found[name] = _read_split(
            images, labels, files[name], names=names, first_id=first_id, points=(len(layout or ()), numbers)
        )
        first_id += len(files[name])
    return RawDataset(categories=tuple(names), splits=found, keypoints=layout)


def _data_yaml(root: Path) -> tuple[Path, dict[str, Any]]:
    for path in [root / "data.yaml", *sorted(root.glob("*.yaml")), *sorted(root.glob("*.yml"))]:
        if path.is_file():
            text = read_text(path)
            try:
                config = yaml.safe_load(text)
            except RecursionError:
                raise ValueError(f"{path}: is nested too deeply") from None
            except (yaml.YAMLError, ValueError, OverflowError) as error:  # the latter from dates and numbers
                raise ValueError(f"{path}: not YAML: {brief(error)}") from error
            if isinstance(config, dict) and "names" in config:
                return path, config
    raise ValueError(f"{root}: no data.yaml with the names of the classes")


def _names(path: Path, config: dict[str, Any]) -> list[str]:
    names = config["names"]
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{path}: names is neither a list nor a mapping from 0, 1, ...: {shown(names)}")
    if others := [name for name in names if not isinstance(name, str | int | float)]:
        raise ValueError(f"{path}: names holds {shown(others[0])}, which is no name")
    names = [str(name) for name in names]
    refuse_repeats(path, "names a class", names)
    return names


def _keypoints(path: Path, config: dict[str, Any]) -> tuple[KeypointLayout | None, int]:
    """The keypoints, and how many numbers each has in a line."""
    shape, names = config.get("kpt_shape"), config.get("kpt_names")
    if shape is None:
        return None, 0
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int for n in shape) and shape[0] > 0):
        raise ValueError(f"{path}: kpt_shape {shown(shape)} is not a number of keypoints and 2 or 3")
    if shape[1] not in (2, 3):
        raise ValueError(
            f"{path}: kpt_shape says {shown(shape[1])} numbers a keypoint; take 2 (x, y) or 3 (visibility)"
        )
    if isinstance(names, dict):  # of each class
        kinds = list(names.values())
        if any(kind != kinds[0] for kind in kinds):
            raise ValueError(f"{path}: kpt_names of the classes differ; give all classes the same keypoints")
        names = kinds[0] if kinds else None
    names = [str(number + 1) for number in range(shape[0])] if names is None else names
    if not isinstance(names, list) or len(names) != shape[0]:
        raise ValueError(f"{path}: kpt_names are not the {shape[0]} names that kpt_shape says: {shown(names)}")
    try:
        return KeypointLayout.of([str(name) for name in names]), shape[1]
    except ValueError as error:
        raise ValueError(f"{path}: kpt_names: {error}") from error


def _find(root: Path, config: dict[str, Any]) -> dict[str, Path]:
    """The image folder of each split.

    Raises:
        ValueError: data.yaml states one that does not exist.
    """
    base = root / _folder_name(root, config, "path", ".")
    found: dict[str, Path] = {}
    for split, aliases in _ALIASES.items():
        stated = [_folder_name(root, config, alias) for alias in aliases if config.get(alias)]
        candidates = [folder / path for path in stated for folder in (base, root)]
        # Roboflow writes ../train/images where ./train/images is meant.
        candidates += [root / path.removeprefix("../") for path in stated if path.startswith("../")]
        if not stated:
            candidates = [root / pattern.format(alias) for alias in aliases for pattern in ("images/{}", "{}/images")]
        folders = [folder for folder in candidates if os.path.isdir(folder)]
        if folders:
            found[split] = folders[0]
        elif stated:
            raise ValueError(
                f"{root}: data.yaml says {split}: {stated[0]}, which is no folder here; mend that line or take it out"
            )
    if not found and (root / "images").is_dir():
        found["train"] = root / "images"
    return found


def _folder_name(root: Path, config: dict[str, Any], key: str, otherwise: str = "") -> str:
    name = config.get(key) or otherwise
    if not isinstance(name, str):
        raise ValueError(f"{root}: data.yaml says {key}: {shown(name)}, which is no folder; set data.splits")
    return name


def _labels_of(images: Path) -> Path:
    """The folder of labels: the last `images` in the path becomes `labels`."""
    parts = list(images.parts)
    if "images" not in parts:
        return images
    parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of images")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def _read_split(
    images: Path, labels: Path, files: list[Path], *, names: list[str], first_id: int, points: tuple[int, int]
) -> RawSplit:
    builder = AnnotationBuilder()
    sizes = []
    for sample, path in enumerate(files):
        sizes.append(upright_size(path))
        label_path = (labels / path.relative_to(images)).with_suffix(".txt")
        lines = read_text(label_path).splitlines() if label_path.is_file() else []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                _add_object(builder, line.split(), sample=sample, size=sizes[-1], names=names, points=points)
            except ValueError as error:
                raise ValueError(f"{label_path}:{number}: {brief(error)}") from error
    return RawSplit(
        folder=images,
        images=images_batch(
            image_ids=range(first_id, first_id + len(files)),
            file_names=[path.relative_to(images).as_posix() for path in files],
            heights=[height for height, _ in sizes],
            widths=[width for _, width in sizes],
        ),
        objects=builder.batch(),
        source=str(labels),
    )


def _add_object(
    builder: AnnotationBuilder,
    words: list[str],
    *,
    sample: int,
    size: tuple[int, int],
    names: list[str],
    points: tuple[int, int],
) -> None:
    count, per_point = points
    if count and len(words) != 5 + count * per_point:
        raise ValueError(f"{len(words)} numbers are not class, x, y, w, h and {count} keypoints of {per_point} each")
    if not count and len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        raise ValueError(
            f"{len(words)} numbers are neither a box (class, x, y, w, h) nor an outline of 3 or more points"
        )
    label = float(words[0])
    if label not in range(len(names)):
        raise ValueError(f"unknown category {words[0]}; the classes are 0 to {len(names) - 1} ({listing(names)})")
    height, width = size
    numbers = [float(word) for word in words[1:]]
    ring = None
    if count or len(numbers) == 4:
        x, y, w, h = numbers[:4]
        box = ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
        area = box[2] * box[3]
    else:
        outline = np.array(numbers).reshape(-1, 2) * (width, height)
        (x0, y0), (x1, y1) = outline.min(axis=0).tolist(), outline.max(axis=0).tolist()
        box, ring, area = (x0, y0, x1 - x0, y1 - y0), [outline.reshape(-1).tolist()], ring_area(outline)
    builder.add(
        sample=sample,
        annotation_id=len(builder) + 1,
        label=int(label),
        bbox_xywh=box,
        area=area,
        segmentation=ring,
        keypoints=_counted(np.array(numbers[4:]).reshape(count, per_point), size) if count else None,
    )


def _counted(points: NDArray[np.float64], size: tuple[int, int]) -> list[float]:
    """Keypoints as COCO has them: x and y count pixels. Without visibility, one at 0, 0 is not there (Ultralytics)."""
    xy: NDArray[np.float64] = points[:, :2] * np.array([size[1], size[0]]) - PIXEL_CENTRE
    shown: NDArray[np.float64] = points[:, 2] if points.shape[1] == 3 else np.where(points.any(axis=1), 2.0, 0.0)
    if not np.isin(shown, (0.0, 1.0, 2.0)).all():
        raise ValueError(f"a keypoint's visibility is {shown[~np.isin(shown, (0.0, 1.0, 2.0))][0]:g}, not 0, 1 or 2")
    values: list[float] = np.column_stack([np.where(shown[:, None] > 0, xy, 0.0), shown]).ravel().tolist()
    return values

"""Small raw folders in each format, for the tests of readers, prepare and sources."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from detcore.config.data import DataConfig


def write_image(path: Path, *, height: int = 48, width: int = 64, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def coco_annotation(number: int, image_id: int, **changes) -> dict:
    """An object whose numbers do not survive a detour through float32."""
    annotation = {
        "id": number,
        "image_id": image_id,
        "category_id": 7,
        "bbox": [10.1, 5.3, 20.7, 30.9],
        "area": 321.123456789,
        "iscrowd": 0,
        "segmentation": [[10.1, 5.3, 30.8, 5.3, 30.8, 36.2, 10.1, 36.2]],
    }
    return {**annotation, **changes}


def write_coco(root: Path, *, images: int = 10, annotations: list[dict] | None = None, split: str = "train") -> None:
    """annotations/instances_SPLIT.json and images/*.jpg of 48 x 64; one object an image unless others are given."""
    names = [f"{split}_{number:03d}.jpg" for number in range(images)]
    for number, name in enumerate(names):
        write_image(root / "images" / name, seed=number)
    document = {
        "images": [{"id": 100 + n, "file_name": name, "height": 48, "width": 64} for n, name in enumerate(names)],
        "annotations": [coco_annotation(n + 1, 100 + n) for n in range(images)] if annotations is None else annotations,
        "categories": [{"id": 7, "name": "cat"}, {"id": 90, "name": "dog"}],
    }
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


VOC_OBJECT = "<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>"


def voc_object(name: str, box: tuple[float, float, float, float], extra: str = "") -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    return VOC_OBJECT.format(name=name, extra=extra, box="".join(f"<{side}>{at}</{side}>" for side, at in sides))


def write_voc(root: Path, objects: dict[str, list[str]], *, lists: dict[str, list[str]] | None = None) -> None:
    """Annotations, images of 48 x 64, and lists of names by split."""
    for number, (stem, elements) in enumerate(objects.items()):
        write_image(root / "JPEGImages" / f"{stem}.jpg", seed=number)
        path = root / "Annotations" / f"{stem}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
        path.write_text(f"<annotation><filename>{stem}.jpg</filename>{size}{''.join(elements)}</annotation>")
    for split, stems in (lists or {}).items():
        path = root / "ImageSets" / "Main" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(stems) + "\n")


def write_yolo(root: Path, labels: dict[str, str | None], *, names: object = ("cat", "dog"), yaml: str = "") -> None:
    """data.yaml, and images of 48 x 64 with label files by 'split/stem'."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "data.yaml").write_text(f"names: {json.dumps(names)}\n{yaml}")
    for number, (stem, text) in enumerate(labels.items()):
        write_image(root / "images" / f"{stem}.jpg", seed=number)
        path = root / "labels" / f"{stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            path.write_text(text)


def data_config(root: Path, shards: Path, **changes) -> DataConfig:
    resize = [{"type": "resize_fixed", "height": 32, "width": 32}]
    values = {"name": "mine", "format": "coco", "root": str(root), "shards": str(shards)}
    return DataConfig(**{**values, "train_transforms": resize, "test_transforms": resize, **changes})


def write_panoptic(root: Path, *, split: str = "train", instances: bool = False) -> None:
    """Two images of 48 x 64: in the first two things (the second a crowd region) over sky, in the second grass alone.

    Things have the categories 7 and 90, stuff 100 (grass) and 95 (sky); pixels at the right edge are of no segment.
    """
    names = [f"{split}_{number}" for number in range(2)]
    ids = np.zeros((2, 48, 64), np.int64)
    ids[0, :, :60], ids[0, 10:20, 5:25], ids[0, 30:40, 30:50] = 300, 70000, 5
    ids[1, :, :60] = 9
    for number, name in enumerate(names):
        write_image(root / "images" / f"{name}.jpg", seed=number)
        colours = np.stack([ids[number] % 256, ids[number] // 256 % 256, ids[number] // 65536], axis=2)
        path = root / "annotations" / f"panoptic_{split}" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours.astype(np.uint8)).save(path)
    images = [{"id": 100 + n, "file_name": f"{name}.jpg", "height": 48, "width": 64} for n, name in enumerate(names)]
    segments = [
        [{"id": 300, "category_id": 95}, {"id": 70000, "category_id": 90}, {"id": 5, "category_id": 7, "iscrowd": 1}],
        [{"id": 9, "category_id": 100}],
    ]
    kinds = {7: "cat", 90: "dog", 95: "sky", 100: "grass"}
    document = {
        "images": images,
        "annotations": [
            {"image_id": 101 - n, "file_name": f"{names[1 - n]}.png", "segments_info": segments[1 - n]}
            for n in range(2)
        ],
        "categories": [{"id": key, "name": name, "isthing": int(key < 95)} for key, name in kinds.items()],
    }
    (root / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(document))
    if instances:
        document["annotations"] = [coco_annotation(1, 100), coco_annotation(2, 100, category_id=90)]
        document["images"] = [*images[::-1], {**images[0], "id": 7, "file_name": "another.jpg"}]
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))

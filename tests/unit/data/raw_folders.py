"""Small raw folders in each format, for the tests of readers, prepare and sources."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from detcore.config.data import DataConfig


def write_image(path: Path, *, height: int = 48, width: int = 64, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(height: int, width: int, bits: int, pixels: bytes) -> bytes:
    """An RGB PNG of `bits` a channel; `pixels` without the filter byte of each row, or nothing at all."""
    length = len(pixels) // height
    rows = b"".join(b"\0" + pixels[row * length : (row + 1) * length] for row in range(height if pixels else 0))
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


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


def write_lvis(root: Path) -> None:
    """lvis_v1_{train,val}.json of two images and one, and COCO's folders: one image of train is COCO's val2017.

    Categories are 3 (rare, in no image), 5 (common) and 8 (frequent).
    """
    places = {
        "train": ["train2017/000000000009.jpg", "val2017/000000000025.jpg"],
        "val": ["train2017/000000000030.jpg"],
    }
    kinds = {3: ("aerosol_can", "r"), 5: ("airplane", "c"), 8: ("apple", "f")}
    for split, paths in places.items():
        images, annotations = [], []
        for path in paths:
            number = int(Path(path).stem)
            write_image(root / path, seed=number)
            url = f"http://images.cocodataset.org/{path}"
            known = {"neg_category_ids": [3, 5], "not_exhaustive_category_ids": [8]} if number == 9 else {}
            images.append(
                {"id": number, "coco_url": url, "height": 48, "width": 64, "license": 1}
                | ({"neg_category_ids": [], "not_exhaustive_category_ids": []} | known)
            )
            annotation = coco_annotation(number, number, category_id=8 if number == 9 else 5)
            annotations.append({key: value for key, value in annotation.items() if key != "iscrowd"})
        categories = [
            {"id": key, "name": name, "frequency": frequency, "synset": f"{name}.n.01", "synonyms": [name], "def": "",
             "image_count": 1, "instance_count": 1}
            for key, (name, frequency) in kinds.items()
        ]  # fmt: skip
        document = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
        (root / f"lvis_v1_{split}.json").write_text(json.dumps(document))


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]


def write_cityscapes(root: Path, *, split: str = "train", city: str = "bochum", numbers: int = 1) -> None:
    """Images of 48 x 64: road, on it a car, half of it behind another car, a group of persons, a hidden bicycle."""
    objects = [
        {"label": "road", "polygon": [[0, 0], [63, 0], [63, 47], [0, 47]]},
        {"label": "bicycle", "polygon": square(24, 12, 2)},
        {"label": "car", "polygon": square(10, 10, 9)},
        {"label": "car", "polygon": square(15, 10, 15)},
        {"label": "persongroup", "polygon": square(40, 30, 5)},
        {"label": "license plate", "polygon": square(16, 12, 3)},
        {"label": "car", "polygon": square(1, 1, 3), "deleted": 1},
        {"label": "out of roi", "polygon": [[0, 0], [63, 0], [63, 1], [0, 1]]},
    ]
    ids = np.full((48, 64), 7, np.uint8)
    ids[10:20, 10:20], ids[10:26, 15:31], ids[30:36, 40:46], ids[:2] = 26, 26, 24, 3
    for number in range(numbers):
        stem = f"{split}/{city}/{city}_{number:06d}_000019"
        write_image(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", seed=number)
        polygons = root / "gtFine" / f"{stem}_gtFine_polygons.json"
        polygons.parent.mkdir(parents=True, exist_ok=True)
        polygons.write_text(json.dumps({"imgHeight": 48, "imgWidth": 64, "objects": objects}))
        Image.fromarray(ids).save(root / "gtFine" / f"{stem}_gtFine_labelIds.png")


OPEN_IMAGES_BOXES = """\
ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside
000595fe6fee6369,xclick,/m/02xwb,1,0.25,0.75,0.125,0.5,0,0,1,0,0
0001eeaf4aed83f9,xclick,/m/0cmf2,1,0.022673031,0.9642005,0.07103825,0.80054647,0,0,0,0,0
000595fe6fee6369,xclick,/m/04yx4,1,0.5,1,0,0.375,0,0,0,1,-1
"""
OPEN_IMAGES_LABELS = """\
ImageID,Source,LabelName,Confidence
0001eeaf4aed83f9,verification,/m/0cmf2,1
0001eeaf4aed83f9,verification,/m/04yx4,0
0001eeaf4aed83f9,verification,/m/09j2d,1
000595fe6fee6369,verification,/m/0cmf2,0
000595fe6fee6369,verification,/m/0unboxable,1
00075905539074f2,verification,/m/02xwb,0
"""
OPEN_IMAGES_CLASSES = "/m/02xwb,Fruit\n/m/04yx4,Man\n/m/0cmf2,Airplane\n/m/09j2d,Clothing\n"


def write_open_images(root: Path, *, split: str = "train", prefix: str = "", labels: bool = True) -> None:
    """Tables of boxes and of verified labels for three images of 48 x 64, the last without boxes."""
    for seed, name in enumerate(("0001eeaf4aed83f9", "000595fe6fee6369", "00075905539074f2")[: 2 + labels]):
        write_image(root / split / f"{name}.jpg", seed=seed)
    (root / f"{prefix}{split}-annotations-bbox.csv").write_text(OPEN_IMAGES_BOXES)
    (root / "class-descriptions-boxable.csv").write_text(OPEN_IMAGES_CLASSES)
    if labels:
        (root / f"{prefix}{split}-annotations-human-imagelabels-boxable.csv").write_text(OPEN_IMAGES_LABELS)


def write_dota(root: Path) -> None:
    """train/labelTxt/P0000.txt and train/images/P0000.png of 48 x 64."""
    write_image(root / "train" / "images" / "P0000.png")
    path = root / "train" / "labelTxt" / "P0000.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "imagesource:GoogleEarth\ngsd:0.14\n10 10 30 10 30 20 10 20 plane 0\n20 25 30 35 25 40 15 30 ship 1\n"
    )


def write_semantic(root: Path) -> None:
    """images/train/0.jpg of 48 x 64 and annotations/train/0.png of the ids 0, 1, 2 and 255."""
    write_image(root / "images" / "train" / "0.jpg")
    ids = np.tile(np.array([0, 1, 2, 255], np.uint8).repeat(16), (48, 1))
    path = root / "annotations" / "train" / "0.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path)

"""Annotation files that are broken in every way: read aright, or refused in one line that names the file.

A small true folder of each format is spoilt a little at a time, byte by byte and, where it is JSON, value by value.
"""

import copy
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from xml.dom import Node, expatbuilder

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from cvat_exports import write_cvat, write_cvat_video
from raw_folders import (
    coco_annotation,
    data_config,
    voc_object,
    write_cityscapes,
    write_coco,
    write_dota,
    write_lvis,
    write_open_images,
    write_panoptic,
    write_semantic,
    write_voc,
    write_yolo,
)

from detcore.data import prepare
from detcore.data.formats.cityscapes import THINGS
from detcore.data.report import SplitReport

RLE = {"size": [48, 64], "counts": [100, 10, 38, 10, 2914]}


def write_kinds(root: Path) -> None:
    """COCO's forms of segmentation, keypoints and a crowd region."""
    points = {"category_id": 90, "keypoints": [12, 8, 2, 14, 9, 1], "num_keypoints": 2}
    compressed = {"size": [48, 64], "counts": coco_mask.frPyObjects(RLE, 48, 64)["counts"].decode()}
    rows = [
        coco_annotation(1, 100),
        coco_annotation(2, 100, segmentation=RLE),
        coco_annotation(3, 101, **points),
        coco_annotation(4, 101, segmentation=compressed, iscrowd=1),
    ]
    write_coco(root, images=2, annotations=rows)
    path = root / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    document["categories"][1] |= {"keypoints": ["left", "right"], "skeleton": [[1, 2]], "supercategory": "animal"}
    path.write_text(json.dumps(document))


def write_rotated(root: Path) -> None:
    write_coco(root, images=2, annotations=[coco_annotation(n, 100, bbox=[30, 20, 10, 5, 0.5]) for n in (1, 2)])


def of_json(path: Path) -> tuple[int, int]:
    document = json.loads(path.read_text())
    return len(document["images"]), len(document["annotations"])


def of_segments(path: Path) -> tuple[int, int]:
    document = json.loads(path.read_text())
    things = [category["id"] for category in document["categories"] if category["isthing"]]
    kinds = [part["category_id"] for entry in document["annotations"] for part in entry["segments_info"]]
    return len(document["images"]), sum(kind in things for kind in kinds)


def of_polygons(path: Path) -> tuple[int, int]:
    entries = [entry for entry in json.loads(path.read_text())["objects"] if not entry.get("deleted")]
    return 1, sum(entry["label"].removesuffix("group") in THINGS for entry in entries)


def of_lines(path: Path) -> tuple[int, int]:
    lines = path.read_text("utf-8-sig").splitlines()
    return 1, sum(bool(line.strip()) and not line.startswith(("imagesource:", "gsd:")) for line in lines)


def of_rows(path: Path) -> tuple[int, int]:
    rows = [line for line in path.read_text("latin-1").splitlines()[1:] if line]
    return len({row.split(",")[0] for row in rows}), len(rows)


def elements(parent: Node, name: str | None = None) -> list[Node]:
    children = [child for child in parent.childNodes if child.nodeType == Node.ELEMENT_NODE]
    return [child for child in children if name in (None, child.nodeName)]


def of_voc(path: Path) -> tuple[int, int]:
    return 1, len(elements(expatbuilder.parse(str(path), namespaces=False).documentElement, "object"))


def of_cvat(path: Path) -> tuple[int, int]:
    images = elements(expatbuilder.parse(str(path), namespaces=False).documentElement, "image")
    return len(images), sum(len(elements(image)) for image in images)


@dataclass(frozen=True)
class Format:
    """How a folder is written, which of its files is spoilt, and how many images and objects that one speaks of."""

    write: Callable[[Path], object]
    file: str
    count: Callable[[Path], tuple[int, int]] | None = None
    settings: dict[str, Any] = field(default_factory=dict)


COCO = "annotations/instances_train.json"
FORMATS = {
    "coco": Format(write_kinds, COCO, of_json),
    "coco_rotated": Format(write_rotated, COCO, of_json, {"angles": "radians_cw"}),
    "lvis": Format(write_lvis, "lvis_v1_train.json", of_json),
    "coco_panoptic": Format(write_panoptic, "annotations/panoptic_train.json", of_segments),
    "cityscapes": Format(
        write_cityscapes, "gtFine/train/bochum/bochum_000000_000019_gtFine_polygons.json", of_polygons
    ),
    "voc": Format(
        lambda root: write_voc(root, {"a": [voc_object("cat", (5, 6, 20, 30)), voc_object("dog", (1, 2, 9, 9))]}),
        "Annotations/a.xml",
        of_voc,
    ),
    "yolo": Format(
        lambda root: write_yolo(root, {"train/a": "0 0.5 0.5 0.25 0.5\n1 0.25 0.25 0.75 0.25 0.75 0.75\n"}),
        "labels/train/a.txt",
        of_lines,
    ),
    "yolo names": Format(
        lambda root: write_yolo(root, {"train/a": "0 0.5 0.5 0.25 0.5\n"}, yaml="path: .\n"), "data.yaml"
    ),
    "dota": Format(write_dota, "train/labelTxt/P0000.txt", of_lines),
    "semantic": Format(
        write_semantic, "annotations/train/0.png", None, {"semantic": {"classes": ["a", "b", "c"]}, "val_fraction": 0}
    ),
    "open_images": Format(lambda root: write_open_images(root, labels=False), "train-annotations-bbox.csv", of_rows),
    "open_images labels": Format(write_open_images, "train-annotations-human-imagelabels-boxable.csv"),
    "open_images classes": Format(write_open_images, "class-descriptions-boxable.csv"),
    "cvat": Format(write_cvat, "annotations.xml", of_cvat),
    "cvat video": Format(write_cvat_video, "annotations.xml"),
}

NUMBERS = [
    b"-1", b"0", b"1e999", b"-1e999", b"nan", b"NaN", b"Infinity", b"1e30", b"99999999999999999999", b"2147483648",
    b"9223372036854775807", b"1" * 5000, b"0x10", b"1_0", b"1.5", b"", b"null", b'"7"', "٣".encode(),
]  # fmt: skip
TOKENS = [
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b"\r", b'"', b"'", b"<", b">", b"&", b"&lol;", b"{", b"}", b"[",
    b"]", b",", b";", b":", b"\\", b"\\ud800", b"\\u0000", b"[" * 3000, b"<a>" * 3000, b"{'a':" * 3000, b"*a", b"&a ",
    b"- ", b"../../", b"/" * 300, b"a" * 5000, b"<!DOCTYPE a [<!ENTITY b 'b'>]>", b"<!--", b"]]>", b"\xc3\x28",
    b"\xed\xa0\x80", b"  ", b"\t", b"#", b"true",
]  # fmt: skip
VALUES = [
    None, True, 0, -1, 1.5, 2**31, 2**70, 10**400, float("nan"), float("inf"), "", "x", "7", "../x", "a" * 5000,
    "\ud800", "a\0b", "a\nb", [], {}, [[]], [None], ["x"], [1, 2, 3], [1e400], {"counts": 5, "size": [48, 64]},
    {"counts": "o" * 400, "size": [48, 64]}, {"counts": [2**62] * 4 + [3072], "size": [48, 64]},
    {"counts": [3072], "size": [2**40, 1]},
]  # fmt: skip


def spoilt_bytes(data: bytes, random: np.random.Generator) -> bytes:
    """One small change, as an editor, a bad disk or an enemy would make it."""
    at, to = sorted(random.integers(0, len(data) + 1, 2).tolist())
    numbers = list(re.finditer(rb"-?\d+(?:\.\d+)?", data))
    match random.integers(0, 9):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + bytes([random.integers(0, 256)]) + data[at + 1 :]
        case 2:
            return data[:at] + data[min(to, at + 40) :]
        case 3:
            return data[:to] + data[at:to] + data[to:]
        case 4 | 5 if numbers:
            number = numbers[random.integers(0, len(numbers))]
            return data[: number.start()] + NUMBERS[random.integers(0, len(NUMBERS))] + data[number.end() :]
        case 6:
            return data + data[at:to]
        case _:
            return data[:at] + TOKENS[random.integers(0, len(TOKENS))] + data[at:]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value within a JSON document, the long lists' first and last alone."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1} if value else ()):
            yield from places(value[index], (*path, index))


def spoilt_values(document: Any) -> Iterator[tuple[str, str]]:
    """Every value of a document in turn left out, there twice, or another."""
    for path in places(document):
        for number, other in enumerate([*VALUES, "without", "twice"]):
            changed = copy.deepcopy(document)
            inner = changed
            for key in path[:-1]:
                inner = inner[key]
            if other == "without":
                del inner[path[-1]]
            elif other == "twice":
                if not isinstance(inner, list):
                    continue
                inner.append(inner[path[-1]])
            else:
                inner[path[-1]] = other
            yield f"{path} {number}", json.dumps(changed)


@pytest.fixture(params=FORMATS)
def folder(request, tmp_path):
    form = FORMATS[request.param]
    form.write(tmp_path / "raw")
    changes = {"val_fraction": 0.0, "test_fraction": 0.0, "max_corrupt_fraction": 1.0, **form.settings}
    config = data_config(tmp_path / "raw", tmp_path / "shards", format=request.param.split()[0], threads=1, **changes)
    return form, config, tmp_path / "raw" / form.file


def outcome(config, path: Path) -> SplitReport | str:
    """The report, or what the refusal says."""
    try:
        return prepare(config, seed=0, progress=False).splits["train"]
    except ValueError as error:
        message = str(error)
        assert "\n" not in message and len(message) < 1500, message
        named = (path.name, path.parent.name, config.root)
        assert any(name in message for name in named), message
        return message


def check(form: Format, config, path: Path, what: str) -> bool:
    """Whether the file was read: then nothing that it says may be lost without a word."""
    try:
        found = outcome(config, path)
    except Exception as error:
        error.add_note(f"spoilt: {what}: {path.read_bytes()[:3000]!r}")
        raise
    if isinstance(found, str) or form.count is None:
        return not isinstance(found, str)
    images, objects = form.count(path)
    assert found.images + len(found.skipped) + len(found.absent) == images, (what, path.read_bytes()[:3000])
    if not found.skipped:  # with an image that cannot be read, and is named, go its objects
        told = found.objects + sum(map(len, found.dropped.values()))
        assert told == objects, (what, path.read_bytes()[:3000])
    return True


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [40, pytest.param(1500, marks=pytest.mark.slow)])
def test_spoilt_bytes_are_read_aright_or_refused(folder, number):
    form, config, path = folder
    data = path.read_bytes()
    assert check(form, config, path, "nothing")
    random = np.random.default_rng(0)
    read = 0
    for index in range(number):
        path.write_bytes(spoilt_bytes(data, random))
        read += check(form, config, path, f"bytes {index}")
        shutil.rmtree(config.shards, ignore_errors=True)
    assert 0 < read < number


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "folder", [name for name, form in FORMATS.items() if form.file.endswith(".json")], indirect=True
)
@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_spoilt_values_are_read_aright_or_refused(folder, every):
    form, config, path = folder
    for what, text in islice(spoilt_values(json.loads(path.read_text())), 0, None, every):
        path.write_text(text)
        check(form, config, path, what)
        shutil.rmtree(config.shards, ignore_errors=True)


@pytest.mark.parametrize("text", ["", " \n", "\ufeff", "[" * 5_000, "<a>" * 5_000, "\0" * 100])
def test_what_is_nothing_of_the_kind_is_refused(folder, text):
    form, config, path = folder
    path.write_text(text)
    found = outcome(config, path)
    # A label file without a line is an image without objects.
    assert (
        isinstance(found, str) or found.skipped or (form.count is of_lines and not text.strip()) or form.count is None
    )

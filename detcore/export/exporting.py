"""Exports a published model: writes it, compares it with PyTorch on images, and only then gives it its name."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from detcore.export.graph import DetectorGraph, named, traced
from detcore.export.parity import Difference, compare
from detcore.export.to_onnx import write_onnx
from detcore.export.to_openvino import write_openvino
from detcore.export.to_torch import read_torch, write_torch
from detcore.inference import Predictor, load_exported, load_folder
from detcore.inference.folder import DESCRIPTION, parse_description, predictor_of
from detcore.inference.preprocessing import Preprocessing
from detcore.inference.sources import ImageSource, Source, Video, expand, read_rgb

Format = Literal["onnx", "torch", "openvino"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIX: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2", "openvino": ".xml"}
_NOT_EXPORTED = {
    "panoptic": "panoptic maps are merged outside of the network; export mask_rcnn or semantic_fpn",
    "rotated": "other runtimes have no operators for rotated boxes",
}
_AT_ONCE = 4
"""Images in a batch at most when both are compared."""


def export(folder: Path, file: Path, *, format: Format, images: Source) -> Difference:
    """Writes the whole detector, NMS included, to `file`.

    It takes any number of images of any size (see `DetectorGraph`). It is run on `images` and must see what the
    published model sees in PyTorch: boxes to 0.5 px of the network's input, scores to 0.001.

    Args:
        folder: of the published model.
        file: with the suffix of the format; replaced if it exists. OpenVINO's weights lie beside it, in a .bin.
        format: one of FORMATS.
        images: to compare on.

    Returns:
        By how much both differ.

    Raises:
        ValueError: the model or this format cannot be exported, an image cannot be read, or both differ.
    """
    if file.suffix != SUFFIX[format]:
        raise ValueError(f"{file}: a model in the format {format} is a {SUFFIX[format]} file")
    if not file.absolute().parent.is_dir():
        raise ValueError(f"{file}: there is no folder {file.parent}")
    pictures = [read_rgb(_one_image(source)) for source in expand(images)[0]]
    predictor = load_folder(folder, device="cpu")
    for kind, why in _NOT_EXPORTED.items():
        if kind in getattr(predictor.model, "predicts", ()):
            raise ValueError(f"{folder}: predicts {kind}: {why}")
    batches = list(_batches(predictor, pictures))
    expected = [predictor.detect(batch)[1] for batch in batches]
    with tempfile.TemporaryDirectory(dir=file.absolute().parent, prefix=".export-") as place:
        written = Path(place) / file.name
        _write(predictor, written, format, outputs=tuple(named(expected[0])), text=(folder / DESCRIPTION).read_text())
        exported = _load(written, format)
        difference = Difference()
        for batch, seen in zip(batches, expected, strict=True):
            difference += compare(seen, exported.detect(batch)[1])
        if not difference.small:
            raise ValueError(f"{file} is not written: as {format} the model sees other things ({difference})")
        for part in sorted(Path(place).iterdir()):  # OpenVINO's weights before what names them
            part.replace(file.with_name(part.name))
    return difference


def _one_image(source: ImageSource | Video) -> ImageSource:
    if isinstance(source, Video):
        raise ValueError(f"{source}: a video; both are compared on images")
    return source


def _write(predictor: Predictor, file: Path, format: Format, *, outputs: tuple[str, ...], text: str) -> None:
    preprocessing = predictor.preprocessing
    assert isinstance(preprocessing, Preprocessing)
    model = predictor.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    graph = DetectorGraph(model, image_mean=preprocessing.image_mean, image_std=preprocessing.image_std).eval()
    program = traced(graph, size_divisor=preprocessing.size_divisor)
    match format:
        case "onnx":
            write_onnx(program, outputs, file, description=text)
        case "torch":
            write_torch(program, file, description=text)
        case "openvino":
            write_openvino(program, outputs, file, description=text)


def _load(file: Path, format: Format) -> Predictor:
    if format != "torch":
        return load_exported(file, device="cpu")
    detector, text = read_torch(file)
    description = parse_description(text, place=str(file))
    return predictor_of(detector, description, device=torch.device("cpu"), normalizes=True)


def _batches(predictor: Predictor, pictures: Sequence[NDArray[np.uint8]]) -> Iterator[list[NDArray[np.uint8]]]:
    """Pictures of one padded size together."""
    groups: dict[tuple[int, ...], list[NDArray[np.uint8]]] = defaultdict(list)
    for picture in pictures:
        groups[predictor.preprocessing.padded_size(picture)].append(picture)
    for group in groups.values():
        for start in range(0, len(group), _AT_ONCE):
            yield group[start : start + _AT_ONCE]

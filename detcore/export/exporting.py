"""Exports a published model: writes it, compares it with PyTorch on images, and only then gives it its name."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from detcore.export.folding import folded
from detcore.export.graph import INPUTS, DetectorGraph, named, traced
from detcore.export.parity import Difference, compare_up_to_ties
from detcore.export.quantization import INT8_METADATA, Int8, Int8Cost, add_onnx_metadata, cost_of, quantize_onnx
from detcore.export.to_onnx import write_onnx
from detcore.export.to_openvino import add_openvino_metadata, convert_onnx
from detcore.export.to_torch import write_compiled, write_torch
from detcore.inference import Predictor, load_exported, load_folder
from detcore.inference.exported import Arrays
from detcore.inference.folder import DESCRIPTION
from detcore.inference.preprocessing import Preprocessing
from detcore.inference.sources import ImageSource, Source, Video, expand, read_rgb
from detcore.structures.batch import Batch, Detections

Format = Literal["onnx", "torch", "openvino", "aoti"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIX: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2", "openvino": ".xml", "aoti": ".pt2"}
QUANTIZED: tuple[Format, ...] = ("onnx", "openvino")
"""Formats that int8 is for."""
_NOT_EXPORTED = {
    "panoptic": "panoptic maps are merged outside of the network; export mask_rcnn or semantic_fpn",
    "rotated": "other runtimes have no operators for rotated boxes",
}
_NUDGE = 1e-4
_AT_ONCE = 4
"""Images in a batch at most when both are compared."""

Pictures = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        difference: between the file in float32 and the published model in PyTorch.
        int8: what int8 changed; None where the file is in float32.
    """

    difference: Difference
    int8: Int8Cost | None = None

    def __str__(self) -> str:
        return str(self.difference) if self.int8 is None else f"{self.difference}; {self.int8}"


def export(folder: Path, file: Path, *, format: Format, images: Source, int8: Int8 | None = None) -> Exported:
    """Writes the whole detector, NMS included, to `file`.

    It takes any number of images of any size (see `DetectorGraph`). It is run on `images` and must see what the
    published model sees in PyTorch: boxes to 0.5 px of the network's input, scores to 0.001.

    Args:
        folder: of the published model.
        file: with the suffix of the format; replaced if it exists. OpenVINO's weights lie beside it, in a .bin.
        format: one of FORMATS.
        images: to compare on.
        int8: once the file sees the same, quantise it so; for ONNX and OpenVINO.

    Returns:
        By how much they differ.

    Raises:
        ValueError: the model or this format cannot be exported, an image cannot be read, both differ, or int8 costs
            more than it may.
    """
    if file.suffix != SUFFIX[format]:
        raise ValueError(f"{file}: a model in the format {format} is a {SUFFIX[format]} file")
    if not file.absolute().parent.is_dir():
        raise ValueError(f"{file}: there is no folder {file.parent}")
    if int8 is not None and format not in QUANTIZED:
        raise ValueError(f"int8: for the formats {' and '.join(QUANTIZED)}; a {SUFFIX[format]} is in float32")
    pictures = [read_rgb(_one_image(source)) for source in expand(images)[0]]
    predictor = load_folder(folder, device="cpu")
    _refuse(predictor.model, folder)
    with tempfile.TemporaryDirectory(dir=file.absolute().parent, prefix=".export-") as place:
        written = Path(place, "float32", file.name)
        written.parent.mkdir()
        text = (folder / DESCRIPTION).read_text()
        difference = _write_compared(predictor, pictures, written, format, text=text, file=file)
        cost = None
        if int8 is not None:
            written, cost = _quantized(predictor, written, int8, file=file)
        for part in sorted(path for path in written.parent.glob(f"{file.stem}.*") if path.suffix in _parts(format)):
            part.replace(file.with_name(part.name))  # OpenVINO's weights before what names them
    return Exported(difference=difference, int8=cost)


def _refuse(model: nn.Module, folder: Path) -> None:
    """Raises ValueError where it is known that no graph can be made of a model."""
    for kind, why in _NOT_EXPORTED.items():
        if kind in getattr(model, "predicts", ()):
            raise ValueError(f"{folder}: predicts {kind}: {why}")
    if getattr(getattr(model, "limits", None), "soft_nms", "none") != "none":
        raise ValueError(
            f"{folder}: suppresses by Soft-NMS, which takes a round for each detection: in model.json, set "
            'model.selection.soft_nms to "none", whose suppression is exported'
        )


def _parts(format: Format) -> tuple[str, ...]:
    return (".bin", ".xml") if format == "openvino" else (SUFFIX[format],)


def _one_image(source: ImageSource | Video) -> ImageSource:
    if isinstance(source, Video):
        raise ValueError(f"{source}: a video; both are compared on images")
    return source


def _write_compared(
    predictor: Predictor, pictures: Pictures, written: Path, format: Format, *, text: str, file: Path
) -> Difference:
    """Writes it, and beside OpenVINO's the ONNX file that it was made from; `file` is its name in messages.

    Raises:
        ValueError: it sees other things than `predictor` in the pictures.
    """
    batches = list(_batches(predictor, pictures))
    expected = [predictor.detect(some) for some in batches]
    _write(predictor, written, format, outputs=tuple(named(expected[0][1])), text=text)
    exported = load_exported(written, device="cpu", trusted=True)
    difference = Difference()
    for some, (batch, seen) in zip(batches, expected, strict=True):
        try:
            found = exported.detect(some)[1]
        except Exception as error:  # runtimes' classes have no base of their own
            why = " ".join(str(error).split())[:300]
            raise ValueError(
                f"{file} is not written: as {format} it does not run on images of this size: {why}"
            ) from error
        difference += compare_up_to_ties(seen, found, partial(_nudged, predictor, batch))
    if not difference.small:
        raise ValueError(f"{file} is not written: as {format} the model sees other things ({difference})")
    return difference


@torch.inference_mode()
def _nudged(predictor: Predictor, batch: Batch, seed: int) -> Detections:
    """What the model sees of a batch whose pixels differ by up to a ten-thousandth of their distance to the mean."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(batch.images.shape, generator=generator).mul_(2 * _NUDGE).sub_(_NUDGE)
    detections: Detections = predictor.model.detect(replace(batch, images=batch.images * (1 + noise)))  # type: ignore[operator]
    return detections


def _write(predictor: Predictor, file: Path, format: Format, *, outputs: tuple[str, ...], text: str) -> None:
    preprocessing = predictor.preprocessing
    assert isinstance(preprocessing, Preprocessing)
    model = folded(predictor.model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    graph = DetectorGraph(model, image_mean=preprocessing.image_mean, image_std=preprocessing.image_std).eval()
    program = traced(graph, size_divisor=preprocessing.size_divisor)
    match format:
        case "torch":
            write_torch(program, outputs, file, description=text)
        case "aoti":
            write_compiled(program, outputs, file, description=text)
        case "onnx" | "openvino":
            onnx = file.with_suffix(".onnx")
            write_onnx(program, outputs, onnx, description=text)
            if format == "openvino":
                convert_onnx(onnx, file)


def _quantized(predictor: Predictor, written: Path, settings: Int8, *, file: Path) -> tuple[Path, Int8Cost]:
    """The float32 file in int8, in a folder of its own, with what that costs in its metadata.

    Raises:
        ValueError: it cannot be quantised, or that costs more than it may.
    """
    target = written.parent.with_name("int8") / written.name
    target.parent.mkdir()
    onnx = target.with_suffix(".onnx")
    quantize_onnx(written.with_suffix(".onnx"), onnx, _inputs(predictor, settings.pictures))
    if target != onnx:
        convert_onnx(onnx, target)
    cost = cost_of(settings, float32=load_exported(written, device="cpu"), int8=load_exported(target, device="cpu"))
    if cost.loss > settings.max_loss:
        raise ValueError(
            f"{file} is not written: {cost}: a loss of {cost.loss:.2f} points, more than {settings.max_loss:g}; "
            "--max-ap-loss allows more, and without --int8 nothing is lost"
        )
    add = add_onnx_metadata if target == onnx else add_openvino_metadata
    add(target, {INT8_METADATA: json.dumps(cost.metadata)})
    return target, cost


def _inputs(predictor: Predictor, pictures: Pictures) -> Iterator[Arrays]:
    """Pictures one by one, as the file takes them."""
    preprocessing = predictor.preprocessing
    assert isinstance(preprocessing, Preprocessing)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.image_mean, preprocessing.image_std))
    for picture in pictures:
        batch = preprocessing.batch([picture], torch.device("cpu"))
        values = (batch.images * std + mean).numpy(), batch.image_sizes.numpy()
        yield dict(zip(INPUTS, values, strict=True))


def _batches(predictor: Predictor, pictures: Pictures) -> Iterator[list[NDArray[np.uint8]]]:
    """Pictures of one padded size together."""
    groups: dict[tuple[int, ...], list[NDArray[np.uint8]]] = defaultdict(list)
    for picture in pictures:
        groups[predictor.preprocessing.padded_size(picture)].append(picture)
    for group in groups.values():
        for start in range(0, len(group), _AT_ONCE):
            yield group[start : start + _AT_ONCE]

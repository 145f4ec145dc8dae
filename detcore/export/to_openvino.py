"""An ONNX file to OpenVINO's two files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detcore.inference.exported import needed


def convert_onnx(onnx: Path, file: Path) -> None:
    """Writes the .xml file and its .bin, in the number formats of the ONNX file; its metadata as runtime information.

    Raises:
        ValueError: a package is missing, or an operator has no form in OpenVINO.
    """
    openvino: Any = needed("openvino")
    try:
        model = openvino.convert_model(str(onnx))
    except Exception as error:  # its classes have no base of their own
        raise ValueError(f"OpenVINO: {' '.join(str(error).split())[:300]}") from error
    metadata = {entry.key: entry.value for entry in needed("onnx").load(str(onnx)).metadata_props}
    for key, text in metadata.items():
        model.set_rt_info(text, [key])
    openvino.save_model(model, str(file), compress_to_fp16=False)


def add_openvino_metadata(file: Path, metadata: Mapping[str, str]) -> None:
    """Puts texts into OpenVINO's files."""
    openvino: Any = needed("openvino")
    model = openvino.Core().read_model(str(file))
    for key, text in metadata.items():
        model.set_rt_info(text, [key])
    again = file.with_name(f"again-{file.name}")  # the weights are still read from the old one
    openvino.save_model(model, str(again), compress_to_fp16=False)
    for suffix in (".bin", ".xml"):
        again.with_suffix(suffix).replace(file.with_suffix(suffix))

"""A traced detector to OpenVINO's files, by way of ONNX."""

from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from detcore.export.to_onnx import write_onnx
from detcore.inference.exported import METADATA, needed


def write_openvino(program: ExportedProgram, outputs: tuple[str, ...], file: Path, *, description: str) -> None:
    """Writes the .xml file and its .bin, in float32, with `model.json`'s text as runtime information.

    Raises:
        ValueError: a package is missing, or an operator has no form in ONNX or OpenVINO.
    """
    openvino: Any = needed("openvino")
    onnx = file.with_suffix(".onnx")
    write_onnx(program, outputs, onnx, description=description)
    try:
        model = openvino.convert_model(str(onnx))
    except Exception as error:  # its classes have no base of their own
        raise ValueError(f"OpenVINO: {' '.join(str(error).split())[:300]}") from error
    finally:
        onnx.unlink()
    model.set_rt_info(description, [METADATA])
    openvino.save_model(model, str(file), compress_to_fp16=False)

"""A traced detector to an ONNX file."""

import contextlib
import io
import logging
from pathlib import Path

import torch
from torch.export import ExportedProgram

from detcore.export.graph import INPUTS
from detcore.inference.exported import METADATA, needed

OPSET = 18


def write_onnx(program: ExportedProgram, outputs: tuple[str, ...], file: Path, *, description: str) -> None:
    """Writes one file, with NMS and RoIAlign in ONNX's own operators and `model.json`'s text as metadata.

    Args:
        program: of `traced`.
        outputs: names of what it gives.
        file: to be written.
        description: the text.

    Raises:
        ValueError: a package is missing, or an operator has no form in ONNX.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        needed(package)
    from detcore.export.onnx_operators import translations

    known = translations()
    used = {node.target for node in program.graph.nodes if str(node.target).startswith("detcore.")}
    unknown = sorted({str(target).split(".")[1] for target in used if target not in known})
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: there is no form of this in ONNX; export as torch")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            model = torch.onnx.export(
                program,
                dynamo=True,
                custom_translation_table=known,
                opset_version=OPSET,
                input_names=INPUTS,
                output_names=outputs,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ValueError(f"ONNX: {_reason(error)}") from error
    assert model is not None
    model.model.metadata_props[METADATA] = description
    model.save(str(file), external_data=False)


def _reason(error: BaseException) -> str:
    """What the first cause says, in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]

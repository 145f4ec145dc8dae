"""A traced detector to a file of torch.export, that runs without the model's code."""

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from detcore.inference.exported import METADATA, Arrays, ExportedDetector

_EXTRA = f"{METADATA}.json"
_OPERATORS = "operators.json"


def write_torch(program: ExportedProgram, file: Path, *, description: str) -> None:
    """Writes a .pt2 file, with two extra files.

    They are detcore.json, the text of `model.json`, and operators.json: the schemas, by name, of the operators that
    PyTorch does not have, for processes that load libdetcore_cpu.so without detcore.
    """
    extra = {_EXTRA: description, _OPERATORS: json.dumps(_schemas(program))}
    torch.export.save(program, file, extra_files=extra)


def _schemas(program: ExportedProgram) -> dict[str, str]:
    own = [node.target for node in program.graph.nodes if str(node.target).startswith("detcore.")]
    return {target.name(): str(target._schema).removeprefix(target._schema.name) for target in own}


def read_torch(file: Path) -> tuple[ExportedDetector, str]:
    """A file that this process wrote, and the text in it."""
    extra = {_EXTRA: ""}
    module = torch.export.load(file, extra_files=extra).module()

    def run(images: NDArray[np.float32], image_sizes: NDArray[np.int64]) -> Arrays:
        found = module(torch.from_numpy(images), torch.from_numpy(image_sizes))
        return {name: value.numpy() for name, value in found.items()}

    return ExportedDetector(run, frozenset()), extra[_EXTRA]

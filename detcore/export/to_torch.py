"""A traced detector to a file that PyTorch runs without the model's code."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.export import ExportedProgram

from detcore.inference.programs import DESCRIPTION, OPERATORS, OUTPUTS, add_extra

_COMPILED_WITH = {
    # As many threads as the process has that runs it, not the one that compiled it.
    "cpp.dynamic_threads": True,
    # Of the code that calls the kernels, not of them: it is long, and takes no time when it runs.
    "aot_inductor.compile_wrapper_opt_level": "O0",
}


def write_torch(program: ExportedProgram, outputs: Sequence[str], file: Path, *, description: str) -> None:
    """Writes a .pt2 file of torch.export, with three extra files.

    They are detcore.json, the text of `model.json`; outputs.json, the names of what it gives; and operators.json: the
    schemas, by name, of the operators that PyTorch does not have, for processes that load libdetcore_cpu.so without
    detcore.
    """
    torch.export.save(program, file)
    add_extra(file, _extra(program, outputs, description))


def write_compiled(program: ExportedProgram, outputs: Sequence[str], file: Path, *, description: str) -> None:
    """Writes a package of AOTInductor, machine code for this kind of processor, with the same extra files.

    Raises:
        ValueError: PyTorch is older than 2.14, there is no C++ compiler, or it or AOTInductor fails.
    """
    if torch.__version__ < "2.14":
        raise ValueError(f"AOTInductor of PyTorch {torch.__version__}: what it compiles can crash; 2.14 is needed")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns that there is no CUDA
    try:
        torch._inductor.aoti_compile_and_package(program, package_path=str(file), inductor_configs=dict(_COMPILED_WITH))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"AOTInductor: {' '.join(str(error).split())[:300]}") from error
    add_extra(file, _extra(program, outputs, description))


def _extra(program: ExportedProgram, outputs: Sequence[str], description: str) -> dict[str, str]:
    own = [node.target for node in program.graph.nodes if str(node.target).startswith("detcore.")]
    schemas = {target.name(): str(target._schema).removeprefix(target._schema.name) for target in own}
    return {DESCRIPTION: description, OPERATORS: json.dumps(schemas), OUTPUTS: json.dumps(list(outputs))}

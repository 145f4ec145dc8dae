"""`.pt2` files that `detcore export` wrote, run by PyTorch: programs of torch.export, and packages of AOTInductor.

Both run code of their own: loading one is for those who trust whoever made it. What it says of itself is read without.
"""

import json
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detcore.ops import native

DESCRIPTION, OPERATORS, OUTPUTS = "detcore.json", "operators.json", "outputs.json"
"""Extra files of a .pt2: `model.json`'s text; the schemas of our operators, by name; the names of what it gives."""
_EXTRA = "/extra/"
_COMPILED = "/data/aotinductor/"


def add_extra(file: Path, texts: Mapping[str, str]) -> None:
    """Puts texts beside what is in a .pt2 file."""
    with zipfile.ZipFile(file, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        for name, text in texts.items():
            archive.writestr(f"{root}{_EXTRA}{name}", text)


def read_extra(file: Path) -> tuple[dict[str, str], bool]:
    """The texts beside what is in a .pt2 file, and whether that is machine code; runs none of it.

    Raises:
        ValueError: it is no such file.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            kept = [name for name in names if name.partition(_EXTRA)[2] in (DESCRIPTION, OPERATORS, OUTPUTS)]
            texts = {name.partition(_EXTRA)[2]: archive.read(name).decode() for name in kept}
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: is no .pt2 file of PyTorch: {error}") from error
    return texts, any(_COMPILED in name for name in names)


def in_torch(file: Path, device: str) -> tuple[Any, frozenset[str], str]:
    """What runs a .pt2 file (see `exported.Run`), the names of what it gives, and the text of `model.json`.

    Raises:
        ValueError: PyTorch cannot load it here, or detcore did not write it: then nothing of it has run.
    """
    if device not in ("auto", "cpu"):
        raise ValueError(f"device {device!r}: a .pt2 of detcore runs on cpu")
    texts, compiled = read_extra(file)
    if not {DESCRIPTION, OPERATORS, OUTPUTS} <= set(texts):
        return None, frozenset(), ""
    if json.loads(texts[OPERATORS]) and not native.serves("cpu"):
        raise ValueError(f"{file}: needs detcore's native operators, which are not here: detcore doctor says why")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns that there is no CUDA
    try:
        # Guards ask that memory lies as it did for the batch that was traced; what is computed does not depend on it.
        call: Any = (
            torch._inductor.aoti_load_package(str(file))
            if compiled
            else torch.export.load(file).module(check_guards=False)
        )
    except Exception as error:  # whatever an archive of others makes it raise
        raise ValueError(f"{file}: PyTorch cannot load it: {' '.join(str(error).split())[:200]}") from error

    def run(images: NDArray[np.float32], image_sizes: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        found = call(torch.from_numpy(images), torch.from_numpy(image_sizes))
        return {name: value.numpy() for name, value in found.items()}

    return run, frozenset(json.loads(texts[OUTPUTS])), texts[DESCRIPTION]

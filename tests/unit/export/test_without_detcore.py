"""Exported files in processes that have no detcore, as docs/export.md tells their users."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import detcore
from detcore.export import export
from detcore.ops import native

pytest.importorskip("onnxruntime", reason="detcore's extra `export` is not installed")
pytest.importorskip("onnxscript", reason="detcore's extra `export` is not installed")

ABSENT = """\
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""
"""What makes packages absent from a process."""


def run_without(absent: set[str], code: str, *arguments: str | Path, folder: Path) -> str:
    prelude = ABSENT.format(absent=absent)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", prelude + code, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mask_rcnn", "semantic_fpn"])
def test_onnx_runtime_numpy_and_pillow_are_enough(
    published: Callable[[str], Path],
    pictures: Path,
    tmp_path: Path,
    repository: Path,
    request: pytest.FixtureRequest,
    family: str,
) -> None:
    if family == "mask_rcnn":
        folder, file = request.getfixturevalue("mask_rcnn_onnx")
    else:
        folder, file = published(family), tmp_path / "model.onnx"
        export(folder, file, format="onnx", images=pictures)
    image = pictures / "1.png"
    script = (repository / "examples" / "onnx_predict.py").read_text()
    seen = json.loads(run_without({"detcore", "torch"}, script, file, image, "0.1", folder=tmp_path))
    expected = detcore.load(folder, device="cpu").predict(image, score_threshold=0.1)
    assert [one["class"] for one in seen["objects"]] == list(expected.class_names)
    boxes = np.array([one["box_xyxy"] for one in seen["objects"]]).reshape(-1, 4)
    np.testing.assert_allclose(boxes, expected.boxes_xyxy, atol=0.5)
    if family == "mask_rcnn":
        assert len(boxes)
        pixels = [one["mask_pixels"] for one in seen["objects"]]
        np.testing.assert_allclose(pixels, expected.masks.sum(axis=(1, 2)), rtol=0.02, atol=3)
    else:
        number = np.bincount(expected.semantic.ravel(), minlength=len(seen["semantic_pixels"]))
        np.testing.assert_allclose(seen["semantic_pixels"], number[: len(seen["semantic_pixels"])], atol=300)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torch", "aoti"])
def test_a_program_needs_pytorch_and_the_library_of_operators(
    format: str, repository: Path, request: pytest.FixtureRequest
) -> None:
    file: Path = request.getfixturevalue(f"mask_rcnn_{format}")[1]
    library = native.load("cpu").library
    if library is None:
        pytest.skip("the native library cannot be built here")
    code = re.search(r"```python\n(import json.*?)```", (repository / "docs" / "export.md").read_text(), re.DOTALL)
    assert code is not None
    seen = run_without({"detcore", "torchvision", "timm"}, code[1], file, library, folder=file.parent)
    assert seen == "(3, 10, 4) (3, 10, 14, 14)\n"

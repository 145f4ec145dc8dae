"""Our operators in ONNX against their own references."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from detcore import ops
from detcore.ops import native

ort = pytest.importorskip("onnxruntime", reason="detcore's extra `export` is not installed")
pytest.importorskip("onnxscript", reason="detcore's extra `export` is not installed")

Run = Callable[..., list[np.ndarray]]


class _Calls(nn.Module):
    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> object:
        return self.function(*tensors)


def in_onnx(function: Callable[..., object], *example: Tensor) -> Run:
    """The function as onnxruntime runs it; the first two sizes of the first tensor may change, and so the others'."""
    from detcore.export.onnx_operators import translations

    with native.declared():
        shapes = [{0: Dim.AUTO, 1: Dim.AUTO} if tensor.dim() < 4 else {0: Dim.AUTO} for tensor in example]
        program = torch.export.export(_Calls(function), example, dynamic_shapes=(tuple(shapes),), strict=False)
    model = torch.onnx.export(program, dynamo=True, custom_translation_table=translations(), verbose=False)
    assert model is not None
    session = ort.InferenceSession(model.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda *tensors: session.run(None, dict(zip(names, (t.numpy() for t in tensors), strict=True)))


def some_boxes(batch: int, number: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(batch, number, 2, generator=generator) * 60
    return torch.cat((corner, corner + 2 + torch.rand(batch, number, 2, generator=generator) * 60), dim=-1)


@pytest.mark.parametrize("grouped", [True, False])
def test_nms_keeps_the_same_boxes_in_the_same_order(grouped: bool) -> None:
    def suppressed(boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        return ops.nms_padded(boxes, scores, groups if grouped else None, 0.5, 12, valid=valid if grouped else None)

    def data(batch: int, number: int, seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randint(-20, 20, (batch, number), generator=generator).float()  # logits, of which many are equal
        groups = torch.randint(0, 3, (batch, number), generator=generator)
        return some_boxes(batch, number, seed), scores, groups, torch.rand(batch, number, generator=generator) > 0.2

    run = in_onnx(suppressed, *data(2, 40, 0))
    for batch, number in ((1, 60), (3, 30), (2, 5)):
        tensors = data(batch, number, number)
        boxes, scores, groups, valid = tensors
        expected = ops.nms_padded(boxes, scores, groups if grouped else None, 0.5, 12, valid=valid if grouped else None)
        keep, count = run(*tensors)
        assert count.tolist() == expected[1].tolist()
        assert keep.tolist() == expected[0].tolist()


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_regions_are_pooled_from_the_level_of_their_size(sampling_ratio: int, aligned: bool) -> None:
    strides = (4, 8, 16)

    def pooled(boxes: Tensor, valid: Tensor, *features: Tensor) -> Tensor:
        return ops.multilevel_roi_align(
            features, boxes, strides, 5, sampling_ratio, canonical_size=24.0, canonical_level=3, valid=valid,
            aligned=aligned,
        )  # fmt: skip

    def data(batch: int, number: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(number)
        features = [torch.rand(batch, 6, 128 // s, 128 // s, generator=generator) for s in strides]
        boxes = some_boxes(batch, number, number)
        boxes[0, 0] = torch.tensor([3.0, 5.0, 27.0, 29.0])  # between two levels
        boxes[0, 1] = 0.0
        return boxes, torch.rand(batch, number, generator=generator) > 0.3, *features

    run = in_onnx(pooled, *data(2, 9))
    for batch, number in ((1, 20), (3, 4)):
        tensors = data(batch, number)
        np.testing.assert_allclose(run(*tensors)[0], pooled(*tensors).numpy(), atol=1e-5)

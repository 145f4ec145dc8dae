"""detcore's operators in those of ONNX."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset18

op: Any = opset18  # its annotations tell apart every type of number
Value = Any
"""A value of the graph that is being built."""


def nms_padded(
    boxes: Value, scores: Value, groups: Value, valid: Value, iou_threshold: float, max_keep: Value
) -> tuple[Value, Value]:
    """`detcore.ops.nms_padded` by NonMaxSuppression: a group is one of its classes.

    It gets ranks for scores: exact, above 0 where a box counts, and different where scores are the same.
    """
    number = op.Shape(scores, start=1, end=2)  # (1,): N
    if valid is not None:
        scores = op.Where(valid, scores, op.Constant(value_float=float("-inf")))
    _, order = op.TopK(scores, number)  # of equal ones the lower index first
    places = op.Range(op.Squeeze(number), op.Constant(value_int=0), op.Constant(value_int=-1))  # N for the best, to 1
    ranks = op.Cast(op.ScatterElements(order, order, op.Expand(places, op.Shape(order)), axis=1), to=1)
    nothing = op.Constant(value_float=0.0)
    if valid is not None:
        ranks = op.Where(valid, ranks, nothing)
    of_groups = op.Unsqueeze(ranks, op.Constant(value_ints=[1]))  # (B, 1, N)
    if groups is not None:
        one = op.Constant(value_int=1)
        ids = op.Range(op.Constant(value_int=0), op.Add(op.ReduceMax(groups, keepdims=0), one), one)
        member = op.Equal(op.Unsqueeze(groups, op.Constant(value_ints=[1])), op.Unsqueeze(ids, [1]))
        of_groups = op.Where(member, of_groups, nothing)  # (B, G, N)
    most = op.Reshape(max_keep, op.Constant(value_ints=[1]))
    selected = op.NonMaxSuppression(
        boxes, of_groups, most, op.Constant(value_floats=[iou_threshold]), op.Constant(value_floats=[0.5])
    )  # (M, 3): image, group, box
    index = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
    kept = op.ScatterND(op.Mul(ranks, nothing), index, op.GatherND(ranks, index))
    # There may be fewer boxes than are to be given.
    kept = op.Concat(kept, op.Expand(nothing, op.Concat(op.Shape(scores, start=0, end=1), most, axis=0)), axis=1)
    best, keep = op.TopK(kept, most)
    real = op.Greater(best, nothing)
    count = op.ReduceSum(op.Cast(real, to=7), op.Constant(value_ints=[1]), keepdims=0)
    return op.Where(real, keep, op.Constant(value_int=0)), count


def roi_align(
    features: Sequence[Value],
    rois: Value,
    valid: Value,
    scales: Sequence[float],
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
    canonical_size: float,
    canonical_level: int,
    channels_last: bool,
) -> Value:
    """The native operator behind `multilevel_roi_align`: each level pools its own RoIs, 0 for those not valid."""
    rows = op.Shape(rois, start=0, end=1)
    own = op.Expand(op.Constant(value_int=0), rows)  # (K,): the level of each RoI
    sides = op.Sub(_columns(rois, 3, 5), _columns(rois, 1, 3))
    size = op.Sqrt(op.ReduceProd(op.Relu(sides), op.Constant(value_ints=[1]), keepdims=0))
    for level in range(1, len(scales)):  # where a logarithm would round
        smallest = op.Constant(value_float=canonical_size * 2.0 ** (level - canonical_level))
        own = op.Add(own, op.Cast(op.GreaterOrEqual(size, smallest), to=7))
    if valid is not None:
        own = op.Where(valid, own, op.Constant(value_int=-1))
    channels = op.Shape(features[0], start=1, end=2)
    shape = op.Concat(rows, channels, op.Constant(value_ints=[height, width]), axis=0)
    pooled = op.Expand(op.Constant(value_float=0.0), shape)
    for level, (feature, scale) in enumerate(zip(features, scales, strict=True)):
        index = op.Transpose(op.NonZero(op.Equal(own, op.Constant(value_int=level))), perm=[1, 0])  # (M, 1)
        mine = op.GatherND(rois, index)
        part = op.RoiAlign(
            feature,
            _columns(mine, 1, 5),
            op.Cast(op.Squeeze(_columns(mine, 0, 1), op.Constant(value_ints=[1])), to=7),
            output_height=height,
            output_width=width,
            sampling_ratio=sampling_ratio,
            spatial_scale=scale,
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
        )
        pooled = op.ScatterND(pooled, index, part)
    return pooled


def stable_sort(values: Value, stable: bool = True, dim: int = -1, descending: bool = False) -> tuple[Value, Value]:
    """torch's own, which its exporter lacks; in float32, which runtimes sort."""
    values = op.Cast(values, to=1)
    number = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
    best, order = op.TopK(values, number, axis=dim, largest=int(descending))
    return best, order


def remainder(values: Value, other: Value) -> Value:
    """torch's own of integers; its exporter takes no divisor that is known only when it runs."""
    return op.Mod(values, op.CastLike(other, values))


def _columns(values: Value, first: int, stop: int) -> Value:
    """(K, N) -> (K, stop - first)."""
    return op.Slice(
        values, op.Constant(value_ints=[first]), op.Constant(value_ints=[stop]), op.Constant(value_ints=[1])
    )


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What `torch.onnx.export` is to put in place of our operators."""
    return {
        torch.ops.detcore.nms_padded.default: nms_padded,
        torch.ops.detcore.roi_align.default: roi_align,
        torch.ops.aten.sort.stable: stable_sort,
        torch.ops.aten.remainder.Scalar: remainder,
    }

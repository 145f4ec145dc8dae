"""The GPU gives what the CPU gives, and what a training step uses never makes the host wait for it."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from detcore import ops
from detcore.structures.batch import Polygons

GENERATOR = torch.Generator().manual_seed(0)


def uniform(*shape: int) -> Tensor:
    return torch.rand(shape, generator=GENERATOR)


CORNER = uniform(2, 60, 2) * 90
BOXES = torch.cat((CORNER, CORNER + uniform(2, 60, 2) * 60 + 1), dim=2)
BOXES[0, 0, 1], BOXES[1, 3, 2] = torch.nan, torch.inf
ROTATED = torch.cat((CORNER, uniform(2, 60, 2) * 40 + 1, uniform(2, 60, 1) * 360), dim=2)
SCORES, GROUPS = uniform(2, 60), torch.randint(0, 3, (2, 60), generator=GENERATOR)
VALID = uniform(2, 60) < 0.8
PYRAMID = [uniform(2, 3, 128 // stride, 128 // stride) for stride in (4, 8, 16)]
ROIS = torch.cat((torch.arange(2.0).repeat_interleave(60)[:, None], BOXES.reshape(-1, 4)), dim=1)
ROTATED_ROIS = torch.cat((ROIS[:, :1], ROTATED.reshape(-1, 5)), dim=1)
MASKS = uniform(60, 28, 28)
ATTENTION = (uniform(2, 20, 2, 4), uniform(2, 9, 2, 2, 3, 2), uniform(2, 9, 2, 2, 3))
CONVOLUTION = (uniform(2, 4, 9, 9), uniform(2, 18, 7, 7) * 4 - 2, uniform(5, 4, 3, 3))

WITHOUT_WAITING: dict[str, tuple[Callable[..., object], tuple[object, ...]]] = {
    "nms_padded": (lambda b, s, g, v: ops.nms_padded(b, s, g, 0.5, 20, valid=v), (BOXES, SCORES, GROUPS, VALID)),
    "nms_rotated_padded": (lambda b, s, g: ops.nms_rotated_padded(b, s, g, 0.3, 20), (ROTATED, SCORES, GROUPS)),
    "keyed_uniform": (lambda i, c: ops.keyed_uniform(7, 8, i, 9, c), (torch.arange(5), torch.arange(1000))),
    "match_anchors": (
        lambda a, g, v: ops.match_anchors(a, g, v, (0.3, 0.5), True),
        (BOXES[0], BOXES[:, :9], VALID[:, :9]),
    ),
    "roi_align": (lambda f, r: ops.roi_align(f, r, 7, 0.25, 0), (PYRAMID[0], ROIS)),
    "multilevel_roi_align": (
        lambda f, b, v: ops.multilevel_roi_align(f, b, (4, 8, 16), 7, canonical_size=64.0, valid=v),
        (PYRAMID, BOXES, VALID),
    ),
    "roi_align_rotated": (lambda f, r: ops.roi_align_rotated(f, r, 7, 0.25, 2), (PYRAMID[0], ROTATED_ROIS)),
    "paste_masks": (lambda m, b: ops.paste_masks(m, b, (90, 110), 0.5), (MASKS, BOXES[0])),
    "focal": (lambda x, t: ops.sigmoid_focal_loss(x, t), (SCORES * 9 - 4, VALID.float())),
    "ciou": (lambda a, b: ops.ciou_loss(a, b), (BOXES[0, 5:], BOXES[1, 5:])),
    "deform_conv2d": (lambda x, o, w: ops.deform_conv2d(x, o, w), CONVOLUTION),
    "ms_deform_attn": (lambda v, x, w: ops.ms_deform_attn(v, [(4, 4), (2, 2)], x, w), ATTENTION),
}

WAITING: dict[str, tuple[Callable[..., object], tuple[object, ...]]] = {
    "nms": (lambda b, s: ops.nms(b, s, 0.5), (BOXES[0], SCORES[0])),
    "batched_nms": (lambda b, s, g: ops.batched_nms(b, s, g, 0.5), (BOXES[0, 4:], SCORES[0, 4:], GROUPS[0, 4:])),
    "box_iou_rotated": (ops.box_iou_rotated, (ROTATED[0], ROTATED[1])),
    "nms_rotated": (lambda b, s: ops.nms_rotated(b, s, 0.5), (ROTATED[0], SCORES[0])),
    "roi_align_rotated": (lambda f, r: ops.roi_align_rotated(f, r, 7, 0.25, 0), (PYRAMID[0], ROTATED_ROIS)),
    "polygon_roi_masks": (
        lambda v, s, c, o, b: ops.polygon_roi_masks(Polygons(v, s, c, o), b, torch.zeros_like(b[..., 0]).long(), 14),
        (uniform(2, 9, 2) * 99, torch.zeros(2, 1).long(), torch.full((2, 1), 9), torch.zeros(2, 1).long(), BOXES),
    ),
}


def on(device: str, value: object) -> object:
    if isinstance(value, list):
        return [on(device, item) for item in value]
    return value.to(device) if isinstance(value, Tensor) else value


@pytest.fixture
def waiting_is_an_error() -> Iterator[None]:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def assert_same(gpu: object, cpu: object) -> None:
    torch.testing.assert_close(
        on("cpu", list(gpu) if isinstance(gpu, tuple) else gpu), list(cpu) if isinstance(cpu, tuple) else cpu
    )


@pytest.mark.gpu
@pytest.mark.parametrize("name", WITHOUT_WAITING)
def test_the_gpu_agrees_without_the_host_waiting(name: str, waiting_is_an_error: None) -> None:
    function, arguments = WITHOUT_WAITING[name]
    torch.cuda.set_sync_debug_mode("default")
    moved = [on("cuda", a) for a in arguments]
    function(*moved)  # a first call may allocate and load
    torch.cuda.set_sync_debug_mode("error")
    got = function(*moved)
    torch.cuda.set_sync_debug_mode("default")
    assert_same(got, function(*arguments))


@pytest.mark.gpu
@pytest.mark.parametrize("name", WAITING)
def test_the_gpu_agrees(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    function, arguments = WAITING[name]
    assert_same(function(*[on("cuda", a) for a in arguments]), function(*arguments))


@pytest.mark.gpu
@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_the_gpu_warps_like_the_cpu(angle: float) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    image = (uniform(40, 50, 3) * 255).to(torch.uint8)
    cos, sin = torch.tensor(angle).cos() * 1.2, torch.tensor(angle).sin()
    geometry = torch.tensor([[[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]])

    def warp(device: str) -> Tensor:
        return ops.warp_normalize(
            [image.to(device)],
            geometry,
            torch.eye(3, 4)[None],
            (64, 64),
            content_sizes=torch.tensor([[48, 60]]),
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        ).cpu()

    difference = (warp("cuda") - warp("cpu")).abs()
    # Grey levels: the roundings of both passes of a resize may fall to the other side.
    assert difference.max() <= 2.01 and difference.mean() <= 0.1


@pytest.mark.parametrize("name", ["keyed_uniform", "match_anchors", "multilevel_roi_align", "focal", "ciou"])
def test_what_a_step_uses_is_one_graph(name: str) -> None:
    function, arguments = WITHOUT_WAITING[name]
    compiled = torch.compile(function, backend="eager", fullgraph=True)
    assert_same(compiled(*arguments), function(*arguments))

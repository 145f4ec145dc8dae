"""What `detcore models` counts."""

import io
from pathlib import Path

import pytest
import torch
from small_detectors import NUM_CLASSES, SMALL
from torch import Tensor, nn

from detcore import recipes
from detcore.bench.flops import flops_of
from detcore.models import build_model
from detcore.ops import deform_conv2d


def build(name: str) -> nn.Module:
    return build_model(SMALL[name], num_classes=SMALL[name].num_classes or NUM_CLASSES).eval()


def test_arithmetic_is_that_of_the_layers() -> None:
    """2 multiply-adds for every weight and place, of all convolutions and linear layers as they really run."""
    model, counted = build("faster_rcnn"), []

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        counted.append(2 * layer.weight[0].numel() * output.numel())

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model.detect(recipes._batch((64, 96), 32))
    # What the RPN says of a place is one convolution, which calls no layer: 3 anchors x 5 numbers, filled up to 16.
    proposing = 2 * (16 * 16) * (16 * 24 + 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2)
    assert recipes._flops(build("faster_rcnn").to("meta"), (64, 96)) == sum(counted) + proposing


@pytest.mark.parametrize("name", SMALL)
def test_every_family_is_counted(name: str) -> None:
    small, large = (recipes._flops(build(name).to("meta"), size) for size in ((64, 64), (128, 128)))
    assert 0 < small < large


def test_deformable_convolutions_count() -> None:
    offset, weight = torch.zeros(2, 18, 10, 12, device="meta"), torch.zeros(16, 8, 3, 3, device="meta")
    counted = flops_of(lambda: deform_conv2d(torch.zeros(2, 8, 10, 12, device="meta"), offset, weight, padding=1))
    assert counted == 2 * (2 * 16 * 10 * 12) * (8 * 3 * 3)


def test_building_without_memory_keeps_what_constructors_compute_with() -> None:
    """A RegNet's widths come from values of tensors; a frozen norm copies another's."""
    with recipes._without_memory():
        assert torch.empty(2, 3).device.type == "cpu"
        assert torch.empty(1000, 1000).is_meta and torch.zeros(1000, 1000).device.type == "cpu"
    assert torch.empty(1000, 1000).device.type == "cpu"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            "# A detector.\n# make demo, 11 minutes: digits test box AP 61.6, mask AP 51.5.\n",
            ("digits test box AP 61.6, mask AP 51.5", "make demo, 11 minutes"),
        ),
        ("# A detector. BCCD test AP50 91.6.\n", ("BCCD test AP50 91.6", None)),
        ("# A detector (arXiv:1.2). Not run here on COCO.\ntype: x\n# later: AP 99.0\n", (None, None)),
    ],
)
def test_a_metric_is_read_from_the_header(tmp_path: Path, header: str, expected: tuple[str | None, str | None]) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(header)
    assert recipes._metric(recipes._header(file)) == expected


def test_what_was_reached_is_whole_in_a_narrow_terminal() -> None:
    from rich.console import Console

    found = [
        recipes.Recipe(
            name=name, type="mask_rcnn", what="", parameters=44_400_000, trained=None, num_classes=80, gflops=496.0,
            metric=metric, metric_from=None if metric is None else "make demo, 2 cores, 11 minutes with installation",
        )
        for name, metric in (("one", "digits test box AP 61.6, mask AP 51.5"), ("other", None))
    ]  # fmt: skip
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(recipes.table(found, size=(800, 1216)))
    said = " ".join(console.export_text().split())
    assert "one mask_rcnn 44.4 M 496" in said
    assert "one: digits test box AP 61.6, mask AP 51.5 (make demo, 2 cores, 11 minutes with installation)" in said
    assert "other:" not in said

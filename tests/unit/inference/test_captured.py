"""Which graphs are kept; and on a GPU, that they give what plain detection does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detcore.inference import Prediction, load_folder
from detcore.inference.captured import CapturedDetection, Detect
from detcore.structures.batch import Batch, Detections


def batch(height: int, *, rows: int = 1) -> Batch:
    sizes = torch.full((rows, 2), height)
    return Batch(
        images=torch.zeros(rows, 3, height, 32),
        image_sizes=sizes,
        sample_ids=torch.arange(rows),
        real=torch.ones(rows, dtype=torch.bool),
        original_sizes=sizes,
        geometry=torch.eye(3).repeat(rows, 1, 1),
        rng_key=torch.zeros(2, dtype=torch.int64),
    )


def detect(seen: Batch) -> Detections:
    nothing = torch.zeros(len(seen), 0)
    return Detections(torch.zeros(len(seen), 0, 4), nothing, nothing.long(), nothing.bool())


class Recorded:
    """Stands for a graph where there is no GPU: plain detection, and who was captured beside whom."""

    captures: list[tuple[int, int, "Recorded | None"]]

    def __init__(self, detect: Detect, batch: Batch, *, beside: "Recorded | None") -> None:
        self.detect = detect
        self.captures.append((len(batch), batch.images.shape[2], beside))

    def __call__(self, batch: Batch) -> Detections:
        assert torch.is_inference_mode_enabled()
        return self.detect(batch)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> CapturedDetection:
    monkeypatch.setattr(Recorded, "captures", [], raising=False)
    capture: Any = Recorded
    return CapturedDetection(detect, capacity=2, capture=capture)


def seen() -> list[tuple[int, int]]:
    return [(rows, height) for rows, height, _ in Recorded.captures]


def test_each_shape_is_captured_once(captured: CapturedDetection) -> None:
    for height, rows in ((32, 1), (32, 1), (32, 2), (32, 1)):
        assert len(captured(batch(height, rows=rows)).valid) == rows
    assert seen() == [(1, 32), (2, 32)]


def test_the_pixels_dtype_is_of_the_shape(captured: CapturedDetection) -> None:
    captured(batch(32))
    captured(batch(32).map(lambda tensor: tensor.half() if tensor.is_floating_point() else tensor))
    assert seen() == [(1, 32), (1, 32)]


def test_the_last_used_are_kept(captured: CapturedDetection) -> None:
    for height in (32, 64, 32, 96, 32, 64):  # 96 takes the place of 64, and 64 that of 96
        captured(batch(height))
    assert [height for _, height in seen()] == [32, 64, 96, 64]


def test_graphs_share_memory(captured: CapturedDetection) -> None:
    for height in (32, 64, 96):
        captured(batch(height))
    (_, _, first), *later = Recorded.captures
    assert first is None and all(beside is not None for _, _, beside in later)


def test_there_are_no_graphs_on_a_cpu(published: Path) -> None:
    with pytest.raises(ValueError, match="cuda_graphs: there are none on cpu"):
        load_folder(published, device="cpu", cuda_graphs=True)


def test_half_precision_is_used(published: Path) -> None:
    images = [np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)]
    plain, half = (load_folder(published, device="cpu", precision=precision) for precision in ("fp32", "bf16"))
    first, second = (predictor.detect(images)[1].scores for predictor in (plain, half))
    assert not torch.equal(first, second)
    torch.testing.assert_close(first, second, rtol=0.1, atol=0.05)
    assert half.with_options(precision="fp32", cuda_graphs=False).detect(images)[1].scores.equal(first)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_replayed_detections_are_the_plain_ones(published: Path, precision: Any) -> None:
    random = np.random.default_rng(0)
    sizes = [(64, 96), (96, 64), (64, 96), (128, 96)]
    images = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    plain, captured = (
        load_folder(published, device="cuda", precision=precision, cuda_graphs=graphs) for graphs in (False, True)
    )
    for _ in range(2):  # captured, then replayed
        for batch_size in (1, 4):
            ours = captured.predict(images, score_threshold=0.0, batch_size=batch_size)
            theirs = plain.predict(images, score_threshold=0.0, batch_size=batch_size)
            assert isinstance(ours, list) and isinstance(theirs, list)
            for one, other in zip(ours, theirs, strict=True):
                assert isinstance(one, Prediction) and len(one) > 0
                np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
                np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=1e-2)

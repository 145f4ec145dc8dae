"""The views of test-time augmentation, from images to predictions."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detcore.config import TTAConfig
from detcore.config.transforms import ResizeFixed, ResizeShortestEdge
from detcore.data import Sample, ShardedSplit, write_split
from detcore.inference import load_folder
from detcore.inference.preprocessing import Preprocessing
from detcore.inference.views import AugmentedPreprocessing, augmented_batches

CPU = torch.device("cpu")


def preprocessing(transform: ResizeShortestEdge | ResizeFixed) -> Preprocessing:
    return Preprocessing(transform=transform, image_mean=(0, 0, 0), image_std=(1, 1, 1), size_divisor=32)


def test_views_have_their_sizes_and_mirrors() -> None:
    own = preprocessing(ResizeShortestEdge(sizes=(64,), max_size=100))
    image = np.random.default_rng(0).integers(0, 255, (50, 100, 3), dtype=np.uint8)
    batch = AugmentedPreprocessing(own=own, tta=TTAConfig(sizes=(32, 96), max_size=128)).batch([image], CPU)
    assert batch.mirrored == (False, True, False, True)
    # The longest side holds 96 back to 64 x 128, and the model's own to 50 x 100.
    sizes = [view.image_sizes[0].tolist() for view in (batch, *batch.views)]
    assert sizes == [[50, 100], [32, 64], [32, 64], [64, 128], [64, 128]]
    for plain, mirror in (batch.views[:2], batch.views[2:]):
        torch.testing.assert_close(plain.images.flip(-1), mirror.images, atol=1.0, rtol=0)  # a grey level
    moved = batch.views[1].geometry[0] @ torch.tensor([100.0, 50.0, 1.0])
    torch.testing.assert_close(moved, torch.tensor([0.0, 32.0, 1.0]))


def test_sizes_follow_the_model_where_none_are_stated() -> None:
    plain = TTAConfig(flip=False)
    shortest = AugmentedPreprocessing(own=preprocessing(ResizeShortestEdge(sizes=(80,), max_size=100)), tta=plain)
    transforms = [view.transform for view, _ in shortest.views]
    assert transforms == [ResizeShortestEdge(sizes=(s,), max_size=m) for s, m in ((60, 75), (80, 100), (100, 125))]
    fixed = AugmentedPreprocessing(own=preprocessing(ResizeFixed(height=80, width=160)), tta=plain)
    assert [(view.transform.height, view.transform.width) for view, _ in fixed.views] == [
        (60, 120),
        (80, 160),
        (100, 200),
    ]


def test_an_image_is_predicted_alike_in_any_company(
    published: Path, draw_scene: Callable[[int, int, int], Image.Image]
) -> None:
    predictor = load_folder(published, device="cpu").augmented(TTAConfig(sizes=(64, 96)))
    scenes = [draw_scene(120, 150, 1), draw_scene(150, 120, 2), draw_scene(120, 151, 3)]
    together = predictor.predict(scenes, score_threshold=0.0)
    assert sum(map(len, together)) and together[0].masks.shape[1:] == (120, 150)
    for scene, found in zip(scenes, together, strict=True):
        alone = predictor.predict(scene, score_threshold=0.0)
        np.testing.assert_allclose(alone.scores, found.scores, atol=1e-4)
        np.testing.assert_allclose(alone.boxes_xyxy, found.boxes_xyxy, atol=0.05)


def test_batches_of_a_split_are_all_its_images(tmp_path: Path) -> None:
    images = [np.full((height, 40, 3), 10 * n, np.uint8) for n, height in enumerate((40, 60, 40, 40, 60))]
    samples = [
        Sample(image=image, boxes_xyxy=np.zeros((0, 4)), labels=np.zeros(0, np.int64), image_id=n, file_name=f"{n}.png")
        for n, image in enumerate(images)
    ]
    write_split(samples, tmp_path, split="test", categories=["x"])
    views = AugmentedPreprocessing(own=preprocessing(ResizeShortestEdge(sizes=(32,), max_size=64)), tta=TTAConfig())
    split = ShardedSplit.open(tmp_path, "test")
    batches = list(augmented_batches(split, views, batch_size=3, device=CPU, dtype=torch.float64))
    assert [batch.sample_ids.tolist() for batch in batches] == [[0, 2], [1], [3], [4]]
    for batch in batches:
        for view in (batch, *batch.views):
            assert view.images.dtype == torch.float64 and view.sample_ids.equal(batch.sample_ids)
            shade = 10.0 * batch.sample_ids[:, None]
            torch.testing.assert_close(view.images[:, :, 4, 4], shade.expand(-1, 3).double(), atol=1.0, rtol=0)


def test_settings_of_tta_are_checked(
    published: Path, scenes: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    assert run_cli("predict", published, scenes / "a.jpg", "--tta", "--tta-sizes", "64,96", "--score", "0")[0] == 0
    code, _, error = run_cli("predict", published, scenes / "a.jpg", "--tta", "--tta-sizes", "64x96")
    assert code == 2 and "--tta-sizes 64x96: give sides in pixels" in error
    code, _, error = run_cli("predict", published, scenes / "a.jpg", "--tta-no-flip")
    assert code == 2 and "settings of --tta" in error


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    from detcore.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run

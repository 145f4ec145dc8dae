from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from detcore.config import DataConfig
from detcore.config.transforms import ResizeFixed, ResizeShortestEdge, Transform
from detcore.data import Sample, ShardedSplit, write_split
from detcore.data.build import build_loader
from detcore.evaluation import Evaluator, GroundTruth, ImageDetections
from detcore.inference import Prediction, Predictor, load_folder
from detcore.inference.reading import read_ahead
from detcore.inference.sources import Source, read_rgb

SceneMaker = Callable[[int, int, int], Image.Image]


@pytest.fixture
def predictor(published: Path) -> Predictor:
    return load_folder(published, device="cpu")


def one(predictor: Predictor, source: Source, **options: Any) -> Prediction:
    found = predictor.predict(source, **options)
    assert isinstance(found, Prediction)
    return found


def many(predictor: Predictor, source: Source, **options: Any) -> list[Prediction]:
    found = predictor.predict(source, **options)
    assert isinstance(found, list)
    return found


def assert_same(a: Prediction, b: Prediction) -> None:
    assert a.class_names == b.class_names
    np.testing.assert_allclose(a.scores, b.scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(a.boxes_xyxy, b.boxes_xyxy, rtol=0, atol=1e-2)


def evaluated(predictor: Predictor, split: ShardedSplit, transform: Transform) -> list[ImageDetections]:
    """What an evaluation would compare with the truth: the loader's batches, the model, the evaluator's conversion."""
    config = DataConfig(
        name="shapes",
        format="coco",
        root="",
        shards="",
        train_transforms=(transform,),
        test_transforms=(transform,),
        threads=1,
    )
    evaluator = Evaluator(GroundTruth(coco=split.to_coco()), predicts=("boxes", "masks"))
    with build_loader(
        split,
        config,
        train=False,
        batch_size=2,
        seed=0,
        image_mean=predictor.preprocessing.image_mean,
        image_std=predictor.preprocessing.image_std,
        device="cpu",
        size_divisor=32,
    ) as loader:
        for batch in loader:
            with torch.inference_mode():
                evaluator.add(batch, predictor.model.detect(batch))  # type: ignore[operator]
    return evaluator.state()[1][0]


@pytest.mark.parametrize(
    "transform", [ResizeShortestEdge(sizes=(96,), max_size=160), ResizeFixed(height=90, width=130)]
)
def test_predicts_what_the_evaluation_sees(
    tmp_path: Path, publish_changed: Callable[[dict[str, Any]], Path], draw_scene: SceneMaker, transform: Transform
) -> None:
    images = [np.asarray(draw_scene(h, w, seed)) for seed, (h, w) in enumerate([(120, 150), (150, 120), (120, 150)])]
    ring = np.array([[10.0, 10.0], [60.0, 10.0], [60.0, 50.0]])
    samples = [Sample(image=i, boxes_xyxy=[[10, 10, 60, 50]], labels=[0], polygons=[[ring]]) for i in images]
    write_split(samples, tmp_path / "shards", split="val", categories=("circle", "square", "bar"))
    split = ShardedSplit.open(tmp_path / "shards", "val")
    preprocessing = {
        "image_mean": [120.0, 115.0, 105.0],
        "image_std": [60.0, 59.0, 58.0],
        "transform": transform.model_dump(mode="json"),
        "size_divisor": 32,
    }
    predictor = load_folder(publish_changed({"preprocessing": preprocessing}), device="cpu")
    expected = {found.image_id: found for found in evaluated(predictor, split, transform)}
    for image_id, found in zip(split.image_ids.tolist(), many(predictor, images, score_threshold=0.0), strict=True):
        ours = expected[image_id]
        assert len(found) == len(ours.scores) > 5
        np.testing.assert_allclose(found.scores, ours.scores, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.boxes_xyxy, ours.boxes_xyxy, rtol=0, atol=1e-2)
        np.testing.assert_array_equal(found.labels, ours.labels)
        assert found.masks is not None and ours.rles is not None
        theirs = coco_mask.decode([{"size": found.masks.shape[1:], "counts": rle} for rle in ours.rles])
        # Float noise may move a pixel across the threshold.
        assert (theirs.transpose(2, 0, 1).astype(bool) != found.masks).mean() < 1e-4


def test_batch_mates_change_nothing(predictor: Predictor, scenes: Path) -> None:
    alone = [
        one(predictor, path, score_threshold=0.0) for path in (scenes / "a.jpg", scenes / "b.png", scenes / "c.PNG")
    ]
    for batch_size in (1, 2, 3):
        together = many(predictor, scenes, score_threshold=0.0, batch_size=batch_size)
        assert [found.name for found in together] == [found.name for found in alone]  # by name; the text is no image
        for a, b in zip(together, alone, strict=True):
            assert_same(a, b)


def test_every_kind_of_source(predictor: Predictor, scenes: Path) -> None:
    path = scenes / "b.png"
    image = Image.open(path)
    expected = one(predictor, path, score_threshold=0.0)
    assert len(expected) > 5
    for source in (str(path), image, np.asarray(image)):
        assert_same(one(predictor, source, score_threshold=0.0), expected)
    for several in ([path, image], str(scenes / "b*"), [str(scenes / "*.png")], [np.asarray(image)]):
        found = many(predictor, several, score_threshold=0.0)
        assert len(found) == (2 if several == [path, image] else 1)
        assert_same(found[-1], expected)
    assert many(predictor, scenes)[0].name == str(scenes / "a.jpg")


def test_what_is_predicted(predictor: Predictor, draw_scene: SceneMaker) -> None:
    found = one(predictor, draw_scene(120, 150, 1), score_threshold=0.5)
    everything = one(predictor, draw_scene(120, 150, 1), score_threshold=0.0)
    assert 0 < len(found) < len(everything)
    assert (found.height, found.width) == (120, 150)
    assert (found.scores >= 0.5).all() and (np.diff(everything.scores) <= 0).all()
    assert found.masks is not None and found.masks.shape == (len(found), 120, 150) and found.masks.dtype == bool
    assert (found.boxes_xyxy >= 0).all() and (found.boxes_xyxy <= (150, 120, 150, 120)).all()
    assert found.class_names == tuple(predictor.labels[label] for label in found.labels)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_any_colour_mode(predictor: Predictor, draw_scene: SceneMaker, mode: str, tmp_path: Path) -> None:
    image = draw_scene(120, 150, 1).convert(mode)
    path = tmp_path / "image.tif"
    image.save(path)
    assert_same(one(predictor, path, score_threshold=0.0), one(predictor, image, score_threshold=0.0))


@pytest.mark.parametrize(("mode", "dtype"), [("I;16", np.uint16), ("I", np.int32), ("F", np.float32)])
def test_deep_images_are_read_alike_from_memory_and_file(mode: str, dtype: type, tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535 if mode != "F" else 255, 12 * 16).astype(dtype).reshape(12, 16)
    image = Image.fromarray(ramp)
    assert image.mode == mode
    image.save(tmp_path / "deep.tif")
    read = read_rgb(image)
    np.testing.assert_array_equal(read, read_rgb(tmp_path / "deep.tif"))
    assert len(np.unique(read)) > 150  # scaled: nearly every grey is there, and white only at the end


def test_a_file_that_may_not_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.png: No such file"):
        read_rgb(tmp_path / "gone.png")


def test_a_files_orientation_is_applied(predictor: Predictor, draw_scene: SceneMaker, tmp_path: Path) -> None:
    upright = draw_scene(120, 150, 1)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees: the viewer turns it clockwise
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    found = one(predictor, tmp_path / "turned.png", score_threshold=0.0)
    assert (found.height, found.width) == (120, 150)
    assert_same(found, one(predictor, upright, score_threshold=0.0))


def grey(shape: tuple[int, ...], dtype: type = np.uint8) -> NDArray[Any]:
    return np.full(shape, 100, dtype=dtype)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.jpg", "nowhere.jpg: no such file or folder"),
        ("nowhere/*.jpg", r"nowhere/\*.jpg: matches no image"),
        ([], "no image in an empty list"),
        (3.0, "cannot predict on float"),
        (grey((10, 10)), r"must be \(H, W, 3\) uint8 in RGB order, got \(10, 10\)"),
        (grey((10, 10, 3), np.float32), "got .* float32"),
        (grey((0, 10, 3)), r"got \(0, 10, 3\)"),
    ],
)
def test_what_is_no_image_is_said_in_one_line(predictor: Predictor, source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        predictor.predict(source)
    assert "\n" not in str(error.value)


def test_files_that_are_no_images(predictor: Predictor, tmp_path: Path, scenes: Path) -> None:
    with pytest.raises(ValueError, match="no image in this folder"):
        (tmp_path / "empty").mkdir()
        predictor.predict(tmp_path / "empty")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes((scenes / "a.jpg").read_bytes()[:600])
    with pytest.raises(ValueError, match=r"broken.jpg: unreadable image"):
        predictor.predict(broken)
    with pytest.raises(ValueError, match="score_threshold 2"):
        predictor.predict(scenes, score_threshold=2)
    with pytest.raises(ValueError, match="batch_size 0"):
        predictor.predict(scenes, batch_size=0)


def test_images_read_ahead_keep_their_order(scenes: Path) -> None:
    sources: list[Any] = [
        scenes / "a.jpg",
        grey((4, 4)),
        Image.new("RGB", (5, 5)),
        scenes / "notes.txt",
        scenes / "b.png",
    ]
    missed: list[Any] = []
    found = list(read_ahead(sources * 3, lambda source, _: missed.append(source), ahead=4))
    readable = [sources[0], sources[2], sources[4]]
    assert [source for source, _ in found] == readable * 3
    assert missed[0] is sources[1] and missed[1::2] == [scenes / "notes.txt"] * 3
    for source, pixels in found:
        np.testing.assert_array_equal(pixels, read_rgb(source))
    with pytest.raises(ValueError, match=r"notes\.txt: unreadable image"):
        list(read_ahead(sources[3:], None, ahead=4))

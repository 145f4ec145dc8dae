"""`detcore data show`: pictures of samples are those that training sees, to the pixel."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.testing import assert_close

from detcore.cli import main
from detcore.config import load
from detcore.config.data import DataConfig
from detcore.data import KeypointLayout, Sample, ShardedSplit, build_loader, write_split
from detcore.inference.colours import class_colour
from detcore.inference.samples import ShownSample, show_samples

SIDE = 720  # drawn at this size, pictures are not enlarged
FLIP = [{"type": "resize_fixed", "height": SIDE, "width": SIDE}, {"type": "horizontal_flip", "probability": 1.0}]
MOVED = [
    {"type": "resize_shortest_edge", "sizes": [64, 96], "max_size": 160},
    {"type": "horizontal_flip"},
    {"type": "affine", "degrees": 20.0, "scale": [0.8, 1.2]},
    {"type": "color_jitter", "brightness": 0.3},
]


def data_config(transforms: list[dict]) -> DataConfig:
    values = {"name": "shapes", "format": "coco", "root": "none", "shards": "none", "train_transforms": transforms}
    return DataConfig(**values, test_transforms=transforms[:1] if transforms is FLIP else [FLIP[0]])


def rectangle(left: int, top: int, right: int, bottom: int, *, label: int = 0, **parts: object) -> Sample:
    """A white rectangle on black, with its box, outline and map."""
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[top:bottom, left:right] = 255
    ring = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)
    values = {"boxes_xyxy": [[left, top, right, bottom]], "polygons": [[ring]], "labels": [label], **parts}
    return Sample(image=image, **values)  # type: ignore[arg-type]


def shapes(folder: Path, number: int = 7) -> ShardedSplit:
    """Rectangles of two classes by turns, in both splits."""
    for split in ("train", "val"):
        samples = [
            rectangle(100 + 9 * n, 80, 400, 300 + 11 * n, label=n % 2, file_name=f"{n}.png") for n in range(number)
        ]
        write_split(samples, folder, split=split, categories=("even", "odd"), name="shapes")
    return ShardedSplit.open(folder, "train")


def shown(split: ShardedSplit, config: DataConfig, **options: object) -> list[ShownSample]:
    values = {"batch_size": 3, "seed": 5, "num": 100, **options}
    return list(show_samples(split, config, **values))  # type: ignore[arg-type]


def test_masks_and_boxes_lie_on_their_pixels(tmp_path: Path) -> None:
    write_split([rectangle(200, 100, 430, 300)], tmp_path, split="train", categories=("it",))
    (sample,) = shown(ShardedSplit.open(tmp_path, "train"), data_config(FLIP), plain=True)
    assert [view.caption for view in sample.views] == [
        "as stored: 720 x 720, 1 object",
        "epoch 0: 720 x 720 in a batch of 736 x 736, 1 of 1 object",
    ]
    colour = np.array(class_colour(0))
    for view, left, right in zip(sample.views, (200, SIDE - 430), (430, SIDE - 200), strict=True):
        pixels = np.asarray(view.picture).astype(int)
        tinted = np.abs(pixels - (0.6 * 255 + 0.4 * colour)).max(axis=2) <= 3
        rows, columns = np.nonzero(tinted)
        # All that is white is tinted but for the mask's rim and the inner half of the box's line, one pixel each.
        assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (left + 1, right - 1, 101, 299)
        assert tinted.sum() == (right - left - 2) * 198
        line = (np.abs(pixels - colour).max(axis=2) <= 6)[200]
        assert np.flatnonzero(line).tolist() == [left - 1, left, right - 1, right]
        assert (
            (pixels[330:] == 0).all() and (pixels[200, : left - 2] == 0).all() and (pixels[200, right + 2 :] == 0).all()
        )


def test_draws_are_the_rows_that_the_loader_gives(tmp_path: Path) -> None:
    split, config = shapes(tmp_path), data_config(MOVED)
    options = {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3, "device": "cpu", "batch_size": 3, "seed": 5}
    with build_loader(split, config, train=True, **options) as loader:
        epochs = [[next(loader) for _ in range(len(loader.plan(epoch)))] for epoch in range(2)]
        for epoch, batches in enumerate(epochs):
            for place, batch in enumerate(batches):
                for row in range(3):
                    one = loader.row(epoch=epoch, batch=place, row=row)
                    assert_close(one.images[0], batch.images[row], rtol=0, atol=0)
                    assert_close(one.targets.boxes_xyxy[0], batch.targets.boxes_xyxy[row], rtol=0, atol=0)
    order = [sample for batch in epochs[0] for sample in batch.sample_ids.tolist() if sample >= 0]
    samples = shown(split, config, draws=2)
    assert [sample.file_name for sample in samples] == [f"{number}.png" for number in order]
    for sample, number in zip(samples, order, strict=True):
        for view, batches in zip(sample.views, epochs, strict=True):
            (batch, row), *_ = [(b, b.sample_ids.tolist().index(number)) for b in batches if number in b.sample_ids]
            height, width = batch.image_sizes[row].tolist()
            assert f": {width} x {height} in a batch of" in view.caption
            content = batch.images[row, :, :height, :width].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
            far = np.asarray(Image.fromarray(content).resize(view.picture.size, Image.Resampling.BICUBIC))[-40:, -40:]
            np.testing.assert_array_equal(np.asarray(view.picture)[-40:, -40:], far)  # a corner without annotations


def test_an_evaluation_draws_each_sample_once_without_augmentation(tmp_path: Path) -> None:
    shapes(tmp_path)
    samples = shown(ShardedSplit.open(tmp_path, "val"), data_config(MOVED), draws=3)
    assert all(len(sample.views) == 1 for sample in samples)
    assert samples[0].views[0].caption.startswith("evaluation: 720 x 720 in a batch of 736 x 736, 1 of 1 object")


def test_mixed_images_are_said_to_be(tmp_path: Path) -> None:
    mosaic = [{"type": "mosaic", "probability": 1.0, "height": 1000, "width": 1000}, FLIP[0]]
    (sample,) = shown(shapes(tmp_path), data_config(mosaic), num=1)
    assert sample.views[0].caption.endswith("objects, mixed")


def test_an_epoch_without_a_sample_draws_none_of_it(tmp_path: Path) -> None:
    split, config = shapes(tmp_path), data_config(FLIP)
    weights = {"type": "class_weights", "weights": {"odd": 0.4}}
    found = shown(split, DataConfig(**{**config.model_dump(), "sampling": weights}), draws=6)
    draws = {sample.file_name: len(sample.views) for sample in found}
    assert set(draws) >= {"0.png", "2.png", "4.png", "6.png"} and all(number >= 1 for number in draws.values())
    assert min(draws.values()) < 6


def test_only_samples_of_the_classes_asked_for(tmp_path: Path) -> None:
    split = shapes(tmp_path)
    assert {sample.file_name for sample in shown(split, data_config(MOVED), classes=["odd"])} == {
        f"{number}.png" for number in (1, 3, 5)
    }
    assert len(shown(split, data_config(MOVED), num=2)) == 2
    with pytest.raises(ValueError, match="no class is called 'evn'; did you mean even"):
        shown(split, data_config(MOVED), classes=["evn"])
    with pytest.raises(ValueError, match="nothing to show: 100 samples of 0 draws"):
        shown(split, data_config(MOVED), draws=0)


def test_keypoints_rotated_boxes_and_maps_move_with_the_pixels(tmp_path: Path) -> None:
    semantic = np.full((SIDE, SIDE), 255, np.uint8)
    semantic[400:500, 100:300] = 1
    layout = KeypointLayout.of(("left_end", "right_end"), ((0, 1),))
    points = np.array([[[250.5, 150.5, 2.0], [350.5, 150.5, 0.0]]])
    sample = rectangle(200, 100, 400, 300, keypoints=points, semantic=semantic)
    write_split(
        [sample], tmp_path, split="train", categories=("it",), keypoints=layout, semantic_classes=("sky", "sea")
    )
    (found,) = shown(ShardedSplit.open(tmp_path, "train"), data_config(FLIP), plain=True)
    stored, flipped = (np.asarray(view.picture).astype(int) for view in found.views)
    sea = np.array(class_colour(1))
    for pixels, left in ((stored, 100), (flipped, SIDE - 300)):
        rows, columns = np.nonzero(np.abs(pixels - 0.4 * sea).max(axis=2) <= 2)
        # The first row and column of a region are its dark edge.
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (401, 499, left + 1, left + 199)
    assert (stored[150, 250] == 255).all() and (flipped[150, SIDE - 1 - 250] == 255).all()  # a point's white disc
    assert not (flipped[150, SIDE - 1 - 350] == 255).all()  # not labelled: not drawn


@pytest.fixture
def mini(shared: Path) -> list[str]:
    return ["data=coco_mini", f"data.root={shared / 'data' / 'coco_mini'}"]


def test_raw_data_that_nobody_prepared(mini: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    html, png, none = tmp_path / "a.html", tmp_path / "a.png", f"data.shards={tmp_path / 'none'}"
    options = ["--num", "2", "--draws", "2", "--plain", "--class", "person", "--html", str(html), "--png", str(png)]
    assert main(["data", "show", *mini, none, *options]) == 0
    assert not (tmp_path / "none").exists()
    page = html.read_text()
    assert page.count('src="data:image/jpeg;base64,') == 6 and "http" not in page
    assert Image.open(png).width == 3 * 480 + 4 * 12
    told = capsys.readouterr()
    assert told.out == f"{html} and {png}: 2 samples of train\n" and "not prepared" in told.err


def test_a_folder_of_shards(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETCORE_CONF", str(repository / "conf"))
    shapes(tmp_path / "shards")
    html = tmp_path / "a.html"
    assert main(["data", "show", str(tmp_path / "shards"), "data=digits", "--num", "3", "--html", str(html)]) == 0
    page = html.read_text()
    assert "3 of 7 samples, seed 0" in page and page.count("160 x 160 in a batch of 160 x 160") == 6  # caption and alt
    assert load(["data=digits"]).data.train_transforms[0].type == "resize_fixed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "detcore data show: nowhere: no such folder"),
        (["FOLDER", "FOLDER"], "detcore data show: 2 folders: "),
        (["FOLDER"], "detcore data show: FOLDER is in none of the formats coco, coco_panoptic, voc"),
        (
            ["data=digits", "data.root=FOLDER/no", "data.shards=FOLDER/no"],
            "detcore data show: FOLDER/no: the raw data of",
        ),
        (["data=digits", "--png", "a.xyz"], "detcore data show: --png a.xyz: name it *.png or *.jpg or *.webp"),
        (["data=digits", "--html", "FOLDER"], "detcore data show: --html FOLDER: no file can be written there"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["data", "show", *(word.replace("FOLDER", str(tmp_path)) for word in arguments)]) == 2
    told = capsys.readouterr()
    assert told.err.startswith(message.replace("FOLDER", str(tmp_path))) and told.err.count("\n") == 1

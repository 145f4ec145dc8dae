"""Image files that are damaged, odd or made to do harm: at prepare and at load, each named in one line.

Expected pixels are those that the files were made of.
"""

import io
import re

import numpy as np
import pytest
from PIL import Image
from raw_folders import coco_annotation, data_config, png, write_coco

from detcore.config.data import MAX_IMAGE_PIXELS
from detcore.data import ShardedSplit, build_loader, prepare
from detcore.data.decoding import decode
from detcore.data.images import read_image, store_image

HEIGHT, WIDTH = 48, 64  # what `write_coco` declares


def smooth() -> np.ndarray:
    """Survives JPEG within a few grey levels."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([4 * rows, 3 * columns, 255 - 4 * rows], axis=2).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def animation(kind: str) -> bytes:
    frames = [Image.fromarray(smooth()), Image.fromarray(255 - smooth())]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


JPEG = encoded(Image.fromarray(smooth()), "JPEG", quality=95)
PNG = encoded(Image.fromarray(smooth()), "PNG")
SIXTEEN_BITS = np.random.default_rng(0).integers(0, 2**16, (HEIGHT, WIDTH)).astype(np.uint16)
SEE_THROUGH = Image.fromarray(smooth()).convert("RGBA")
SEE_THROUGH.putalpha(Image.fromarray(smooth()[..., 0]))
PALETTE = Image.fromarray(smooth()).quantize(64)

REFUSED = {
    "empty.jpg": (b"", "an empty file"),
    "html.jpg": (b"<html>not found</html>", "of no known format"),
    "cut.jpg": (JPEG[: len(JPEG) // 2], "(?i:truncated)"),
    "cut.png": (PNG[: len(PNG) // 2], "truncated|decompress|broken"),
    "header.jpg": (JPEG[:100], "unreadable image"),
    "moving.gif": (animation("GIF"), "an animation of 2 frames"),
    "moving.png": (animation("PNG"), "an animation of 2 frames"),
    "moving.webp": (animation("WEBP"), "an animation of 2 frames"),
    "bomb.png": (
        png(10_000, 9_000, 8, b""),
        "9000 x 10000 pixels, refused: more than data.max_image_pixels = 89478485",
    ),
    "bigger.png": (png(60_000, 60_000, 8, b""), "no file of so many is read|exceeds limit"),
}

TAKEN = {  # the pixels, how far from them, and what the file becomes
    "cmyk.jpg": (encoded(Image.fromarray(smooth()).convert("CMYK"), "JPEG", quality=95), smooth(), 8, "jpg"),
    "grey.jpg": (encoded(Image.fromarray(smooth()[..., 0]), "JPEG", quality=95), smooth()[..., :1], 4, "jpg"),
    "turned.jpg": (
        encoded(Image.fromarray(np.rot90(smooth())), "JPEG", quality=95, exif=exif(6)),
        smooth(),
        8,
        "jpg",
    ),
    "deep_grey.png": (encoded(Image.fromarray(SIXTEEN_BITS), "PNG"), (SIXTEEN_BITS >> 8)[..., None], 0, "png"),
    "deep.png": (
        png(HEIGHT, WIDTH, 16, (smooth().astype(np.uint16) * 256 + 255).astype(">u2").tobytes()),
        smooth(),
        0,
        "png",
    ),
    "see_through.png": (encoded(SEE_THROUGH, "PNG"), smooth(), 0, "png"),
    "palette.png": (encoded(PALETTE, "PNG", transparency=3), np.asarray(PALETTE.convert("RGB")), 0, "png"),
    "still.gif": (encoded(PALETTE, "GIF"), np.asarray(PALETTE.convert("RGB")), 0, "png"),
    "still.webp": (encoded(Image.fromarray(smooth()), "WEBP", lossless=True), smooth(), 0, "png"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_file_is_an_error_of_one_line(name):
    data, why = REFUSED[name]
    with pytest.raises(ValueError, match=why) as caught:
        store_image(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", TAKEN)
def test_an_odd_file_becomes_one_that_all_decoders_read_alike(name):
    data, pixels, tolerance, extension = TAKEN[name]
    stored = store_image(data)
    assert (stored.height, stored.width, stored.extension) == (HEIGHT, WIDTH, extension)
    found = decode(stored.data, size=(HEIGHT, WIDTH))
    assert np.abs(found.astype(int) - pixels).max() <= tolerance
    if extension == "png":
        assert stored.data[24] == 8  # bits a channel


def test_the_limit_of_pixels_can_be_raised_and_lowered():
    with pytest.raises(ValueError, match=r"64 x 48 pixels, refused: more than data\.max_image_pixels = 3071"):
        read_image(PNG, max_pixels=HEIGHT * WIDTH - 1)
    assert read_image(PNG, max_pixels=HEIGHT * WIDTH)[0].size == (WIDTH, HEIGHT)


def folder_of_all(tmp_path):
    """Every bad and odd file, and 20 good ones."""
    names = [*REFUSED, *TAKEN]
    annotations = [coco_annotation(n + 1, 100 + n) for n in range(20 + len(names))]
    write_coco(tmp_path / "raw", images=20 + len(names), annotations=annotations)
    for number, name in enumerate(names):
        data = (REFUSED | TAKEN)[name][0]
        (tmp_path / "raw" / "images" / f"train_{20 + number:03d}.jpg").write_bytes(data)
    return {f"train_{20 + number:03d}.jpg": name for number, name in enumerate(names)}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_prepare_names_what_it_leaves_out_and_takes_the_rest(tmp_path):
    named = folder_of_all(tmp_path)
    settings = {"val_fraction": 0.0, "test_fraction": 0.0}
    root, shards = tmp_path / "raw", tmp_path / "shards"
    report = prepare(data_config(root, shards, max_corrupt_fraction=0.5, **settings), seed=0, progress=False)
    skipped = report.splits["train"].skipped
    assert {named[file] for file in skipped} == set(REFUSED)
    for file, why in skipped.items():
        assert "\n" not in why
        assert re.search(REFUSED[named[file]][1], why), (file, why)
    split = ShardedSplit.open(shards, "train")
    assert {named[file] for file in split.file_names if file in named} == set(TAKEN)
    split.close()
    with pytest.raises(
        ValueError, match=r"10 of 39 train images cannot be read.*\(the first: unreadable image: an empty"
    ):
        prepare(data_config(root, shards, max_corrupt_fraction=0.1, **settings), seed=0, progress=False)
    lower = data_config(root, shards, max_corrupt_fraction=1.0, max_image_pixels=HEIGHT * WIDTH - 1, **settings)
    with pytest.raises(ValueError, match=r"39 of 39 train images cannot be read: .*data\.max_image_pixels = 3071"):
        prepare(lower, seed=0, progress=False)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (JPEG[: len(JPEG) // 2], "(?i:truncated)"),
        (b"", "cannot identify"),
        (encoded(Image.fromarray(smooth()[:40]), "JPEG"), r"is 40 x 64 pixels, the index says \(48, 64\)"),
        (png(60_000, 60_000, 8, b""), "no file of so many is read|exceeds limit"),
        (png(9_000, 9_000, 8, b""), r"is 9000 x 9000 pixels, the index says \(48, 64\)"),
    ],
)
def test_the_loader_names_what_it_cannot_read(tmp_path, monkeypatch, data, why):
    write_coco(tmp_path / "raw", images=4)
    config = data_config(tmp_path / "raw", tmp_path / "shards", val_fraction=0.0, test_fraction=0.0)
    prepare(config, seed=0, progress=False)
    split = ShardedSplit.open(tmp_path / "shards", "train")
    read = split.read
    monkeypatch.setattr(split, "read", lambda index: data if index == 2 else read(index))
    statistics = {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3}
    with build_loader(split, config, train=False, batch_size=4, seed=0, device="cpu", **statistics) as loader:
        with pytest.raises(ValueError, match=rf"^train_002\.jpg \(sample 2 of train\): .*{why}") as caught:
            next(loader)
        assert "\n" not in str(caught.value)
    split.close()


def test_the_limit_is_where_pil_begins_to_warn():
    assert MAX_IMAGE_PIXELS == Image.MAX_IMAGE_PIXELS

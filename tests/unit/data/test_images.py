"""What becomes of an image file on its way into a shard."""

import io

import numpy as np
import pytest
from PIL import Image

from detcore.data.images import store_image


def pixels(height=20, width=30):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(stored):
    return np.asarray(Image.open(io.BytesIO(stored.data)))


def smooth():
    ramp = np.linspace(0, 255, 30).astype(np.uint8)
    return np.stack([np.tile(ramp, (20, 1)), np.tile(ramp[::-1], (20, 1)), np.full((20, 30), 90, np.uint8)], axis=2)


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"), ("PNG", "L")])
def test_common_files_keep_their_bytes(kind, mode):
    data = encode(Image.fromarray(pixels()).convert(mode), kind)
    stored = store_image(data)
    assert stored.data == data
    assert (stored.height, stored.width, stored.extension) == (20, 30, {"JPEG": "jpg", "PNG": "png"}[kind])


@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
def test_other_lossless_files_become_png_pixel_for_pixel(kind):
    stored = store_image(encode(Image.fromarray(pixels()), kind))
    assert stored.extension == "png"
    assert (decoded(stored) == pixels()).all()


def test_an_array_becomes_png_pixel_for_pixel():
    stored = store_image(pixels())
    assert stored.extension == "png"
    assert (decoded(stored) == pixels()).all()


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "1"])
def test_other_png_modes_become_what_pil_makes_rgb_of_them(mode):
    image = Image.fromarray(pixels()).convert(mode)
    stored = store_image(encode(image, "PNG"))
    assert (decoded(stored) == np.asarray(image.convert("RGB"))).all()


def test_sixteen_bits_keep_their_upper_eight():
    values = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    stored = store_image(encode(Image.fromarray(values), "PNG"))
    assert (decoded(stored) == values // 256).all()


def test_cmyk_jpeg_becomes_rgb_jpeg():
    data = encode(Image.fromarray(smooth()).convert("CMYK"), "JPEG", quality=95)
    stored = store_image(data)
    assert stored.extension == "jpg"
    difference = decoded(stored).astype(int) - np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(difference).mean() < 2


def turned_jpeg(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(Image.fromarray(smooth()), "JPEG", quality=95, exif=exif)


@pytest.mark.parametrize("declared", [None, (0, 0), (30, 20)])
def test_exif_orientation_is_applied(declared):
    stored = store_image(turned_jpeg(6), declared=declared)  # 6: the camera was turned; show it a quarter clockwise
    assert (stored.height, stored.width) == (30, 20)
    assert Image.open(io.BytesIO(stored.data)).getexif().get(0x0112) is None
    difference = decoded(stored).astype(int) - np.rot90(smooth(), -1).astype(int)
    assert np.abs(difference).mean() < 3


def test_exif_orientation_is_ignored_where_the_declared_size_fits_only_the_stored_pixels():
    data = turned_jpeg(6)
    stored = store_image(data, declared=(20, 30))
    assert stored.data == data
    assert (stored.height, stored.width) == (20, 30)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_file_that_is_cut_off_is_refused(kind):
    data = encode(Image.fromarray(pixels()), kind)
    with pytest.raises(ValueError, match="unreadable image"):
        store_image(data[: len(data) // 2])


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match="unreadable image"):
        store_image(b"<html>not found</html>")

"""Image files to pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from detcore.data.decoding import decode


@pytest.mark.parametrize(
    ("mode", "format"), [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("L", "PNG")]
)
def test_decoded_pixels_are_pils(mode, format):
    buffer = io.BytesIO()
    ramp = np.arange(40 * 50 * 3).reshape(40, 50, 3) % 251
    Image.fromarray(ramp.astype(np.uint8)).convert(mode).save(buffer, format)
    expected = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))
    decoded = decode(buffer.getvalue())
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_damaged_file_is_an_error(format):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3)).astype(np.uint8)).save(buffer, format)
    with pytest.raises(OSError, match="truncated"):
        decode(buffer.getvalue()[:2000])

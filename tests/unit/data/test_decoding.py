"""Image files to pixels."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from detcore.data import Sample, ShardedSplit, write_split
from detcore.data.decoding import decode
from detcore.ops import native


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


@pytest.mark.parametrize("damaged", [False, True])
def test_a_splits_images_are_decoded_into_one_block(tmp_path, damaged):
    ramp = (np.arange(40 * 50 * 3).reshape(40, 50, 3) % 251).astype(np.uint8)
    files = []
    for height, kind in ((40, "JPEG"), (30, "PNG"), (20, "JPEG")):
        buffer = io.BytesIO()
        Image.fromarray(ramp[:height]).save(buffer, kind)
        files.append(buffer.getvalue())
    made = [Sample(image=data, boxes_xyxy=np.zeros((0, 4)), labels=np.zeros(0, np.int64)) for data in files]
    write_split(made, tmp_path, split="train", categories=["a"])
    if damaged:
        shard = tmp_path / "train" / "shard-00000.tar"
        shard.write_bytes(shard.read_bytes().replace(files[2], files[2][:-9] + b"x" * 9))
    split = ShardedSplit.open(tmp_path, "train")
    out = torch.zeros(3 * 50 * (20 + 30 + 40), dtype=torch.uint8)
    native_there = native.serves("cpu")
    assert split.decode_into(out, [2, 1, 0]) == [native_there and not damaged, False, native_there]
    if native_there:
        assert np.array_equal(out[-3 * 50 * 40 :].view(40, 50, 3).numpy(), decode(files[0]))
    split.close()

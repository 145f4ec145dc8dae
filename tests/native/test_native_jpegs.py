"""JPEGs read and decoded in one call. Expected values: the files' bytes by zlib's checksum and the loader's decoder."""

import io
import os
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from detcore.data.decoding import decode
from detcore.ops.jpegs import read_jpegs

SIZES = [(60, 90), (1, 1), (33, 70), (64, 48)]


def encoded(size, mode="RGB", kind="JPEG", **options) -> bytes:
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([3 * rows, 2 * columns, 255 - rows - columns], axis=2).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def laid(tmp_path):
    """Files one after the other in one, as in a shard: gives the open file and (offset, size) of each."""
    opened = []

    def lay(files):
        path = tmp_path / f"shard-{len(opened)}"
        path.write_bytes(b"x" * 7 + b"".join(files))
        opened.append(os.open(path, os.O_RDONLY))
        offsets = 7 + np.cumsum([0, *map(len, files)])[:-1]
        return [(opened[-1], int(offset), len(data)) for offset, data in zip(offsets, files, strict=True)]

    yield lay
    for descriptor in opened:
        os.close(descriptor)


def places(where, files, sizes):
    return torch.tensor([(*at, zlib.crc32(data), *size) for at, data, size in zip(where, files, sizes, strict=True)])


def images(out, sizes):
    ends = np.cumsum([3 * h * w for h, w in sizes]).tolist()
    return [out[end - 3 * h * w : end].view(h, w, 3).numpy() for end, (h, w) in zip(ends, sizes, strict=True)]


def test_pixels_are_those_of_the_loaders_decoder(laid) -> None:
    files = [
        encoded(SIZES[0]),
        encoded(SIZES[1]),
        encoded(SIZES[2], mode="L"),
        encoded(SIZES[3], progressive=True, subsampling=0),
    ]
    out = torch.full((3 * sum(h * w for h, w in SIZES) + 5,), 7, dtype=torch.uint8)
    assert read_jpegs(places(laid(files), files, SIZES), out).tolist() == [True] * 4
    for found, data in zip(images(out, SIZES), files, strict=True):
        assert np.array_equal(found, decode(data))
    assert out[-5:].tolist() == [7] * 5


def test_one_that_is_not_as_it_should_be_is_left_to_the_caller(laid) -> None:
    good = encoded((8, 9))
    files = [good, good, encoded((8, 9), kind="PNG"), good[:40], good, good, good, b"", good]
    sizes = [(8, 9)] * len(files)
    sizes[1] = (9, 8)
    rows = places(laid(files), files, sizes)
    rows[4, 3] ^= 1  # another checksum than was written
    rows[5, 0] = -1  # no file
    rows[6, 1] += 10**6  # beyond the end of the file
    rows[8, 3] = -1  # nobody knows it
    out = torch.zeros(3 * 72 * len(files), dtype=torch.uint8)
    assert read_jpegs(rows, out).tolist() == [True, False, False, False, False, False, False, False, True]
    for place in (0, 8):
        assert np.array_equal(images(out, sizes)[place], decode(good))


@pytest.mark.parametrize("size", [*range(40), 1000, 65_537])
def test_the_checksum_is_zlibs(laid, size) -> None:
    """Of bytes behind a JPEG, which decoders do not look at."""
    data = encoded((2, 2)) + np.random.default_rng(size).bytes(size)
    rows = places(laid([data]), [data], [(2, 2)])
    assert read_jpegs(rows, torch.zeros(12, dtype=torch.uint8)).all()


def test_no_images() -> None:
    assert read_jpegs(torch.zeros((0, 6), dtype=torch.int64), torch.zeros(0, dtype=torch.uint8)).shape == (0,)


@pytest.mark.parametrize("out", [torch.zeros(11, dtype=torch.uint8), torch.zeros(12)])
def test_memory_that_does_not_suit(out) -> None:
    with pytest.raises(ValueError, match=r"read_jpegs: out is \d+ torch\.\w+; 12 uint8 are needed"):
        read_jpegs(torch.tensor([[0, 0, 1, -1, 2, 2]]), out)


def test_opcheck(laid) -> None:
    data = encoded((5, 6))
    rows = places(laid([data]), [data], [(5, 6)])
    torch.library.opcheck(torch.ops.detcore.read_jpegs, (rows, torch.zeros(90, dtype=torch.uint8)))

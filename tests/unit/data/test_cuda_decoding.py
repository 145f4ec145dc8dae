"""JPEG decoded on the GPU, and what stands in for it elsewhere."""

import io
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from raw_folders import data_config

from detcore.config.data import DataConfig
from detcore.config.transforms import ColorJitter
from detcore.data import Sample, ShardedSplit, build_loader, write_split
from detcore.data.cuda_decoding import CudaDecoder, cuda_decoder
from detcore.data.decoding import decode

STATISTICS = {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3}


def smooth(height: int = 60, width: int = 90) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    down = 240 * rows // height
    return np.stack([down, 2 * columns, 255 - down], axis=2).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


@pytest.fixture
def split(tmp_path):
    made = [
        Sample(
            image=encoded(Image.fromarray(smooth(60 + 4 * n)), "PNG" if n == 5 else "JPEG"),
            boxes_xyxy=np.array([[1.0, 2.0, 30.0, 40.0]]),
            labels=np.zeros(1, np.int64),
        )
        for n in range(6)
    ]
    write_split(made, tmp_path / "shards", split="train", categories=["a"])
    opened = ShardedSplit.open(tmp_path / "shards", "train")
    yield opened
    opened.close()


def config(tmp_path, **changes) -> DataConfig:
    return data_config(tmp_path, tmp_path / "shards", threads=2, **changes)


def pixels(split, config, device):
    with build_loader(split, config, train=True, batch_size=6, seed=0, device=device, **STATISTICS) as loader:
        return next(loader).images.float().cpu()


def test_on_the_cpu_it_falls_back_with_one_line(split, tmp_path, caplog):
    expected = pixels(split, config(tmp_path), "cpu")
    with caplog.at_level(logging.WARNING):
        found = pixels(split, config(tmp_path, decode="cuda"), "cpu")
    assert [record.getMessage() for record in caplog.records] == [
        "data.decode=cuda: the batches are on the CPU; decoding there"
    ]
    assert torch.equal(found, expected)


@pytest.mark.gpu
def test_pixels_are_nearly_the_cpus() -> None:
    decoder = CudaDecoder(torch.cuda.Stream())
    files = [encoded(Image.fromarray(smooth(height))) for height in (60, 64, 200)]
    found = decoder(files, [(60, 90), (64, 90), (200, 90)])
    torch.cuda.synchronize()
    for data, own in zip(files, found, strict=True):
        assert own is not None and own.is_cuda and own.is_contiguous()
        difference = (own.cpu().int() - torch.from_numpy(decode(data)).int()).abs()
        # Chroma is enlarged and rounded otherwise: 1.56 in the mean on an H200.
        assert difference.float().mean() <= 2.0 and difference.max() <= 24


@pytest.mark.gpu
def test_what_nvjpeg_does_not_take_is_left_to_the_cpu() -> None:
    decoder = CudaDecoder(torch.cuda.Stream())
    good = encoded(Image.fromarray(smooth()))
    files = [
        encoded(Image.fromarray(smooth()), "PNG"),
        good,
        good[:60],
        encoded(Image.fromarray(smooth(40))),
        encoded(Image.fromarray(smooth()[..., 0])),
    ]
    found = decoder(files, [(60, 90)] * 5)
    assert [own is None for own in found] == [True, False, True, True, False]


@pytest.mark.gpu
def test_batches_are_nearly_those_of_the_cpus_decoder(split, tmp_path) -> None:
    expected = pixels(split, config(tmp_path), "cuda")
    found = pixels(split, config(tmp_path, decode="cuda"), "cuda")
    assert (found - expected).abs().mean() <= 1.5 and expected.mean() > 50


@pytest.mark.gpu
def test_transforms_that_read_pixels_are_refused(split, tmp_path) -> None:
    resize = {"type": "resize_fixed", "height": 32, "width": 32}
    jitter = ColorJitter(contrast=0.2).model_dump()
    with pytest.raises(ValueError, match=r"data\.decode=cuda: color_jitter's contrast needs the pixels on the CPU"):
        pixels(split, config(tmp_path, decode="cuda", train_transforms=[resize, jitter]), "cuda")


def test_without_nvjpeg_it_says_so(monkeypatch, caplog) -> None:
    monkeypatch.setattr(CudaDecoder, "__call__", lambda self, files, sizes: [None])
    with caplog.at_level(logging.WARNING):
        assert cuda_decoder(object()) is None  # type: ignore[arg-type]
    assert [record.getMessage() for record in caplog.records] == [
        "data.decode=cuda: this torchvision has no nvJPEG, or it does not work here; decoding on the CPU"
    ]

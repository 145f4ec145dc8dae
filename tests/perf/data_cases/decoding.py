"""Decoders of JPEG files, each to (h, w, 3) uint8 RGB in memory."""

import io

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from data_cases.clock import Work
from detcore.data import ShardedSplit
from detcore.data.decoding import decode


def with_pil(data: bytes) -> None:
    np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def with_torchvision(data: bytes) -> None:
    decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)


def decoders(split: ShardedSplit, *, images: int) -> dict[str, Work]:
    """Ours is what the loader calls."""
    files = [split.read(index) for index in range(images)]

    def over_all(decoder):
        def work() -> int:
            for data in files:
                decoder(data)
            return len(files)

        return work

    named = {"decoding alone, PIL": with_pil, "decoding alone, torchvision": with_torchvision}
    return {name: over_all(decoder) for name, decoder in (named | {"decoding alone, ours": decode}).items()}

"""JPEG files to pixels on the GPU, by nvJPEG."""

import logging
from collections.abc import Sequence

import numpy as np
import simplejpeg
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from detcore.data.decoding import is_jpeg

_LOG = logging.getLogger(__name__)


class CudaDecoder:
    """Decodes several files at once, on one stream. Pixels are not quite PIL's: nvJPEG enlarges colour otherwise."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream

    def __call__(self, files: Sequence[bytes], sizes: Sequence[tuple[int, int]]) -> list[Tensor | None]:
        """(h, w, 3) uint8 RGB on the stream's device, of the sizes that they must have (height, width).

        None where that is not what nvJPEG makes of a file: PNG, CMYK, damaged, of another size. The CPU has the last
        word on these.
        """
        with torch.cuda.stream(self._stream):
            places = [place for place, data in enumerate(files) if is_jpeg(data)]
            found: list[Tensor | None] = [None] * len(files)
            for place, pixels in zip(places, self._decoded([files[place] for place in places]), strict=True):
                if pixels is not None and pixels.shape == (3, *sizes[place]):
                    found[place] = pixels.permute(1, 2, 0).contiguous()
            return found

    def _decoded(self, files: list[bytes]) -> Sequence[Tensor | None]:
        """(3, h, w) each. One that fails fails the call, so they are then tried one by one."""
        if not files:
            return []
        encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
        try:
            pixels: list[Tensor] = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=self._stream.device)
            return pixels
        except RuntimeError:
            return [None] if len(files) == 1 else [self._decoded([data])[0] for data in files]


def cuda_decoder(stream: torch.cuda.Stream | None) -> CudaDecoder | None:
    """The GPU's decoder; None, and one line of warning, where there is none.

    Args:
        stream: of the loader; None if its batches are on the CPU.
    """
    if stream is None:
        _LOG.warning("data.decode=cuda: the batches are on the CPU; decoding there")
        return None
    decoder = CudaDecoder(stream)
    if decoder([simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8))], [(16, 16)])[0] is None:
        _LOG.warning("data.decode=cuda: this torchvision has no nvJPEG, or it does not work here; decoding on the CPU")
        return None
    return decoder

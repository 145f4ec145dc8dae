"""Rows into a batch on its device."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

import torch
from torch import Tensor

from detcore.data.batching import Capacity, Row, stack
from detcore.data.buckets import Shape
from detcore.data.label_maps import UNLABELLED
from detcore.data.pixel_memory import PixelMemory
from detcore.ops import warp_nearest, warp_normalize
from detcore.structures.batch import Batch

Rendered = tuple[Batch, torch.cuda.Event | None]


class Renderer:
    """Makes batches of rows. On CUDA, copies and warps run on a stream of its own, beside the step that trains."""

    def __init__(
        self,
        *,
        device: torch.device,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        dtype: torch.dtype,
        capacity: Capacity,
        seed: int,
    ) -> None:
        """Takes what `build_loader` takes."""
        self._device = device
        self._mean, self._std, self._dtype = mean, std, dtype
        self._capacity = capacity
        self._seed = seed
        self._memory = PixelMemory()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def render(self, rows: Sequence[Future[Row] | None], *, shape: Shape, step: int) -> Rendered:
        """Waits for the rows, then warps them into a batch, which on CUDA is ready at the event. For any thread."""
        read = [None if future is None else future.result() for future in rows]
        batch, colour = stack(read, shape=shape, capacity=self._capacity, seed=self._seed, step=step)
        blank = torch.zeros(1, 1, 3, dtype=torch.uint8)
        images = [blank if row is None else row.image for row in read]
        maps = [None if row is None else row.semantic for row in read] if self._capacity.semantic else []
        flat = [blank[..., 0] if pixels is None else pixels for pixels in maps]
        if self._stream is None:
            return self._with_pixels(batch, images, flat, batch, colour, shape), None
        with torch.cuda.stream(self._stream):
            on_device = batch.map(Tensor.pin_memory).to(self._device, non_blocking=True)
            packed = _copy_packed([*images, *flat], self._device)
            images, flat = packed[: len(images)], packed[len(images) :]
            return self._with_pixels(on_device, images, flat, batch, colour, shape), self._stream.record_event()

    def _with_pixels(
        self, onto: Batch, images: list[Tensor], maps: list[Tensor], batch: Batch, colour: Tensor, shape: Shape
    ) -> Batch:
        """`onto` with its images and, if there are any, its semantic maps."""
        onto = replace(onto, images=self._warp(images, batch, colour, shape))
        if not maps:
            return onto
        assert onto.targets is not None  # every batch of the loader has them
        contents = torch.where(batch.real[:, None], batch.image_sizes, 0)
        semantic = warp_nearest(maps, batch.geometry, shape, content_sizes=contents, fill=UNLABELLED)
        return replace(onto, targets=replace(onto.targets, semantic=semantic))

    def _warp(self, images: list[Tensor], batch: Batch, colour: Tensor, shape: Shape) -> Tensor:
        """The matrices are read by the host, so `batch` is the one in its memory."""
        return warp_normalize(
            images,
            batch.geometry,
            colour,
            shape,
            content_sizes=torch.where(batch.real[:, None], batch.image_sizes, 0),
            mean=self._mean,
            std=self._std,
            dtype=self._dtype,
            out=None if self._stream else self._memory.take((len(images), *shape, 3), self._dtype),
        )

    def receive(self, rendered: Rendered) -> Batch:
        """Makes the consumer's stream wait for a batch, and the batch's memory for the consumer's stream."""
        batch, ready = rendered
        if ready is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(ready)

            def hold(tensor: Tensor) -> Tensor:
                tensor.record_stream(stream)
                return tensor

            batch.map(hold)
        return batch


def _copy_packed(images: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Images of any sizes to a device in a single copy from pinned memory."""
    sizes = [image.numel() for image in images]
    packed = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=True)
    for image, part in zip(images, packed.split_with_sizes(sizes), strict=True):
        part.copy_(image.reshape(-1))
    on_device = packed.to(device, non_blocking=True)
    return [part.view(image.shape) for image, part in zip(images, on_device.split_with_sizes(sizes), strict=True)]

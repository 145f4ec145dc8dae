"""Rows into a batch on its device."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from detcore.data.augmentation.canvas import Layer
from detcore.data.augmentation.compositing import compose, compose_labels
from detcore.data.augmentation.pointwise import apply_steps
from detcore.data.batching import Capacity, Row, stack
from detcore.data.buckets import Shape
from detcore.data.label_maps import UNLABELLED
from detcore.data.pixel_memory import PixelMemory
from detcore.ops import warp_nearest, warp_normalize
from detcore.structures.batch import Batch

_EMPTY = Layer(torch.zeros(1, 1, 3, dtype=torch.uint8), None, np.eye(3), np.eye(3, 4))
"""Of a row without a sample."""

_ALIGNED = 16
"""Bytes at whose multiples the tensors of a block begin."""


class Rendered(NamedTuple):
    """A batch in the making on a stream of its own; ready at once on the CPU.

    Attributes:
        ready: when it is.
        memory: a tensor of each block of the GPU's memory that the batch lies in.
    """

    batch: Batch
    ready: torch.cuda.Event | None = None
    memory: tuple[Tensor, ...] = ()


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
        self.bytes_per_pixel: int = 3 * dtype.itemsize
        self._memory = PixelMemory()
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def render(self, read: Sequence[Row | None], *, shape: Shape, step: int) -> Rendered:
        """Warps rows into a batch, which on CUDA is ready at the event. For any thread."""
        batch, colour = stack(read, shape=shape, capacity=self._capacity, seed=self._seed, step=step)
        layers = [(_EMPTY,) if row is None else row.placement.layers for row in read]
        images = [layer.image for own in layers for layer in own]
        maps = [_map_of(layer) for own in layers for layer in own] if self._capacity.semantic else []
        if self.stream is None:
            return Rendered(self._with_pixels(batch, images, maps, batch, colour, shape, read))
        with torch.cuda.stream(self.stream):
            on_device, block = _at_once(batch, self._device)
            images, maps = (_to_device(own, self._device) for own in (images, maps))
            made = self._with_pixels(on_device, images, maps, batch, colour, shape, read)
            semantic = () if made.targets is None or made.targets.semantic is None else (made.targets.semantic,)
            return Rendered(made, self.stream.record_event(), (made.images, block, *semantic))

    def _with_pixels(
        self,
        onto: Batch,
        images: list[Tensor],
        maps: list[Tensor],
        batch: Batch,
        colour: Tensor,
        shape: Shape,
        rows: Sequence[Row | None],
    ) -> Batch:
        """`onto` with its images and, if there are any, its semantic maps: both are given layer by layer."""
        contents = torch.where(batch.real[:, None], batch.image_sizes, 0)
        by_row = _by_row(images, rows)
        pixels = self._warp([own[0] for own in by_row], batch.geometry, colour, contents, shape)
        for row, own, ground in zip(rows, by_row, pixels, strict=True):
            if row is not None and row.placement.is_composed:
                over, size = row.placement.layers[1:], row.placement.content_size
                laid = self._warp(own[1:], *_matrices(over), torch.tensor(size).expand(len(over), 2), shape)
                compose(ground, laid.unbind(), row.placement.layers, size)
            if row is not None and row.placement.steps:
                height, width = row.placement.content_size
                apply_steps(ground[:, :height, :width], row.placement.steps, mean=self._mean, std=self._std)
        onto = replace(onto, images=pixels)
        if not maps:
            return onto
        assert onto.targets is not None  # every batch of the loader has them
        by_row = _by_row(maps, rows)
        grounds = [own[0] for own in by_row]
        semantic = warp_nearest(grounds, batch.geometry, shape, content_sizes=contents, fill=UNLABELLED)
        for row, own, ground in zip(rows, by_row, semantic, strict=True):
            if row is not None and row.placement.is_composed:
                over, size = row.placement.layers[1:], row.placement.content_size
                sizes = torch.tensor(size).expand(len(over), 2)
                laid = warp_nearest(own[1:], _matrices(over)[0], shape, content_sizes=sizes, fill=UNLABELLED)
                compose_labels(ground, laid.unbind(), row.placement.layers, size)
        return replace(onto, targets=replace(onto.targets, semantic=semantic))

    def _warp(
        self, images: list[Tensor], geometry: Tensor, colour: Tensor, content_sizes: Tensor, shape: Shape
    ) -> Tensor:
        """The matrices are read by the host, so they are in its memory."""
        return warp_normalize(
            images,
            geometry,
            colour,
            shape,
            content_sizes=content_sizes,
            mean=self._mean,
            std=self._std,
            dtype=self._dtype,
            out=None if self.stream else self._memory.take((len(images), *shape, 3), self._dtype),
        )

    def receive(self, rendered: Rendered) -> Batch:
        """Makes the consumer's stream wait for a batch, and the batch's memory for the consumer's stream."""
        if rendered.ready is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(rendered.ready)
            for tensor in rendered.memory:
                tensor.record_stream(stream)
        return rendered.batch


def _map_of(layer: Layer) -> Tensor:
    return _EMPTY.image[..., 0] if layer.semantic is None else layer.semantic


def _by_row(sources: list[Tensor], rows: Sequence[Row | None]) -> list[list[Tensor]]:
    """What is given layer by layer, row by row."""
    left = iter(sources)
    return [list(islice(left, 1 if row is None else len(row.placement.layers))) for row in rows]


def _matrices(layers: Sequence[Layer]) -> tuple[Tensor, Tensor]:
    """Geometries (n, 3, 3) and colours (n, 3, 4), float32."""
    geometry, colour = np.zeros((len(layers), 3, 3), np.float32), np.zeros((len(layers), 3, 4), np.float32)
    for index, layer in enumerate(layers):
        geometry[index], colour[index] = layer.geometry, layer.colour
    return torch.from_numpy(geometry), torch.from_numpy(colour)


def _at_once(batch: Batch, device: torch.device) -> tuple[Batch, Tensor]:
    """A copy that the host does not wait for, and the block that it lies in: it takes time to start each copy."""
    tensors = batch.tensors()
    ends = np.cumsum([-(-tensor.nbytes // _ALIGNED) * _ALIGNED for tensor in tensors]).tolist()
    starts = [0, *ends[:-1]]
    block = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=True)
    content = block.numpy()
    for start, tensor in zip(starts, tensors, strict=True):
        content[start : start + tensor.nbytes] = tensor.numpy().reshape(-1).view(np.uint8)
    there, left = block.to(device, non_blocking=True), iter(starts)
    views = {dtype: there.view(dtype) for dtype in {tensor.dtype for tensor in tensors}}

    def part(tensor: Tensor) -> Tensor:
        return views[tensor.dtype].as_strided(tensor.shape, tensor.stride(), next(left) // tensor.itemsize)

    return batch.map(part), there


def _to_device(images: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copies that the host does not wait for; none of what is there."""
    return [own if own.is_cuda else own.pin_memory().to(device, non_blocking=True) for own in images]

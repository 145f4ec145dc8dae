"""The same samples by others' transforms."""

import torch
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from data_cases.clock import Work
from data_cases.corpus import LONG_SIDE, MEAN, SHORT_SIDES, STD
from detcore.data import ShardedSplit


def torchvision_samples(split: ShardedSplit, *, images: int) -> Work:
    """torchvision's v2 transforms, boxes only: it has none for polygons."""
    transform = v2.Compose(
        [
            v2.RandomShortestSize(list(SHORT_SIDES), max_size=LONG_SIDE, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([m / 255 for m in MEAN], [s / 255 for s in STD]),
        ]
    )

    def work() -> int:
        for index in range(images):
            data = torch.frombuffer(bytearray(split.read(index)), dtype=torch.uint8)
            image = tv_tensors.Image(decode_jpeg(data, mode=ImageReadMode.RGB))
            objects = split.objects(index)
            size = (image.shape[-2], image.shape[-1])
            boxes = tv_tensors.BoundingBoxes(
                torch.from_numpy(objects.boxes_xyxy).float(), format="XYXY", canvas_size=size
            )
            transform(image, {"boxes": boxes, "labels": torch.from_numpy(objects.labels)})
        return images

    return work

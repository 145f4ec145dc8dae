"""What training's batches are padded with: the buckets, as the sampler chooses them."""

from dataclasses import dataclass

import numpy as np

from detcore.config import Config
from detcore.data.augmentation.sizes import content_sizes
from detcore.data.sampler import Sampler
from detcore.data.statistics.columns import SplitColumns


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """One shape of batches.

    Attributes:
        height, width: in pixels.
        images, batches: of the epoch, every image once.
        waste: pixels of its images' rows over those of the images' contents, less 1.
    """

    height: int
    width: int
    images: int
    batches: int
    waste: float


@dataclass(frozen=True, kw_only=True)
class Padding:
    """The first epoch of training.

    Attributes:
        batch_size: images of a batch over all ranks.
        buckets: by falling area.
        waste: over all images: padded over real pixels, less 1.
        waste_with_empty_rows: the same with the empty rows of batches that are not full.
    """

    batch_size: int
    buckets: list[Bucket]
    waste: float
    waste_with_empty_rows: float


def padding(split: SplitColumns, config: Config) -> Padding:
    """Plans the first epoch over the images that training takes, each once; of raw data, those of known size.

    Raises:
        ValueError: there are none.
    """
    data = config.data
    if split.selected is None:
        objects = np.bincount(split.samples[~split.crowd], minlength=len(split.sizes))
        sizes = split.sizes[(split.sizes > 0).all(axis=1) & (objects >= data.min_objects)]
    else:
        sizes = split.sizes[split.selected]
    sampler = Sampler(
        heights=sizes[:, 0].astype(np.int32),
        widths=sizes[:, 1].astype(np.int32),
        transforms=data.train_transforms,
        batch_size=config.engine.batch_size // config.engine.accumulate,
        num_buckets=data.num_buckets,
        size_divisor=data.size_divisor,
        seed=config.seed,
        shuffle=True,
    )
    plan = sampler.epoch(0)
    real = plan.samples >= 0
    contents = np.zeros(plan.samples.shape, np.int64)
    contents[real] = content_sizes(sizes[plan.samples[real]], data.train_transforms, plan.choices[real]).prod(axis=1)
    buckets = []
    rows = taken = 0
    for number, (height, width) in enumerate(sampler.buckets):
        own = plan.buckets == number
        images, content = int(real[own].sum()), int(contents[own].sum())
        rows += images * height * width
        taken += int(own.sum()) * sampler.batch_size * height * width
        waste = images * height * width / content - 1 if content else 0.0
        buckets.append(Bucket(height=height, width=width, images=images, batches=int(own.sum()), waste=waste))
    total = int(contents.sum())
    return Padding(
        batch_size=sampler.batch_size,
        buckets=buckets,
        waste=rows / total - 1,
        waste_with_empty_rows=taken / total - 1,
    )

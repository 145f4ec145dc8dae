"""Samples of a data set as pictures: as they are stored, and as training sees them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detcore.config.data import DataConfig
from detcore.config.transforms import most_images
from detcore.data import Loader, SampleTransform, ShardedSplit, build_loader
from detcore.data.decoding import decode
from detcore.data.label_maps import UNLABELLED
from detcore.data.some import refuse_unknown_classes
from detcore.inference.draw import Drawing, draw, truth_drawing
from detcore.inference.regions import Regions
from detcore.structures.batch import Batch, Targets


@dataclass(frozen=True, kw_only=True)
class View:
    """A sample's picture with its annotations drawn on it."""

    picture: Image.Image
    caption: str


@dataclass(frozen=True, kw_only=True)
class ShownSample:
    """A sample and its pictures: as it is stored, where that was asked for, then each draw."""

    file_name: str
    image_id: int
    views: tuple[View, ...]


@dataclass(frozen=True, kw_only=True)
class _Classes:
    """Which classes are drawn: of objects, and of the semantic map; None means all."""

    objects: NDArray[np.int64] | None
    semantic: NDArray[np.int64] | None


def show_samples(
    split: ShardedSplit,
    config: DataConfig,
    *,
    batch_size: int,
    seed: int,
    num: int,
    epoch: int = 0,
    draws: int = 1,
    plain: bool = False,
    classes: Sequence[str] = (),
    transform: SampleTransform | None = None,
) -> Iterator[ShownSample]:
    """The first samples of an epoch, drawn from the very rows that the loader gives.

    Args:
        split: 'train' is augmented and shuffled as in training; any other goes as in an evaluation, where each draw is
            the same.
        config: the transforms, buckets and sampling.
        batch_size: images of a pass over all ranks, on which the order of an epoch depends.
        seed: the training's.
        num: at most so many.
        epoch: from 0; further draws of a sample are those of the epochs after it.
        draws: pictures of each sample as the network sees it, one an epoch that has it; 0 for none.
        plain: also the picture as it is stored, with all annotations, crowd regions included.
        classes: names; only samples that have one of them, with those alone drawn. None means all.
        transform: your own augmentation, as training was given it.

    Raises:
        ValueError: a class that the data does not have, or nothing to draw.
    """
    train = split.split == "train"
    draws = draws if train else min(draws, 1)
    # Here a damaged image is an error, and nothing is on a GPU.
    config = config.model_copy(update={"on_bad_sample": "stop", "decode": "cpu"})
    if num < 1 or (draws < 1 and not plain):
        raise ValueError(f"nothing to show: {num} samples of {draws} draws; with 0 draws, ask for the plain picture")
    wanted = _classes(split, classes)
    with build_loader(
        split,
        config,
        train=train,
        batch_size=batch_size,
        seed=seed,
        image_mean=(0.0, 0.0, 0.0),
        image_std=(1.0, 1.0, 1.0),
        device="cpu",
        transform=transform if train else None,
    ) as loader:
        mixes = train and most_images(config.train_transforms) > 1
        for sample in _first_samples(split, loader, epoch, num, wanted):
            views = [_plain(split, sample, wanted)] if plain else []
            for number in range(epoch, epoch + draws):
                views += _drawn(split, loader, sample, number, wanted, mixes=mixes)
            yield ShownSample(
                file_name=split.file_names[sample], image_id=int(split.image_ids[sample]), views=tuple(views)
            )


def _classes(split: ShardedSplit, names: Sequence[str]) -> _Classes:
    if not names:
        return _Classes(objects=None, semantic=None)
    refuse_unknown_classes(names, (*split.categories, *split.semantic_classes))
    found = (
        np.array([label for label, name in enumerate(of_kind) if name in names], np.int64)
        for of_kind in (split.categories, split.semantic_classes)
    )
    return _Classes(objects=next(found), semantic=next(found))


def _first_samples(split: ShardedSplit, loader: Loader, epoch: int, num: int, wanted: _Classes) -> Iterator[int]:
    """In the order of the epoch, each once."""
    shown: set[int] = set()
    for sample in loader.plan(epoch).samples.reshape(-1).tolist():
        if len(shown) == num:
            return
        if sample >= 0 and sample not in shown and _has(split, sample, wanted):
            shown.add(sample)
            yield sample


def _has(split: ShardedSplit, sample: int, wanted: _Classes) -> bool:
    if wanted.objects is None or wanted.semantic is None:
        return True
    if np.isin(split.annotations.labels[slice(*split.annotations.starts[sample : sample + 2])], wanted.objects).any():
        return True
    return len(wanted.semantic) > 0 and bool(np.isin(split.semantic(sample), wanted.semantic).any())


def _plain(split: ShardedSplit, sample: int, wanted: _Classes) -> View:
    image = decode(split.read(sample))
    objects = split.objects(sample)
    drawing = truth_drawing(objects, split.categories)
    regions = None
    if split.has_panoptic:
        ids, segments = split.panoptic(sample)
        stuff = {one["id"]: one["category"] for one in segments if not one["is_thing"]}
        stuff = {number: label for number, label in stuff.items() if _is_wanted(label, wanted.semantic)}
        regions = _regions(np.where(np.isin(ids, list(stuff)), ids, 0), stuff, split)
    elif split.has_semantic:
        regions = _semantic_regions(split.semantic(sample), split, wanted)
    kept = np.flatnonzero(_is_wanted(objects.labels, wanted.objects))
    crowd = int(objects.crowd.sum())
    counted = _many(len(objects.labels) - crowd, "object") + (f" and {_many(crowd, 'crowd region')}" if crowd else "")
    return View(
        picture=draw(image, _taken(drawing, kept, split, regions)),
        caption=f"as stored: {image.shape[1]} x {image.shape[0]}, {counted}",
    )


def _drawn(
    split: ShardedSplit, loader: Loader, sample: int, epoch: int, wanted: _Classes, *, mixes: bool
) -> list[View]:
    """The sample's first draw of an epoch; none where the epoch does not have it, as weights may have it."""
    plan = loader.plan(epoch)
    places = np.argwhere(plan.samples == sample)
    if not len(places):
        return []
    place, row = places[plan.repeats[tuple(places.T)].argmin()].tolist()
    batch = loader.row(epoch=epoch, batch=place, row=row)
    height, width = batch.image_sizes[0].tolist()
    pixels = batch.images[0, :, :height, :width].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    assert batch.targets is not None  # every batch of the loader has them
    drawing, labels = _target_drawing(batch.targets, split)
    regions = None
    if batch.targets.semantic is not None:
        regions = _semantic_regions(batch.targets.semantic[0, :height, :width].numpy(), split, wanted)
    kept = np.flatnonzero(_is_wanted(labels, wanted.objects))
    picture = draw(pixels, _taken(drawing, kept, split, regions))
    return [View(picture=picture, caption=_in_words(batch, split, sample, epoch, mixes=mixes))]


def _in_words(batch: Batch, split: ShardedSplit, sample: int, epoch: int, *, mixes: bool) -> str:
    assert batch.targets is not None
    (height, width), (rows, columns) = batch.image_sizes[0].tolist(), batch.images.shape[2:]
    first, last = split.annotations.starts[sample : sample + 2].tolist()
    crowd = int(split.annotations.crowd[first:last].sum())
    whose = f"epoch {epoch}" if split.split == "train" else "evaluation"
    there, own = int(batch.targets.valid.sum()), last - first - crowd
    counted = f"{_many(there, 'object')}, mixed" if mixes else f"{there} of {_many(own, 'object')}"
    return f"{whose}: {width} x {height} in a batch of {columns} x {rows}, {counted}" + (
        f"; {_many(crowd, 'crowd region')} left out" if crowd else ""
    )


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _target_drawing(targets: Targets, split: ShardedSplit) -> tuple[Drawing, NDArray[np.int64]]:
    """The targets of the only row, and their classes."""
    number = int(targets.valid[0].sum())
    labels = targets.labels[0, :number].numpy()
    rings: list[list[NDArray[np.float64]]] | None = None
    if targets.polygons is not None:
        rings = [[] for _ in range(number)]
        outlines = targets.polygons
        vertices = outlines.vertices[0].double().numpy()
        columns = (outlines.ring_starts, outlines.ring_counts, outlines.ring_objects)
        for start, count, owner in zip(*(column[0].tolist() for column in columns), strict=True):
            if count:
                rings[owner].append(vertices[start : start + count])
    drawing = Drawing(
        boxes_xyxy=targets.boxes_xyxy[0, :number].double().numpy(),
        labels=labels,
        captions=[split.categories[label] for label in labels.tolist()],
        polygons=rings,
        keypoints=None if targets.keypoints is None else targets.keypoints[0, :number].double().numpy(),
        boxes_xywha=None if targets.boxes_xywha is None else targets.boxes_xywha[0, :number].double().numpy(),
    )
    return drawing, labels


def _taken(drawing: Drawing, rows: NDArray[np.int64], split: ShardedSplit, regions: Regions | None) -> Drawing:
    """Some objects of a drawing, those that cover least on top."""
    sides = drawing.boxes_xyxy[:, 2:] - drawing.boxes_xyxy[:, :2]
    rows = rows[np.argsort(sides.prod(axis=1)[rows], kind="stable")]
    return Drawing(
        boxes_xyxy=drawing.boxes_xyxy[rows],
        labels=drawing.labels[rows],
        captions=[drawing.captions[row] for row in rows.tolist()],
        polygons=None if drawing.polygons is None else [drawing.polygons[row] for row in rows.tolist()],
        keypoints=None if drawing.keypoints is None else drawing.keypoints[rows],
        skeleton=() if split.keypoints is None else split.keypoints.skeleton,
        boxes_xywha=None if drawing.boxes_xywha is None else drawing.boxes_xywha[rows],
        regions=regions,
    )


def _semantic_regions(classes: NDArray[np.uint8], split: ShardedSplit, wanted: _Classes) -> Regions:
    """Of a panoptic data set's map without class 0, the things: they are drawn as objects."""
    left_out = {UNLABELLED, 0} if split.has_panoptic else {UNLABELLED}
    there = {int(label) for label in np.unique(classes)} - left_out
    labels = {label + 1: label for label in sorted(there) if _is_wanted(label, wanted.semantic)}
    ids = classes.astype(np.int32) + 1
    return _regions(np.where(np.isin(ids, list(labels)), ids, 0), labels, split)


def _regions(ids: NDArray[np.int32], labels: dict[int, int], split: ShardedSplit) -> Regions:
    return Regions(
        ids=ids, labels=labels, names={number: split.semantic_classes[label] for number, label in labels.items()}
    )


def _is_wanted(labels: int | NDArray[np.int64], wanted: NDArray[np.int64] | None) -> NDArray[np.bool_]:
    return np.ones(np.shape(labels), np.bool_) if wanted is None else np.isin(labels, wanted)

"""What is wrong with the objects of a split: dropped and counted, or an error that names it."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detcore.data.annotation_building import rings_array
from detcore.data.annotations import LATER, SCHEMA
from detcore.data.formats import RawSplit
from detcore.data.outlines import decode_mask, decode_runs, trace_outline

NOT_FINITE = "not a number"
NO_AREA = "zero area"
OUTSIDE = "outside the image"
NO_OUTLINE = "segmentation without area"


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """A split whose objects are sorted by image, each with a box that has area inside its image.

    Attributes:
        dropped: (image file, annotation id) of each object left out, by reason.
        clipped: (image file, annotation id) of each object whose box reaches past the image. Its values stay as the
            source has them; whoever trains on it gets the clipped box. Rotated boxes are never clipped.
    """

    split: RawSplit
    dropped: dict[str, list[tuple[str, int]]]
    clipped: list[tuple[str, int]]


def clean(split: RawSplit, *, min_box_size: float) -> Cleaned:
    """Drops what cannot be trained on, and gives run-length masks an outline beside them.

    Args:
        split: with the true size of every image in `images`.
        min_box_size: a box whose clipped width or height is not above it is dropped, in pixels; so is a rotated one
            whose own are not, or whose centre lies outside its image.

    Raises:
        ValueError: a run-length mask, also of a crowd region, that is broken or of another size than its image.
    """
    split = replace(split, objects=_with_outlines(split))
    objects = split.objects
    samples = objects["sample"].to_numpy()
    width, height = (split.images[name].to_numpy()[samples] for name in ("width", "height"))
    x, y, w, h = objects["bbox"].flatten().to_numpy().reshape(-1, 4).T
    with np.errstate(invalid="ignore"):  # what is not finite is dropped below
        clipped_w = np.minimum(x + w, width) - np.maximum(x, 0)
        clipped_h = np.minimum(y + h, height) - np.maximum(y, 0)
        finite = np.isfinite(x + y + w + h + objects["area"].to_numpy()) & _finite_lists(objects)
        inside = (clipped_w > min_box_size) & (clipped_h > min_box_size) & _outlines_reach(objects, width, height)
    if rotated := objects["bbox_rotated"].null_count == 0 and objects.num_rows > 0:
        # Boxes that reach past the image stay as they are, if only their centre is in it.
        centre_x, centre_y, w, h, _ = objects["bbox_rotated"].flatten().to_numpy().reshape(-1, 5).T
        inside = (centre_x >= 0) & (centre_x < width) & (centre_y >= 0) & (centre_y < height)
    masked, outlined = _outlines(objects)
    reasons = {
        NOT_FINITE: ~finite,
        NO_AREA: ~((w > min_box_size) & (h > min_box_size)),
        OUTSIDE: ~inside,
        NO_OUTLINE: masked & ~outlined & ~objects["crowd"].to_numpy(zero_copy_only=False),
    }
    left = np.ones(objects.num_rows, np.bool_)
    dropped = {}
    for reason, wrong in reasons.items():
        dropped[reason] = _names(split, np.flatnonzero(left & wrong))
        left &= ~wrong
    with np.errstate(invalid="ignore"):
        past_the_image = (w - clipped_w > min_box_size) | (h - clipped_h > min_box_size)
    beyond = left & past_the_image & (not rotated)
    kept = replace(split, objects=objects.filter(pa.array(left)))
    return Cleaned(split=kept, dropped=dropped, clipped=_names(split, np.flatnonzero(beyond)))


def _names(split: RawSplit, rows: NDArray[np.int64]) -> list[tuple[str, int]]:
    samples = split.objects["sample"].take(pa.array(rows))
    files = split.images["file_name"].take(samples).to_pylist()
    return list(zip(files, split.objects["annotation_id"].take(pa.array(rows)).to_pylist(), strict=True))


def _outlines(objects: pa.RecordBatch) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which objects have a segmentation, and which have a ring of three points or more."""
    polygons = objects["polygons"]
    object_starts = polygons.offsets.to_numpy()
    usable = np.diff(polygons.values.offsets.to_numpy()) >= 6
    count = np.concatenate([[0], np.cumsum(usable)])[object_starts]
    masked = np.diff(object_starts) > 0
    for name in ("rle_counts", "rle_runs"):
        masked |= objects[name].is_valid().to_numpy(zero_copy_only=False)
    return masked, np.diff(count) > 0


def _finite_lists(objects: pa.RecordBatch) -> NDArray[np.bool_]:
    """Which objects have nothing but numbers in rings, keypoints and rotated box."""
    polygons = objects["polygons"]
    finite = np.ones(objects.num_rows, np.bool_)
    for values, starts in (
        (polygons.values.values, polygons.values.offsets.to_numpy()[polygons.offsets.to_numpy()]),
        *((objects[name].values, objects[name].offsets.to_numpy()) for name in LATER),
    ):
        broken = np.concatenate([[0], np.cumsum(~np.isfinite(values.to_numpy()))])
        finite &= np.diff(broken[starts]) == 0
    return finite


def _outlines_reach(objects: pa.RecordBatch, width: NDArray[np.int32], height: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which objects have no rings, or rings whose extent overlaps their image."""
    polygons = objects["polygons"]
    starts = polygons.values.offsets.to_numpy()[polygons.offsets.to_numpy()]
    reaches = np.ones(objects.num_rows, np.bool_)
    outlined = np.flatnonzero(np.diff(starts) > 0)
    if len(outlined):
        for axis, side in enumerate((width, height)):
            values = polygons.values.values.to_numpy()[axis::2]
            low, high = (bound.reduceat(values, starts[outlined] // 2) for bound in (np.minimum, np.maximum))
            reaches[outlined] &= ~((high <= 0) | (low >= side[outlined]))
    return reaches


def _with_outlines(split: RawSplit) -> pa.RecordBatch:
    """The objects, with rings traced around the run-length masks of those that are no crowd regions."""
    objects = split.objects
    valid = [objects[name].is_valid().to_numpy(zero_copy_only=False) for name in ("rle_counts", "rle_runs")]
    crowd = objects["crowd"].to_numpy(zero_copy_only=False)
    traced = {int(row): _traced(split, int(row), crowd=crowd[row]) for row in np.flatnonzero(valid[0] | valid[1])}
    traced = {row: rings for row, rings in traced.items() if not crowd[row]}
    if not traced:
        return objects
    polygons = objects["polygons"]
    values, starts, object_starts = (
        polygons.values.values.to_numpy(),
        polygons.values.offsets.to_numpy(),
        polygons.offsets.to_numpy(),
    )
    pieces: list[NDArray[np.float64]] = []
    lengths: list[NDArray[np.int64]] = []
    counts = np.diff(object_starts)
    last = 0
    for row, rings in traced.items():  # runs of untouched objects between the traced ones, which have no rings yet
        pieces.append(values[starts[object_starts[last]] : starts[object_starts[row]]])
        lengths.append(np.diff(starts[object_starts[last] : object_starts[row] + 1]))
        pieces += [ring.reshape(-1) for ring in rings]
        lengths.append(np.array([2 * len(ring) for ring in rings], np.int64))
        counts[row] = len(rings)
        last = row
    pieces.append(values[starts[object_starts[last]] :])
    lengths.append(np.diff(starts[object_starts[last] :]))
    ring_starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    column = rings_array(np.concatenate(pieces), ring_starts, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    return objects.set_column(SCHEMA.get_field_index("polygons"), SCHEMA.field("polygons"), column)


def _traced(split: RawSplit, row: int, *, crowd: bool) -> list[NDArray[np.float64]]:
    """The rings around a mask; around none of a crowd region, but its mask is checked all the same."""
    objects = split.objects
    counts = objects["rle_counts"][row].as_py()
    image = split.images.slice(objects["sample"][row].as_py(), 1)
    size = [image["height"][0].as_py(), image["width"][0].as_py()]
    try:
        if objects["rle_size"][row].as_py() != size:
            raise ValueError(f"mask of size {objects['rle_size'][row].as_py()} on an image of {size}")
        runs = np.array(objects["rle_runs"][row].as_py(), np.int64) if counts is None else decode_runs(counts)
        mask = decode_mask(runs, height=size[0], width=size[1])
        return [] if crowd else trace_outline(mask)
    except ValueError as error:
        name, annotation_id = _names(split, np.array([row]))[0]
        raise ValueError(f"{split.source}: annotation {annotation_id} of {name}: {error}") from error

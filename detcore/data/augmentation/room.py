"""Outlines of mixed images within the room that a batch has for them."""

from dataclasses import replace

import numpy as np

from detcore.data.augmentation.objects import PlacedObjects
from detcore.data.outlines import ring_area, simplify_ring

_FIRST_TOLERANCE = 0.25
"""In pixels; doubled until the points fit."""


def fit_outlines(objects: PlacedObjects, *, rings: int, vertices: int) -> PlacedObjects:
    """Objects whose outlines have at most so many rings and points.

    Batches have room for the fullest images of a split, as many as are mixed. What is cut or partly covered may need
    more: then outlines get simpler, a little at first, and the smallest rings are left out.
    """
    if len(objects.ring_counts) <= rings and len(objects.vertices) <= vertices:
        return objects
    ends = np.cumsum(objects.ring_counts)
    parts = [objects.vertices[last - count : last] for last, count in zip(ends, objects.ring_counts, strict=True)]
    kept = np.ones(len(parts), np.bool_)
    kept[np.argsort([-ring_area(part) for part in parts], kind="stable")[rings:]] = False
    tolerance = _FIRST_TOLERANCE
    while sum(len(part) for part, stays in zip(parts, kept.tolist(), strict=True) if stays) > vertices:
        parts = [simplify_ring(part, tolerance=tolerance) for part in parts]
        kept &= np.array([len(part) for part in parts]) > 2  # narrower than the tolerance
        tolerance *= 2.0
    parts = [part for part, stays in zip(parts, kept.tolist(), strict=True) if stays]
    return replace(
        objects,
        vertices=np.concatenate([np.zeros((0, 2)), *parts]),
        ring_counts=np.array([len(part) for part in parts], np.int64),
        ring_objects=objects.ring_objects[kept],
    )

"""Detectron2's settings of how a head's regions are pooled."""

from collections.abc import Mapping
from typing import Any

_ALIGNED = {"ROIAlign": False, "ROIAlignV2": True, "ROIAlignRotated": True}
"""Its first RoIAlign takes a pixel's corner for its centre; published models are of the second."""


def pooler(name: str, head: Mapping[str, Any]) -> dict[str, Any]:
    """Our sections' values for the node MODEL.`name`.

    Raises:
        ValueError: for a kind of pooling that has no counterpart here.
    """
    kind = head["POOLER_TYPE"]
    if kind not in _ALIGNED:
        raise ValueError(
            f"MODEL.{name}.POOLER_TYPE is {kind!r}: here regions are pooled by {', '.join(_ALIGNED)}; other weights "
            "need training anew"
        )
    return {
        "pooler_resolution": head["POOLER_RESOLUTION"],
        "sampling_ratio": head["POOLER_SAMPLING_RATIO"],
        "aligned": _ALIGNED[kind],
    }

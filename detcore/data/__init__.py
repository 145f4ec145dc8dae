"""Raw formats to shards to batches."""

from detcore.data.annotations import Objects
from detcore.data.build import build_loader
from detcore.data.checking import CheckReport, check
from detcore.data.keypoints import KeypointLayout
from detcore.data.loader import Loader
from detcore.data.own_samples import write_split
from detcore.data.prepare import prepare
from detcore.data.sample import Sample, SampleTransform
from detcore.data.shards import ShardedSplit
from detcore.data.sources import obtain

__all__ = [
    "CheckReport",
    "KeypointLayout",
    "Loader",
    "Objects",
    "Sample",
    "SampleTransform",
    "ShardedSplit",
    "build_loader",
    "check",
    "obtain",
    "prepare",
    "write_split",
]

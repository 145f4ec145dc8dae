"""Makes the libraries of csrc/: what there is to build, with which tools, and where the result is kept.

Nothing here imports torch, which takes longer than to find that nothing is to be built.
"""

from detcore.toolchain.library import build, cache_folder, cached, obstacle, record, reject
from detcore.toolchain.targets import PRODUCTS, Target, interpreter, sources, targets_for
from detcore.toolchain.tools import MissingToolError, NativeBuildError
from detcore.toolchain.wheel import PREBUILT, prebuilt

__all__ = [
    "PREBUILT",
    "PRODUCTS",
    "MissingToolError",
    "NativeBuildError",
    "Target",
    "build",
    "cache_folder",
    "cached",
    "interpreter",
    "obstacle",
    "prebuilt",
    "record",
    "reject",
    "sources",
    "targets_for",
]

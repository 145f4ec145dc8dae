"""Makes the libraries of csrc/: what there is to build, with which tools, and where the result is kept.

Nothing here imports torch, which takes longer than to find that nothing is to be built.
"""

from detcore.toolchain.build import build, cache_folder, cached, obstacle, record, reject
from detcore.toolchain.prebuilt import PREBUILT, prebuilt
from detcore.toolchain.targets import PRODUCTS, Target, interpreter, sources, targets
from detcore.toolchain.tools import MissingToolError, NativeBuildError

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
    "targets",
]

"""A published model as a file that other programs run."""

from detcore.export.exporting import FORMATS, QUANTIZED, SUFFIX, Exported, Format, export
from detcore.export.parity import Difference, compare
from detcore.export.quantization import HEADLINE, Int8, Int8Cost

__all__ = [
    "FORMATS",
    "HEADLINE",
    "QUANTIZED",
    "SUFFIX",
    "Difference",
    "Exported",
    "Format",
    "Int8",
    "Int8Cost",
    "compare",
    "export",
]

"""A published model as a file that other programs run."""

from detcore.export.exporting import FORMATS, Format, export
from detcore.export.parity import Difference, compare

__all__ = ["FORMATS", "Difference", "Format", "compare", "export"]

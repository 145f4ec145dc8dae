"""What is wrong with a raw data set: where, how bad, and how to mend it."""

from detcore.data.checking.checking import check
from detcore.data.checking.findings import CheckReport, Finding

__all__ = ["CheckReport", "Finding", "check"]

"""What a model does well and badly: an evaluation as a page, as Markdown, and as numbers."""

from detcore.report.findings import Findings, find
from detcore.report.measured import Measured, measure, measure_files
from detcore.report.writing import to_dict, write_empty, write_report

__all__ = ["Findings", "Measured", "find", "measure", "measure_files", "to_dict", "write_empty", "write_report"]

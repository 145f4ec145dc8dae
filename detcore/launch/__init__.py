"""Starts what the other rooms do, here or on a Ray cluster: the only room that knows Ray."""

from detcore.launch.entry import parser, read_config, run_main
from detcore.launch.evaluation import evaluate_published
from detcore.launch.exporting import export_published
from detcore.launch.registration import register_published, report
from detcore.launch.reporting import report_published
from detcore.launch.training import train

__all__ = [
    "evaluate_published",
    "export_published",
    "parser",
    "read_config",
    "register_published",
    "report",
    "report_published",
    "run_main",
    "train",
]

"""Starts what the other rooms do, here or on a Ray cluster: the only room that knows Ray."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# Ray's controller, which every training on a cluster waits for, needs none of them, nor the seconds that they take.
_HOMES = {
    "evaluate_published": "evaluation",
    "export_published": "exporting",
    **dict.fromkeys(("parser", "read_config", "run_main"), "entry"),
    **dict.fromkeys(("register_published", "report"), "registration"),
    "report_published": "reporting",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

"""Runs, metrics and the model registry: the only room that knows MLflow."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detcore.tracking.buffer import flush_buffer
    from detcore.tracking.callback import TrackingCallback
    from detcore.tracking.exports import exported_file, keep_export
    from detcore.tracking.handle import RunHandle
    from detcore.tracking.lookup import resolve
    from detcore.tracking.pictures import Pictures
    from detcore.tracking.registry import RegisteredVersion, register
    from detcore.tracking.runs import close_run, open_parent, open_run, tag_run

__all__ = [
    "Pictures",
    "RegisteredVersion",
    "RunHandle",
    "TrackingCallback",
    "close_run",
    "exported_file",
    "flush_buffer",
    "keep_export",
    "open_parent",
    "open_run",
    "register",
    "resolve",
    "tag_run",
]

# Some pull in torch, which takes longer than all that listing a registry does.
_HOMES = {
    "Pictures": "pictures",
    "RegisteredVersion": "registry",
    "RunHandle": "handle",
    "TrackingCallback": "callback",
    "close_run": "runs",
    "exported_file": "exports",
    "flush_buffer": "buffer",
    "keep_export": "exports",
    "open_parent": "runs",
    "open_run": "runs",
    "register": "registry",
    "resolve": "lookup",
    "tag_run": "runs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

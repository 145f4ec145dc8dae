"""detcore: raw labelled images in, a registered, deployable object detector out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detcore.launch.fit import fit as fit
    from detcore.launch.stages import evaluate as evaluate
    from detcore.launch.stages import prepare as prepare
    from detcore.launch.stages import register as register
    from detcore.launch.stages import train as train
    from detcore.loading import load as load
    from detcore.loading import predict as predict
    from detcore.loading import pull as pull

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "fit", "load", "predict", "prepare", "pull", "register", "train"]

# They pull in torch; `import detcore` alone, as DVC's config composition and `detcore --help` do, must stay quick.
_HOMES = {
    "fit": "detcore.launch.fit",
    **dict.fromkeys(("evaluate", "prepare", "register", "train"), "detcore.launch.stages"),
    **dict.fromkeys(("load", "predict", "pull"), "detcore.loading"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'detcore' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

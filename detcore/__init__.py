"""detcore: raw labelled images in, a registered, deployable detector out."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detcore.launch.fit import fit as fit
    from detcore.loading import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "fit", "load"]


def __getattr__(name: str) -> Any:
    # Both pull in torch; `import detcore` alone, as DVC's config composition does, must stay quick.
    if name == "fit":
        from detcore.launch.fit import fit

        return fit
    if name == "load":
        from detcore.loading import load

        return load
    raise AttributeError(f"module 'detcore' has no attribute {name!r}")

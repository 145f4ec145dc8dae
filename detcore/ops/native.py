"""Declares the operators of csrc/, and loads their libraries; where none can be had the references run.

A library comes from the wheel, else from the cache, else it is built, once per machine. The environment decides:
DETCORE_NATIVE=auto (the default) falls back with one line of warning, `require` makes the fallback an error, `off` uses
the references. `make native` builds beforehand.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from detcore import toolchain
from detcore.toolchain import NativeBuildError

_LOG = logging.getLogger(__name__)
_LOCK = threading.RLock()
_STATES: dict[str, "State"] = {}
_MODES = ("auto", "require", "off")
_DECLARED = ContextVar("detcore_declared", default=False)


def define(
    name: str,
    schema: str,
    fake: Callable[..., Any],
    *,
    save: Callable[[Any, tuple[Any, ...], Any], None] | None = None,
    backward: Callable[..., Any] | None = None,
    autocast: Callable[..., Any] | None = None,
) -> None:
    """Declares `torch.ops.detcore.<name>`, whose kernels csrc/ registers.

    Args:
        name: of the operator.
        schema: its arguments and results, in the language of `torch.library.define`.
        fake: results without values, from the same arguments.
        save: for autograd, called with (ctx, inputs, output); see `torch.library.register_autograd`.
        backward: for autograd, called with (ctx, *gradients of the results).
        autocast: what runs in place of the operator where autocast is on: it gets the dtype of autocast and the
            arguments, and calls the operator, for which autocast is then off. Without it autocast changes nothing.
    """
    full = f"detcore::{name}"
    torch.library.define(full, schema)
    torch.library.register_fake(full, fake)
    if backward is not None:
        torch.library.register_autograd(full, backward, setup_context=save)
    if autocast is not None:
        for device_type, key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
            _AUTOCAST.impl(name, _under_autocast(autocast, device_type, key), key)  # type: ignore[no-untyped-call]


_AUTOCAST = torch.library.Library("detcore", "FRAGMENT")  # type: ignore[no-untyped-call]


def _under_autocast(rule: Callable[..., Any], device_type: str, key: str) -> Callable[..., Any]:
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def run(*arguments: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return rule(torch.get_autocast_dtype(device_type), *arguments)

    return run


@dataclass(frozen=True)
class State:
    """Of one product of csrc/ in this process.

    Args:
        library: what is loaded; None if nothing is.
        why: nothing is.
        module: of the host product.
    """

    library: Path | None
    why: str = ""
    module: ModuleType | None = None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]
def serves(device_type: str) -> bool:
    """Whether the native operators of a kind of device are loaded; the first call builds and loads them.

    On the meta device they are there without a library: they give shapes.

    Raises:
        NativeBuildError: if DETCORE_NATIVE=require and they cannot be built or loaded.
        ValueError: if DETCORE_NATIVE is none of auto, require, off.
    """
    if device_type == "meta" or _DECLARED.get():
        return True
    state = _STATES.get(device_type)
    if state is None:
        if device_type not in ("cpu", "cuda"):
            return False
        state = load(device_type)
    return state.library is not None


@contextmanager
def declared() -> Iterator[None]:
    """Within it every operator is taken to be there, as for tracing: a graph names it, and nothing runs."""
    token = _DECLARED.set(True)
    try:
        yield
    finally:
        _DECLARED.reset(token)


def host() -> ModuleType | None:
    """The functions of csrc/host that take no tensors, for which the caller has a slower way if this is None.

    Raises:
        NativeBuildError, ValueError: as `serves`.
    """
    return load("host").module


def load(product: str) -> State:
    """Loads "cpu", "cuda" or "host", once a process: later changes of the environment have no effect.

    Raises:
        NativeBuildError, ValueError: as `serves`.
    """
    with _LOCK:
        if product not in _STATES:
            _STATES[product] = _load(product)
        return _STATES[product]


def inspect(product: str) -> State:
    """As `load`, but builds nothing, and raises nothing for what is missing: `why` says it."""
    with _LOCK:
        if product in _STATES:
            return _STATES[product]
        if _mode() == "off":
            return State(None, "DETCORE_NATIVE=off")
        capabilities = _capabilities(product)
        state = _first_that_loads(product, capabilities)
        if state.library is not None:
            _STATES[product] = state
            return state
        obstacle = toolchain.obstacle(toolchain.targets_for(product, capabilities)[-1])
        why = str(obstacle) if obstacle else "not built yet: its first use does, or `make native`"
        return State(None, "; ".join(filter(None, (state.why, why))))


def operators(product: str | None = None) -> list[str]:
    """Names of the declared operators, or of those for which a loaded library ("cpu", "cuda") has a kernel."""
    if product is None:
        names = torch._C._dispatch_get_all_op_names()
    else:
        names = torch._C._dispatch_get_registrations_for_dispatch_key(product.upper())
    own = (name.removeprefix("detcore::") for name in names if name.startswith("detcore::"))
    return sorted({name for name in own if "." not in name})


def _mode() -> str:
    mode = os.environ.get("DETCORE_NATIVE", "auto")
    if mode not in _MODES:
        raise ValueError(f"DETCORE_NATIVE={mode!r}: must be one of {', '.join(_MODES)}")
    return mode


def _load(product: str) -> State:
    mode = _mode()
    if mode == "off":
        return State(None, "DETCORE_NATIVE=off")
    try:
        return _obtain(product)
    except NativeBuildError as error:
        if mode == "require":
            raise NativeBuildError(f"DETCORE_NATIVE=require: {error}") from error
        _LOG.warning("native library for %s is not there, slower code is used: %s", product, error)
        return State(None, str(error))


def _obtain(product: str) -> State:
    """Prebuilt, cached or newly built.

    Raises:
        NativeBuildError: if it cannot be built, or does not load even so.
    """
    capabilities = _capabilities(product)
    state = _first_that_loads(product, capabilities)
    if state.library is not None:
        return state
    library = toolchain.build(toolchain.targets_for(product, capabilities)[-1], again=False)
    try:
        return _open(product, library)
    except (OSError, ImportError) as error:
        toolchain.reject(library, error, for_good=True)
        raise NativeBuildError(f"{library.name} was built, but does not load: {error}") from error


def _first_that_loads(product: str, capabilities: list[tuple[int, int]]) -> State:
    """Of the wheel's library and the cached ones. A cached one that does not load is broken, and removed."""
    wheels, why = toolchain.prebuilt(product, capabilities)
    kept = [toolchain.cached(target) for target in toolchain.targets_for(product, capabilities)]
    reasons = [why] if why else []
    for library in filter(None, [wheels, *kept]):
        try:
            return _open(product, library)
        except (OSError, ImportError) as error:
            reasons.append(f"{library} does not load: {error}")
            if library != wheels:
                toolchain.reject(library, error, for_good=False)
    return State(None, "; ".join(reasons))


def _open(product: str, library: Path) -> State:
    if product != "host":
        torch.ops.load_library(library)  # type: ignore[no-untyped-call, unused-ignore]
        return State(library)
    spec = spec_from_file_location("detcore_host", library)
    if spec is None or spec.loader is None:
        raise ImportError(f"{library} is no module of this Python")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return State(library, module=module)


def _capabilities(product: str) -> list[tuple[int, int]]:
    """Of the GPUs that a CUDA library must serve."""
    if product != "cuda" or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]

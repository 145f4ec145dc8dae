"""The configuration of a measurement: a recipe's, where nothing else is said."""

from collections.abc import Sequence

import torch

from detcore.config import Config, load

CPU_BATCH = 2
_LR = "1e-6"
"""Random weights on random images: with a recipe's own rate they would run away."""


def bench_config(
    model: str, overrides: Sequence[str] = (), *, device: torch.device, batch_size: int | None = None, data: str = ""
) -> Config:
    """`model` as it trains fast on a GPU, plainly on a CPU.

    Args:
        model: a recipe of conf/model.
        overrides: in Hydra's grammar; they come last, but for the data set.
        device: engine=fast is for a GPU.
        batch_size: of a step; None takes the engine's, or `CPU_BATCH` on a CPU.
        data: a recipe of conf/data; '' where synthetic batches take the place of data.

    Raises:
        ValueError: naming what does not compose or is not valid.
    """
    stated = {override.partition("=")[0] for override in overrides}
    if "data" in stated or "model" in stated:
        raise ValueError("data=… and model=… are no overrides here: give the model first, and --data NAME")
    on_cuda = device.type == "cuda"
    chosen = {
        "model": model,
        "data": data or "coco",
        "engine": "fast" if on_cuda else "default",
        "optim.lr": _LR,
        **({} if data else {"data.root": "none"}),
    }
    if batch_size is not None or not on_cuda:
        chosen["engine.batch_size"] = str(batch_size or CPU_BATCH)
    return load([*(f"{key}={value}" for key, value in chosen.items() if key not in stated), *overrides])

"""What a checkpoint costs the training: how long a step waits for it, how long it takes, what writing it holds up.

    python tests/perf/checkpoints.py [--recipe mask_rcnn_r50_fpn] [--folder DIR] [--device cpu|cuda] [--json FILE]

The state is a recipe's with its average and AdamW's two moments. Theirs is what most trainers do, Detectron2's among
them: the step waits for torch.save, which neither syncs nor hashes. Medians of alternating saves; DIR should be on the
disk that runs are on.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from detcore.config import load
from detcore.engine.checkpoint import Checkpoint, CheckpointFolder
from detcore.engine.saving import CheckpointWriter
from detcore.models import build_model

RUNS = 5
BAR_PERCENT = 5.0


def state_of(recipe: str, device: torch.device) -> Checkpoint:
    config = load([f"model={recipe}", "optim=adamw", "model.backbone.weights=not-read"])
    model = build_model(config.model, num_classes=80, load_weights=False).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    optimizer.zero_grad()
    weights = model.state_dict()
    return Checkpoint(
        step=1,
        weights=weights,
        average={name: value.clone() for name, value in weights.items()},
        tensors={"optimizer": optimizer.state_dict()},
        record={"state": {"best_step": None}},
    )


def seconds_of(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def longest_hold_up(action: Callable[[], object]) -> float:
    """The longest, in seconds, that a thread took to sleep for a millisecond while `action` ran in another."""
    thread, late = threading.Thread(target=action), 0.0
    thread.start()
    while thread.is_alive():
        late = max(late, seconds_of(lambda: time.sleep(0.001)))
    return late


def measured(state: Checkpoint, folder: Path) -> dict[str, list[float]]:
    checkpoints = CheckpointFolder(folder / "checkpoints", keep=1, say=print)
    writer = CheckpointWriter(checkpoints.save, background=True)
    writer.save(state, wait=False)  # makes its memory, as a training's first checkpoint does
    writer.wait()
    plain = {"model": state.weights, "average": state.average, "optimizer": state.tensors}
    found: dict[str, list[float]] = {"copy": [], "save": [], "torch.save": [], "hold-up": [], "idle": []}
    for _ in range(RUNS):
        found["copy"].append(seconds_of(lambda: writer.save(state, wait=False)))
        writer.wait()
        found["save"].append(seconds_of(lambda: checkpoints.save(state)))
        found["torch.save"].append(seconds_of(lambda: torch.save(plain, folder / "model.pth")))
        found["hold-up"].append(longest_hold_up(lambda: checkpoints.save(state)))
        found["idle"].append(longest_hold_up(lambda: time.sleep(found["save"][-1])))
    writer.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="mask_rcnn_r50_fpn")
    parser.add_argument("--folder", type=Path, help="where to write (default: the temporary folder)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table's rows to FILE")
    arguments = parser.parse_args()
    state = state_of(arguments.recipe, torch.device(arguments.device))
    folder = Path(tempfile.mkdtemp(prefix="checkpoints-", dir=arguments.folder))
    try:
        found = {name: statistics.median(values) for name, values in measured(state, folder).items()}
        size = sum(path.stat().st_size for path in (folder / "checkpoints").rglob("*.*")) / 1e6
    finally:
        shutil.rmtree(folder)
    share = 100 * found["copy"] / found["save"]
    rows = [
        ("a step waits", "s", found["copy"], found["torch.save"], None),
        ("written, synced and hashed", "s", found["save"], found["torch.save"], None),
        ("wait as a share of the save", "%", share, None, BAR_PERCENT),
        ("another thread is late by, while written", "ms", 1e3 * found["hold-up"], 1e3 * found["idle"], None),
    ]
    print(f"{arguments.recipe}, {arguments.device}: {size:.0f} MB\n{'case':<42}{'unit':<5}{'ours':>9}{'theirs':>9}")
    for case, unit, ours, theirs, _ in rows:
        print(f"{case:<42}{unit:<5}{ours:>9.3f}{'' if theirs is None else format(theirs, '.3f'):>9}")
    if arguments.json:
        keys = ("case", "unit", "ours", "theirs", "ratio", "bar", "met")
        lines = [(*row[:4], row[3] and row[3] / row[2], row[4], row[4] and row[2] < row[4]) for row in rows]
        arguments.json.write_text(json.dumps([dict(zip(keys, line, strict=True)) for line in lines], indent=2) + "\n")


if __name__ == "__main__":
    main()

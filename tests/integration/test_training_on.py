"""From a checkpoint of Detectron2 to a fine-tuned detector of other classes, by the commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from tiny_training import CATEGORIES, write_shards

import detcore
from detcore.cli import main

SMALL = "[{type: resize_fixed, height: 64, width: 64}]"


def test_a_converted_model_is_fine_tuned(shared: Path, repository: Path, tmp_path: Path) -> None:
    fixture = load_file(shared / "fixtures" / "detectron2" / "faster_rcnn_fpn.safetensors")
    theirs = {name[2:]: tensor for name, tensor in fixture.items() if name.startswith("w.")}
    torch.save({"model": theirs}, tmp_path / "five_classes.pth")
    assert main(["convert", "detectron2", str(tmp_path / "five_classes.pth"), "--out", str(tmp_path / "ours")]) == 0
    shards = write_shards(tmp_path / "shards", train=4, val=2)
    overrides = [
        "model=published",
        f"model.source={tmp_path / 'ours'}",
        "data=coco",
        "data.name=squares",
        f"data.root={tmp_path / 'raw'}",
        f"data.shards={shards}",
        f"data.train_transforms={SMALL}",
        f"data.test_transforms={SMALL}",
        "engine=default",
        "engine.monitor=null",
        "engine.ema_decay=null",
        "engine.steps=2",
        "engine.batch_size=2",
        "engine.eval_every=null",
        "engine.device=cpu",
        "optim.lr=0.01",
        "cluster=local",
        "tracking.enabled=false",
        f"run_dir={tmp_path / 'run'}",
    ]
    params = tmp_path / "params.yaml"
    for command in (["-m", "detcore.config", params, *overrides], ["pipelines/train.py", "--params", params]):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=repository,
            env={**os.environ, "PYTHONPATH": str(repository)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    kept = [line for line in done.stderr.splitlines() if "keep their start" in line]
    assert len(kept) == 1 and "box_head" in kept[0] and "backbone" not in kept[0]

    source, result = (load_file(tmp_path / x / "weights.safetensors") for x in ("ours", "run/model"))
    frozen = [name for name in source if name.startswith(("backbone.stem.", "backbone.res2."))]
    assert frozen and all(torch.equal(result[name], source[name]) for name in frozen)
    trained = [name for name in source if name.startswith(("backbone.res5.", "neck.")) and name.endswith("weight")]
    for name in trained:  # close to where they began, but for frozen norms not the same
        assert torch.nn.functional.cosine_similarity(result[name].flatten(), source[name].flatten(), dim=0) > 0.99
    assert any(not torch.equal(result[name], source[name]) for name in trained)
    described = json.loads((tmp_path / "run" / "model" / "model.json").read_text())["model"]
    assert described["type"] == "faster_rcnn"
    assert described["weights"] == str(tmp_path / "ours" / "weights.safetensors")
    (tmp_path / "ours" / "weights.safetensors").unlink()
    assert detcore.load(tmp_path / "run" / "model", device="cpu").labels == CATEGORIES

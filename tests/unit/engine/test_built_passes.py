"""Settings of a step that have no use where it runs say so."""

import pytest
import torch
from tiny_training import TinyDetector

from detcore.config import load
from detcore.engine.build import build_passes
from detcore.engine.precision import Precision


def test_what_one_worker_on_a_cpu_cannot_use_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    engine = load(overrides=["engine=fast", "engine.gradient_exchange=bf16"]).engine
    build_passes(TinyDetector(), engine=engine, precision=Precision(name="bf16", device=torch.device("cpu")), shapes=[])
    said = capsys.readouterr().out
    assert "engine.gradient_exchange: one worker exchanges no gradients" in said
    assert "engine.cuda_graphs: there are none on cpu" in said

"""Files of a stranger: nothing in them is run, nothing outside their folder is written, removed or sent.

What has tests elsewhere: archives (tests/unit/data/test_sources.py), annotations (test_hostile_annotations.py), pickles
of other frameworks (tests/unit/convert/test_convert_command.py), configurations (tests/unit/config/test_loading.py).
"""

import gzip
import hashlib
import json
import os
import pickle
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from small_detectors import SMALL
from tiny_training import TinyDetector, train

import detcore
from detcore.config import load
from detcore.engine.checkpoint import TENSORS, CheckpointFolder
from detcore.evaluation import truth_file
from detcore.evaluation.detections_file import load_detections
from detcore.evaluation.truth_file import load_truth
from detcore.models import build_model
from detcore.tracking import RunHandle, flush_buffer
from detcore.zoo.dossier import read_dossier


class Trap:
    """Pickled, it makes a file where it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self._sprung = sprung

    def __reduce__(self) -> Any:
        return (Path.touch, (self._sprung,))


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    """The file that a trap makes."""
    return tmp_path / "sprung"


def publish(folder: Path, data: bytes | None = None, **changes: Any) -> Path:
    """A published folder; `data` in place of the weights, with their right hash."""
    section = SMALL["faster_rcnn"]
    folder.mkdir(parents=True)
    weights = folder / "weights.safetensors"
    if data is None:
        state = build_model(section, num_classes=3, load_weights=False).state_dict()
        data = to_safetensors({name: tensor.contiguous() for name, tensor in state.items()})
    weights.write_bytes(data)
    description = {
        "format_version": 1,
        "model": {**section.model_dump(mode="json"), "num_classes": 3},
        "num_classes": 3,
        "labels": ["a", "b", "c"],
        "preprocessing": {
            "image_mean": [0, 0, 0],
            "image_std": [1, 1, 1],
            "transform": {"type": "resize_fixed", "height": 64, "width": 64},
            "size_divisor": 32,
        },
        "metrics": {},
        "data": {"name": "x", "content_hash": ""},
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        **changes,
    }
    (folder / "model.json").write_text(json.dumps(description))
    return folder


def test_code_in_a_registered_model_is_not_run(tmp_path: Path, sprung: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's registry: MLmodel names a loader of its own, beside it are code and a pickle, all of them traps."""
    import mlflow

    from detcore.tracking.client import connect

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = connect(uri)
    artifacts = tmp_path / "theirs"
    publish(artifacts / "artifacts" / "model")
    (artifacts / "code").mkdir()
    (artifacts / "code" / "evil_loader.py").write_text(
        f"from pathlib import Path\nPath({str(sprung)!r}).touch()\ndef _load_pyfunc(path):\n    return None\n"
    )
    (artifacts / "MLmodel").write_text(
        "flavors:\n  python_function:\n    loader_module: evil_loader\n    code: code\n"
        "    python_model: python_model.pkl\n    env: {}\nmodel_uuid: '0'\nmlflow_version: 3.0.0\n"
    )
    (artifacts / "python_model.pkl").write_bytes(pickle.dumps(Trap(sprung)))
    client.create_registered_model("theirs")
    client.create_model_version("theirs", source=artifacts.as_uri())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

    assert detcore.load("theirs/1", device="cpu").labels == ("a", "b", "c")
    assert not sprung.exists()

    mlflow.set_tracking_uri(uri)
    with pytest.raises(Exception):  # noqa: B017 (whatever it ends with)
        mlflow.pyfunc.load_model(str(artifacts)).predict([])
    assert sprung.exists(), "the trap is one: MLflow's own loader runs it, as docs/zoo.md says"


def test_weights_that_are_a_pickle_are_refused(tmp_path: Path, sprung: Path) -> None:
    torch.save(Trap(sprung), tmp_path / "trap.pth")
    for number, data in enumerate((pickle.dumps(Trap(sprung)), (tmp_path / "trap.pth").read_bytes())):
        folder = publish(tmp_path / f"model-{number}", data)
        with pytest.raises(ValueError, match=r"weights\.safetensors: "):
            detcore.load(folder, device="cpu")
    assert not sprung.exists()


def test_a_header_that_lies_is_refused_at_once(tmp_path: Path) -> None:
    """safetensors begins with the header's length: here more bytes than any disk has, then one that points outside."""
    outside = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4 << 40]}}).encode()
    overlong = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [1 << 62, (1 << 62) + 4]}}).encode()
    contents = [
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 99_000_000) + b"{",
        *(struct.pack("<Q", len(header)) + header + b"\0" * 4 for header in (outside, overlong)),
    ]
    for number, data in enumerate(contents):
        folder = publish(tmp_path / f"model-{number}", data)
        started = time.monotonic()
        with pytest.raises(ValueError, match=r"weights\.safetensors: "):
            detcore.load(folder, device="cpu")
        assert time.monotonic() - started < 30, "no loop over what the header promises"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 200_000, "is not JSON"),
        ('{"format_version": 1, "loader": "evil"}', "model: Field required|loader: Extra inputs"),
        ("null", "format_version None"),
        ("!!python/object/apply:os.system ['true']", "is not JSON"),
    ],
)
def test_a_description_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    folder = publish(tmp_path / "model")
    (folder / "model.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        detcore.load(folder, device="cpu")


def test_files_that_a_description_names_are_not_opened(tmp_path: Path) -> None:
    """Weights to start from, as a training's model.json has them: here a pipe, at which reading would wait for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    section = SMALL["faster_rcnn"].model_dump(mode="json")
    model = {**section, "num_classes": 3, "weights": str(pipe), "weights_sha256": "0" * 64}
    model["backbone"] = {**section["backbone"], "weights": str(pipe)}
    assert detcore.load(publish(tmp_path / "model", model=model), device="cpu").labels == ("a", "b", "c")


def test_a_link_to_a_secret_tells_nothing_of_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct horse battery staple")
    for name in ("weights.safetensors", "model.json"):
        folder = publish(tmp_path / f"links-{name}")
        (folder / name).unlink()
        (folder / name).symlink_to(secret)
        with pytest.raises(ValueError, match=name.replace(".", r"\.")) as refused:
            detcore.load(folder, device="cpu")
        assert "horse" not in str(refused.value)
    assert "horse" not in "".join(capfd.readouterr())


def test_a_pipe_in_place_of_weights_is_not_waited_for(tmp_path: Path) -> None:
    folder = publish(tmp_path / "model")
    (folder / "weights.safetensors").unlink()
    os.mkfifo(folder / "weights.safetensors")
    with pytest.raises(ValueError, match=r"weights\.safetensors is missing"):
        detcore.load(folder, device="cpu")


@pytest.mark.parametrize(
    "text",
    ["!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{sprung}']]", "[" * 200_000],
    ids=["code", "brackets"],
)
def test_a_configuration_runs_nothing(tmp_path: Path, sprung: Path, text: str) -> None:
    model, card = publish(tmp_path / "model"), tmp_path / "card"
    card.mkdir()
    (card / "config.yaml").write_text(text.format(sprung=sprung) if "{" in text else text)
    with pytest.raises(ValueError, match=r"config\.yaml"):
        read_dossier("theirs/1", model, card)
    with pytest.raises(ValueError, match=r"config\.yaml"):
        load(file=card / "config.yaml")
    assert not sprung.exists()


def test_kept_detections_and_truth_are_refused_whole(
    tmp_path: Path, sprung: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "detections.parquet"
    for data in (pickle.dumps(Trap(sprung)), b"", b"PAR1" + b"\xff" * 64 + b"PAR1"):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"detections\.parquet"):
            load_detections(file, {})
    bomb = tmp_path / "truth.json.gz"
    bomb.write_bytes(gzip.compress(b" " * 2_000_000 + b"{}"))
    monkeypatch.setattr(truth_file, "_MOST", 1_000_000)
    with pytest.raises(ValueError, match=r"truth\.json\.gz: .*more than"):
        load_truth(bomb)
    assert not sprung.exists()


def test_a_checkpoint_runs_nothing(configure: Any, sprung: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A trap in place of the optimiser's state, with a manifest that is right."""
    config = configure(engine__steps=2, engine__checkpoint_every=2)
    train(TinyDetector(), config)
    (folder,) = [path for path in Path(config.run_dir, "checkpoints").iterdir() if path.is_dir()]
    torch.save({"optimizer": Trap(sprung)}, folder / TENSORS)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[TENSORS] = hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    said: list[str] = []
    assert CheckpointFolder(folder.parent, keep=1, say=said.append).newest() is None
    assert f"{TENSORS} holds more than tensors and plain values" in said[0]
    assert not sprung.exists()


def test_a_run_folder_sends_no_other_files_away(tmp_path: Path) -> None:
    """What is to be uploaded is removed afterwards, and where to is written in the folder, too."""
    secret = tmp_path / "id_rsa"
    secret.write_text("a key")
    run_dir = tmp_path / "theirs"
    handle = RunHandle(uri="http://127.0.0.1:9", run_id="0", run_dir=str(run_dir), key="k", opening={})
    handle.save()
    for path in (secret, run_dir / ".." / "id_rsa", run_dir / "link"):
        if path.name == "link":
            path.symlink_to(secret)
        record = {"kind": "file", "path": str(path), "folder": "x"}
        lines = [json.dumps(handle.to_dict()), json.dumps(record), ""]
        (run_dir / "tracking-buffer.jsonl").write_text("\n".join(lines))
        with pytest.raises(ValueError, match="is not in the run's folder, so it is not sent to MLflow"):
            flush_buffer(run_dir)
    assert secret.read_text() == "a key"


def test_the_helper_makes_models_that_load(tmp_path: Path) -> None:
    """Or all refusals above would prove nothing."""
    folder = publish(tmp_path / "model")
    assert detcore.load(folder, device="cpu").labels == ("a", "b", "c")
    assert load_file(folder / "weights.safetensors")

from pathlib import Path

import pytest
from tiny_training import TinyDetector
from torch import nn

import detcore
from detcore.engine.fingerprint import differences, fingerprint, package_hash


def test_what_counts_and_what_does_not(configure) -> None:
    def of(model: nn.Module | None = None, data: str = "abc", transform=None, **changes):
        return fingerprint(configure(**changes), model or TinyDetector(), content_hash=data, transform=transform)

    before = of()
    assert differences(before, of()) == ""
    assert differences(before, of(engine__log_every=1, engine__checkpoint_every=1, data__threads=2, name="other")) == ""
    assert differences(before, of(optim__lr=0.1, seed=1)) == "config: optim.lr, seed"
    assert differences(before, of(optim__schedule={"type": "cosine"})).startswith("config: optim.schedule.")
    assert differences(before, of(data__num_buckets=2)) == "config: data.num_buckets"
    part = {"data__min_objects": 1, "data__train_subset": {"type": "first", "number": 3}}
    assert differences(before, of(**part)) == "config: data.min_objects, data.train_subset"
    assert "data.sampling" in differences(before, of(data__sampling={"type": "repeat_factor"}))
    assert differences(before, of(data="abd")) == "data"
    assert differences(before, of(TinyDetector(num_classes=3), data="abd")) == "data; code"
    assert differences(before, of(nn.Linear(2, 2))) == "code"
    assert differences(before, of(transform=lambda sample, random: sample)) == "code"


def test_the_package_hash_is_of_every_source_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "detcore"
    for path in (package / "ops" / "nms.py", tmp_path / "csrc" / "nms" / "op.cu", tmp_path / "csrc" / "built.o"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    monkeypatch.setattr(detcore, "__file__", str(package / "__init__.py"))
    package_hash_now = package_hash.__wrapped__
    hashes = [package_hash_now()]
    for path, counts in (("detcore/ops/nms.py", True), ("csrc/nms/op.cu", True), ("csrc/built.o", False)):
        (tmp_path / path).write_text("2")
        assert (package_hash_now() != hashes[-1]) == counts
        hashes.append(package_hash_now())

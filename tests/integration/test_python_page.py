"""docs/python.md: every example, one after the other, as a reader would type them."""

import re
import shutil
from pathlib import Path

import pytest

import detcore
from detcore.config import load
from detcore.data import obtain

SMALL = [
    "engine.steps=2",
    "engine.eval_every=2",
    "engine.batch_size=2",
    "cluster=local",
    "engine.device=cpu",
    "data.train_transforms=[{type:resize_fixed,height:128,width:128}]",
    "data.test_transforms=[{type:resize_fixed,height:128,width:128}]",
]
"""What the test adds to the page's training, which takes minutes."""


@pytest.fixture
def photos(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders that the page speaks of, in the working folder."""
    monkeypatch.setenv("DETCORE_CONF", str(repository / "conf"))
    monkeypatch.chdir(tmp_path)
    sizes = [f"data.source.{split}=4" for split in ("train", "val", "test")]
    root = obtain(load(["data=digits", *sizes, "data.root=photos"]).data)
    images = sorted(Path(root).rglob("*.jpg"))
    (tmp_path / "scenes").mkdir()
    shutil.copy(images[0], tmp_path / "scenes" / "first.jpg")
    shutil.copy(images[0], tmp_path / "scene.jpg")
    return Path(root)


def examples(repository: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (repository / "docs" / "python.md").read_text(), re.MULTILINE | re.S)


def run(codes: list[str]) -> None:
    names: dict[str, object] = {}
    for code in codes:
        small = code.replace('"engine=finetune")', f'"engine=finetune", *{SMALL!r})')
        exec(compile(small, "docs/python.md", "exec"), names)


def test_every_example_but_the_export(repository: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes = [code for code in examples(repository) if "detcore.export" not in code]
    assert len(codes) == 4
    run(codes)
    told = capsys.readouterr().out
    assert "parts-faster-rcnn-lite0 1 there was no champion" in told
    assert "4 images and 16 objects: 0 errors" in told and "38.0 M parameters" in told
    assert Path("drawn.png").is_file() and Path("parts", "weights.safetensors").is_file()


@pytest.mark.slow
def test_the_export(repository: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    run(examples(repository))
    assert "boxes differ by" in capsys.readouterr().out


def test_every_name_is_there() -> None:
    for name in detcore.__all__:
        assert getattr(detcore, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        detcore.lod  # noqa: B018


def test_the_table_names_what_there_is(repository: Path) -> None:
    """Each dotted name of its right column, and each command of its left one."""
    import importlib

    from detcore.cli.main import build_parser

    table = re.findall(r"^\| `detcore (.*?)` \| (.*?) \|$", (repository / "docs" / "python.md").read_text(), re.M)
    assert len(table) == 12
    for command, python in table:
        words = command.split()
        known = build_parser().format_help()
        assert f"\n  {words[0]} " in known
        for name in re.findall(r"`detcore((?:\.\w+)+)", python):
            *rooms, last = name.strip(".").split(".")
            module = importlib.import_module(".".join(["detcore", *rooms])) if rooms else detcore
            assert hasattr(module, last), name

"""Exported files that a registered version keeps."""

import json
from pathlib import Path

import pytest
from tracking_samples import MakeConfig, MakeModel

import detcore
from detcore.cli import main
from detcore.tracking import exported_file, keep_export, register
from detcore.tracking.client import connect


@pytest.fixture
def name(make_config: MakeConfig, make_model: MakeModel) -> str:
    config = make_config()
    return register(make_model(config, seed=0, box_ap=60.0), config=config).name


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def written(folder: Path, **files: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"model.{suffix}" for suffix in files]
    for path, text in zip(paths, files.values(), strict=True):
        path.write_text(text)
    return paths


def test_a_kept_file_comes_back_with_what_belongs_to_it(name: str, store: str, cache: Path, tmp_path: Path) -> None:
    files = written(tmp_path / "made", xml="graph", bin="weights")
    title = keep_export(f"{name}@champion", files, format="openvino", facts={"box_pixels": 0.1}, uri=store)
    assert title == f"{name}/1"
    found = exported_file(name, format="openvino", uri=store)
    assert found.is_relative_to(cache) and found.name == "model.xml" and found.read_text() == "graph"
    assert found.with_suffix(".bin").read_text() == "weights"
    tag = json.loads(connect(store).get_model_version(name, "1").tags["exported.openvino"])
    assert tag["facts"] == {"box_pixels": 0.1} and list(tag["files"]) == ["model.xml", "model.bin"]


def test_a_later_one_takes_its_place(name: str, store: str, cache: Path, tmp_path: Path) -> None:
    for text in ("old", "new"):
        keep_export(name, written(tmp_path / "made", onnx=text), format="onnx", facts={}, uri=store)
        assert exported_file(name, format="onnx", uri=store).read_text() == text


def test_what_is_not_kept_or_not_whole_is_told(name: str, store: str, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name}/1 keeps no file for onnx, only none; make one: detcore export"):
        exported_file(name, format="onnx", uri=store)
    keep_export(name, written(tmp_path / "made", onnx="graph"), format="onnx", facts={}, uri=store)
    client = connect(store)
    location = client.get_model_version_download_uri(name, "1").removeprefix("file://")
    kept = Path(location, "exported", "onnx", "model.onnx")
    kept.write_text("other")
    with pytest.raises(ValueError, match="is not the file that was kept"):
        exported_file(name, format="onnx", uri=store)
    kept.unlink()
    with pytest.raises(ValueError, match="is not there any more"):
        exported_file(name, format="onnx", uri=store)
    assert not list(cache.glob("exported/*"))


def test_a_tag_of_a_stranger_reaches_no_other_folder(name: str, store: str, cache: Path) -> None:
    tag = json.dumps({"files": {"../../artifacts/model/model.json": "0" * 64}, "facts": {}})
    connect(store).set_model_version_tag(name, "1", "exported.onnx", tag)
    with pytest.raises(ValueError, match="is no name of a file"):
        exported_file(name, format="onnx", uri=store)


def test_load_asks_for_a_format_that_can_be_loaded() -> None:
    with pytest.raises(ValueError, match="format 'torch': only onnx and openvino can be loaded"):
        detcore.load("digits@champion", format="torch")


def test_a_folder_has_no_version_to_keep_files_with(
    make_config: MakeConfig, make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_model(make_config(), seed=0)
    command = ["export", str(folder), "--images", str(tmp_path), "--out", str(tmp_path / "m.onnx")]
    assert main([*command, "--register"]) == 2
    assert "is a folder; name a registered model" in capsys.readouterr().err
    assert main([*command, "--int8"]) == 2
    assert "int8 is calibrated and measured on data" in capsys.readouterr().err

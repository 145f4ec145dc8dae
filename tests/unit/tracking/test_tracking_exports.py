"""Exported files that a registered version keeps."""

import json
from pathlib import Path
from typing import Any

import pytest
from tracking_samples import MakeConfig, MakeModel

import detcore
from detcore.cli import main
from detcore.export import Difference, Exported
from detcore.launch import exporting
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


def test_the_stage_writes_the_formats_that_are_named_and_keeps_them(
    make_config: MakeConfig, make_model: MakeModel, store: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(export={"formats": ["onnx", "torch", "aoti"], "int8": True, "max_ap_loss": 2.0})
    registered = register(make_model(config, seed=0, box_ap=60.0), config=config)
    run_dir = Path(config.run_dir)
    run_dir.mkdir(exist_ok=True)
    (run_dir / "registered.json").write_text(json.dumps({"name": registered.name, "version": 1}))
    asked = {}

    def written(folder: Path, file: Path, **options: Any) -> Exported:
        asked[file.name] = (folder, options["int8"], options["max_ap_loss"])
        file.write_text(options["format"])
        return Exported(difference=Difference(images=3))

    monkeypatch.setattr(exporting, "export_model", written)
    (run_dir / "exported").mkdir()
    (run_dir / "exported" / "model.xml").write_text("of an earlier run")
    lines = exporting.export_published(config)
    assert len(lines) == 6 and lines[1] == f"kept with {registered.name}/1"
    model = run_dir / "model"
    float32 = (model, False, 2.0)
    assert asked == {"model.onnx": (model, True, 2.0), "model.pt2": float32, "model-aoti.pt2": float32}
    assert {path.name for path in (run_dir / "exported").iterdir()} == {"export.json", *asked}
    assert json.loads((run_dir / "exported" / "export.json").read_text())["onnx"]["difference"]["images"] == 3
    for format in ("torch", "aoti"):
        assert exported_file(registered.name, format=format, uri=store).read_text() == format


def test_without_formats_the_stage_writes_an_empty_list(make_config: MakeConfig) -> None:
    config = make_config()
    assert exporting.export_published(config) == []
    assert json.loads(Path(config.run_dir, "exported", "export.json").read_text()) == {}


def test_a_kept_program_runs_only_where_it_is_trusted(
    name: str, store: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    keep_export(name, written(tmp_path / "made", pt2="program"), format="torch", facts={}, uri=store)
    with pytest.raises(ValueError, match=r"model.pt2: a .pt2 runs code of its own: if you made it, or trust"):
        detcore.load(name, format="torch")
    with pytest.raises(ValueError, match=r"model.pt2: is no .pt2 file of PyTorch"):
        detcore.load(name, format="torch", trusted=True)


def test_a_folder_has_no_version_to_keep_files_with(
    make_config: MakeConfig, make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_model(make_config(), seed=0)
    command = ["export", str(folder), "--images", str(tmp_path), "--out", str(tmp_path / "m.onnx")]
    assert main([*command, "--register"]) == 2
    assert "is a folder; name a registered model" in capsys.readouterr().err
    assert main([*command, "--int8"]) == 2
    assert "int8 is calibrated and measured on data" in capsys.readouterr().err

"""`.pt2` files: what they carry, whom they are loaded for, and packages that are compiled."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.torch_version import TorchVersion

import detcore
from detcore.cli import main
from detcore.export.to_torch import write_compiled
from detcore.inference import load_exported
from detcore.inference.programs import add_extra, read_extra


class _Doubled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": 2 * x}


@pytest.fixture
def program() -> torch.export.ExportedProgram:
    return torch.export.export(_Doubled(), (torch.ones(3),))


@pytest.mark.parametrize("compiled", [False, True])
def test_what_a_file_says_of_itself(tmp_path: Path, compiled: bool) -> None:
    file = tmp_path / "model.pt2"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data/aotinductor/model/x.so" if compiled else "model/models/model.json", "")
    add_extra(file, {"detcore.json": "the text", "outputs.json": "[]"})
    assert read_extra(file) == ({"detcore.json": "the text", "outputs.json": "[]"}, compiled)
    assert zipfile.ZipFile(file).namelist()[-1] == "model/extra/outputs.json"


class _Bomb:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (Path("exploded"),)  # type: ignore[return-value]


def test_nothing_of_a_stranger_is_run(
    program: torch.export.ExportedProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "model.pt2"
    torch.export.save(program, file)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("model/data/weights/payload.pt", pickle.dumps(_Bomb()))
    with pytest.raises(ValueError, match=r"runs code of its own.*trusted=True in Python, --trust for detcore predict"):
        detcore.load(file)
    assert main(["predict", str(file), str(tmp_path)]) != 0
    with pytest.raises(ValueError, match="carries no labels and preprocessing of detcore"):
        detcore.load(file, trusted=True)
    assert not (tmp_path / "exploded").exists()


def test_what_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    file = tmp_path / "model.pt2"
    file.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"model.pt2: is no .pt2 file of PyTorch"):
        load_exported(file, trusted=True)
    with pytest.raises(ValueError, match=r"device 'cuda': a .pt2 of detcore runs on cpu"):
        load_exported(file, trusted=True, device="cuda")
    file.unlink()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data/aotinductor/model/x.so", "no library")
    add_extra(file, {"detcore.json": "{}", "operators.json": "{}", "outputs.json": "[]"})
    with pytest.raises(ValueError, match="PyTorch cannot load it"):
        load_exported(file, trusted=True)


def test_trust_without_a_use_is_told(tmp_path: Path, published: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="trusted has no use but with an exported file"):
        detcore.load(published("semantic_fpn"), trusted=True)


@pytest.mark.skipif(torch.__version__ < "2.14", reason="AOTInductor of PyTorch 2.14 is needed")
def test_without_a_compiler_nothing_is_compiled(program: torch.export.ExportedProgram, tmp_path: Path) -> None:
    with (
        torch._inductor.config.patch({"cpp.cxx": ("absent-compiler",)}),
        pytest.raises(ValueError, match=r"AOTInductor: .*C\+\+ compiler"),
    ):
        write_compiled(program, ["y"], tmp_path / "model.pt2", description="")


def test_an_old_compiler_is_told(
    program: torch.export.ExportedProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.11.0"))
    with pytest.raises(ValueError, match=r"AOTInductor of PyTorch 2.11.0: .*2.14 is needed"):
        write_compiled(program, ["y"], tmp_path / "model.pt2", description="")

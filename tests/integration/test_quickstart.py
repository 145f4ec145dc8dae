"""examples/quickstart.ipynb, executed with few steps on few scenes, in a folder of its own; half a minute."""

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

FEW = {
    "STEPS = 300": "STEPS = 2",
    'HERE = ["cluster=local"]': 'HERE = ["cluster=local", "engine.batch_size=2", "engine.device=cpu", '
    '*(f"data.source.{split}=4" for split in ("train", "val", "test"))]',
}


def test_the_notebook_is_clean(repository: Path) -> None:
    notebook = nbformat.read(repository / "examples" / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            compile(cell.source, cell.id, "exec")
            assert not cell.outputs and cell.execution_count is None


@pytest.mark.slow
def test_the_notebook_runs(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbclient import NotebookClient

    notebook = nbformat.read(repository / "examples" / "quickstart.ipynb", as_version=4)
    settings = next(cell for cell in notebook.cells if "STEPS =" in cell.source)
    for told, few in FEW.items():
        assert told in settings.source
        settings.source = settings.source.replace(told, few)
    (tmp_path / "examples").mkdir()
    nbformat.write(notebook, tmp_path / "examples" / "quickstart.ipynb")
    monkeypatch.setenv("DETCORE_CONF", str(repository / "conf"))
    monkeypatch.setenv("PYTHONPATH", f"{repository}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path / "examples")}}
    ).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    words = "".join(output.get("text", "") for output in outputs)
    assert "digits-mask-rcnn, version 1" not in words and "digits-mask-rcnn, version 2: " in words
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert (tmp_path / "mlflow.db").is_file()

"""What `ray job submit --working-dir .` sends from a checkout in which people have worked."""

import shutil
import zipfile
from pathlib import Path

from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

MOST_BYTES = 8_000_000
"""Ray refuses 500 MiB, but every submission waits for it, and each node."""


def test_code_and_settings_travel_and_nothing_else(repository: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("detcore", "conf", "csrc", "pipelines", "docs"):
        shutil.copytree(repository / name, checkout / name)
    for name in (".gitignore", ".rayignore", "params.yaml", "pyproject.toml"):
        shutil.copy(repository / name, checkout)
    for name in (
        *(
            ".git/objects/pack",
            ".venv/lib/torch.py",
            "data/shards/digits/train-0.tar",
            "data/raw/a.py",
            "runs/a/config.yaml",
        ),
        *("mlflow.db", "mlruns/0/meta.yaml", "photos/one.jpg", "photos/labels.json", "weights.safetensors", "old.pt"),
        *("model.onnx", "site.tar.xz", ".cache/x.bin", "tests/test_a.py", "mine/__pycache__/detector.pyc"),
    ):
        path = checkout / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0" * 1000)
    (checkout / "mine" / "detector.py").write_text("import torch\n")

    package = tmp_path / "package.zip"
    create_package(str(checkout), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    with zipfile.ZipFile(package) as archive:
        sent = {Path(name) for name in archive.namelist() if not name.endswith("/")}

    assert {path.parts[0] for path in sent} == {
        *("conf", "csrc", "detcore", "mine", "params.yaml", "pipelines", "pyproject.toml")
    }
    needed = {
        path.relative_to(repository)
        for name in ("detcore", "conf", "csrc", "pipelines")
        for path in (repository / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    }
    assert needed <= sent
    assert Path("mine/detector.py") in sent
    assert package.stat().st_size < MOST_BYTES

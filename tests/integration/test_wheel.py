"""`make wheel`, installed into an environment of its own and used from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CARRIED = ("Makefile", "MANIFEST.in", "README.md", "pyproject.toml", "requirements.lock", "setup.py")

USE = """
import json
from pathlib import Path

import torch

import detcore
from detcore.config import config_directory, load
from detcore.ops import native
from detcore.ops.random import keyed_uniform, keyed_uniform_reference

keys = (7, 3, torch.arange(4), 1, torch.arange(1000))  # integer arithmetic: equal to the last bit
print(json.dumps({
    "package": str(Path(detcore.__file__).parent),
    "served": native.serves("cpu"),
    "library": str(native.load("cpu").library),
    "host": str(native.load("host").library),
    "equal": torch.equal(keyed_uniform(*keys), keyed_uniform_reference(*keys)),
    "conf": str(config_directory()),
    "steps": load(overrides=["engine.steps=7"]).engine.steps,
}))
"""


def run(command: list[str], folder: Path, **environment: str) -> str:
    """Its output; without what points to the checkout."""
    plain = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DETCORE_CONF")}
    done = subprocess.run(
        command, cwd=folder, env={**plain, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made_wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From a copy of the sources, so that the checkout stays as it is. CUDA takes minutes and is left out."""
    pytest.importorskip("pybind11")
    tree = tmp_path_factory.mktemp("tree")
    for name in ("detcore", "csrc", "conf"):
        shutil.copytree(repository / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "_native"))
    for name in CARRIED:
        shutil.copy(repository / name, tree)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # -o: the packages are this environment's, none are to be installed.
    run(["make", "-o", ".venv/.ready", "wheel", "PRODUCTS=cpu host"], tree, PATH=path)
    (found,) = (tree / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def clean_python(made_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has the wheel, and of this environment the other packages. An editable detcore of it is not seen: only
    site-packages itself reads .pth files."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder)
    python = folder / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", str(made_wheel)]
    run([sys.executable, "-m", "pip", "--python", str(python), *install], folder)
    own = next((folder / "lib").glob("python3*/site-packages"))
    others = [path for path in sys.path if Path(path).name == "site-packages"] or [sysconfig.get_path("purelib")]
    (own / "other_packages.pth").write_text("\n".join(others) + "\n")
    return python


def test_the_wheel_is_for_this_system_and_every_python(made_wheel: Path) -> None:
    system = sysconfig.get_platform().replace("-", "_")
    assert made_wheel.name.endswith(f"-py3-none-{system}.whl")
    assert not {"build", "_native"} & {path.name for path in made_wheel.parents[1].iterdir()}


def test_an_installed_wheel_needs_no_compiler_and_no_checkout(clean_python: Path, tmp_path: Path) -> None:
    environment = {"DETCORE_CACHE": str(tmp_path / "cache"), "CXX": "/nowhere/c++", "DETCORE_NATIVE": "require"}
    empty = tmp_path / "empty"
    empty.mkdir()
    used = json.loads(run([str(clean_python), "-c", USE], empty, **environment))
    package = Path(used["package"])
    assert package.is_relative_to(clean_python.parents[1])
    assert used["served"] and Path(used["library"]) == package / "_native" / "libdetcore_cpu.so"
    assert Path(used["host"]).parent == package / "_native"
    assert used["equal"]
    assert Path(used["conf"]) == package / "conf" and used["steps"] == 7
    detcore = str(clean_python.with_name("detcore"))
    assert "native cpu: from the wheel" in run([detcore, "doctor"], empty, **environment)
    found = json.loads(run([detcore, "doctor", "--json"], empty, **environment))
    assert found["native"]["cpu"]["built for"] == "x86-64-v3" and not found["native"]["cpu"]["falls back"]
    assert not list(empty.iterdir())


def test_where_the_wheels_library_does_not_serve_its_sources_do(clean_python: Path, tmp_path: Path) -> None:
    # A processor of the user's choice is no baseline; the compiler that is not there shows what was tried.
    environment = {"DETCORE_CACHE": str(tmp_path), "CXX": "/nowhere/c++", "DETCORE_MARCH": "native"}
    said = run([str(clean_python), "-m", "detcore.cli", "doctor"], tmp_path, **environment)
    assert "the wheel's is for x86-64-v3, not DETCORE_MARCH; no C++ compiler found" in said

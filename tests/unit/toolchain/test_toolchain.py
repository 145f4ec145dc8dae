"""What is built for which machine, and whether the library of a wheel serves it. Nothing is compiled here."""

import json
import shutil
from pathlib import Path

import pytest

from detcore.toolchain import Target, interpreter, prebuilt, targets, targets_for, tools, wheel
from detcore.toolchain.library import folder_of
from detcore.toolchain.targets import ARCHITECTURES, processor_runs, runs_on

AMPERE, HOPPER, BLACKWELL, TURING = (8, 6), (9, 0), (12, 0), (7, 5)
V3 = "fpu sse4_2 avx avx2 bmi1 bmi2 f16c fma abm movbe"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DETCORE_MARCH", "CUDAARCHS", "CUDA_HOME", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DETCORE_CACHE", str(tmp_path / "cache"))


def executable(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


# From NVIDIA's compatibility rules: binary code serves later minor versions of its major one, PTX every later GPU, and
# code with a letter its own GPU alone.
@pytest.mark.parametrize(
    ("architectures", "capabilities", "expected"),
    [
        ("80-real;90", [], True),
        ("80-real;90", [AMPERE], True),
        ("80-real;90", [AMPERE, HOPPER, BLACKWELL], True),
        ("80-real;90", [TURING], False),
        ("80-real;90", [HOPPER, TURING], False),
        ("90-real", [BLACKWELL], False),
        ("90-real", [AMPERE], False),
        ("86-real", [(8, 0)], False),
        ("80-virtual", [AMPERE], True),
        ("90a-real", [HOPPER], True),
        ("90a", [BLACKWELL], False),
        ("120-real", [BLACKWELL], True),
        ("native", [TURING], True),
    ],
)
def test_which_gpus_a_library_serves(architectures: str, capabilities: list[tuple[int, int]], expected: bool) -> None:
    assert runs_on(architectures, capabilities) == expected


def test_first_use_builds_for_the_gpu_alone_but_takes_what_make_native_built() -> None:
    chosen = [target.architectures for target in targets_for("cuda", [HOPPER, HOPPER])]
    assert chosen == [ARCHITECTURES, "90-real"]
    assert [target.architectures for target in targets_for("cuda")] == [ARCHITECTURES]
    assert [target.architectures for target in targets_for("cuda", [TURING])] == ["75-real"]


def test_stated_architectures_are_the_only_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDAARCHS", "75;86")
    assert targets_for("cuda", [HOPPER]) == [Target("cuda", architectures="75;86")]


def test_a_library_is_kept_by_what_it_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    native = Target("cpu", "native")
    folders = {folder_of(native), folder_of(Target("cpu", "x86-64-v3")), folder_of(Target("cuda", architectures="90"))}
    monkeypatch.setenv("CXXFLAGS", "-g")
    assert len(folders | {folder_of(native)}) == 4
    monkeypatch.delenv("CXXFLAGS")
    # The stable ABI: neither torch's version nor, for operators, Python's is of the name.
    monkeypatch.setattr("torch.__version__", "2.99")
    monkeypatch.setattr(tools, "pybind11_version", lambda: "99")
    assert folder_of(native) in folders


def test_a_cuda_library_is_for_torchs_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = set()
    for cuda in ((13, 0), (13, 1), (12, 8), None):
        monkeypatch.setattr(tools, "torch_cuda_version", lambda found=cuda: found)
        folders.add(folder_of(Target("cuda", architectures=ARCHITECTURES)))
    assert len(folders) == 3


def test_a_host_module_is_for_one_python_and_one_pybind11(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Target("host", "native", python=interpreter())
    assert host.file_name.startswith("detcore_host.cpython-3")
    before = folder_of(host)
    monkeypatch.setattr(tools, "pybind11_version", lambda: "99")
    assert folder_of(host) != before


@pytest.mark.parametrize(("flags", "expected"), [(V3, True), (V3.replace("avx2 ", ""), False), ("", False)])
def test_whether_the_processor_runs_a_baseline(monkeypatch: pytest.MonkeyPatch, flags: str, expected: bool) -> None:
    monkeypatch.setattr(targets, "processor", lambda: {"flags": flags})
    assert processor_runs("x86-64-v3") == expected
    assert not processor_runs("znver9")


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The libraries of a wheel, on a machine that can run them."""
    folder = tmp_path / "_native"
    folder.mkdir()
    for product, facts in {
        "cpu": {"march": "x86-64-v3"},
        "cuda": {"architectures": "80-real;90", "cuda": "13.0"},
    }.items():
        library = folder / f"libdetcore_{product}.so"
        library.write_bytes(b"\x7fELF")
        (folder / f"{library.name}.json").write_text(json.dumps({**facts, "bytes": 4}))
    monkeypatch.setattr(wheel, "PREBUILT", folder)
    monkeypatch.setattr(targets, "processor", lambda: {"flags": V3})
    monkeypatch.setattr(tools, "torch_cuda_version", lambda: (13, 0))
    return folder


def test_the_wheels_library_is_taken_where_it_runs(carried: Path) -> None:
    assert prebuilt("cpu") == (carried / "libdetcore_cpu.so", "")
    assert prebuilt("cuda", [HOPPER]) == (carried / "libdetcore_cuda.so", "")
    assert prebuilt("host") == (None, f"this wheel has no library for Python {interpreter().version}")


def test_the_wheels_library_is_left_where_it_does_not_run(carried: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "processor", lambda: {"flags": "fpu sse2"})
    assert prebuilt("cpu") == (None, "the wheel's needs a processor of x86-64-v3")
    assert prebuilt("cuda", [TURING]) == (None, "the wheel's is for GPUs of 80-real;90")
    monkeypatch.setattr(tools, "torch_cuda_version", lambda: (12, 8))
    assert prebuilt("cuda", [HOPPER]) == (None, "the wheel's needs torch for CUDA 13.0")
    (carried / "libdetcore_cuda.so").write_bytes(b"")
    assert prebuilt("cuda")[1].endswith("libdetcore_cuda.so is damaged; install detcore again")


def test_what_the_user_asks_for_comes_before_the_wheels(carried: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETCORE_MARCH", "native")
    monkeypatch.setenv("CUDAARCHS", "90a-real")
    assert prebuilt("cpu") == (None, "the wheel's is for x86-64-v3, not DETCORE_MARCH")
    assert prebuilt("cuda") == (None, "the wheel's is for 80-real;90, not CUDAARCHS")


def test_without_a_wheel_there_is_nothing_to_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wheel, "PREBUILT", tmp_path / "none")
    assert prebuilt("cpu") == (None, "")


def test_a_checkout_takes_an_installed_wheels_library_if_it_is_of_the_same_sources(
    carried: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on the nodes of an image, to which a job brings its own copy of the code."""
    monkeypatch.setattr(wheel, "PREBUILT", tmp_path / "checkout" / "detcore" / "_native")
    installed = tmp_path / "site-packages" / "detcore"
    shutil.copytree(carried, installed / "_native")
    shutil.copytree(targets.SOURCES, installed / "csrc")
    monkeypatch.syspath_prepend(installed.parent)
    library = installed / "_native" / "libdetcore_cpu.so"
    assert prebuilt("cpu") == (library, "")
    own = next(path for path in targets.sources("cuda") if path.suffix == ".cu").relative_to(targets.SOURCES)
    (installed / "csrc" / own).write_text("// of another version")
    assert prebuilt("cpu") == (library, "")
    found, why = prebuilt("cuda", [HOPPER])
    assert found is None and why.endswith(f"libdetcore_cuda.so is of another csrc/ than {targets.SOURCES}")


@pytest.mark.parametrize(
    ("release", "cuda", "fault"),
    [
        ("13.0", (13, 0), ""),
        ("12.4", (13, 0), ""),
        ("12.3", (12, 8), "is of CUDA 12.3; torch for CUDA 12.8 needs 12.4 to 12.x"),
        ("13.0", (12, 8), "is of CUDA 13.0; torch for CUDA 12.8 needs 12.4 to 12.x"),
    ],
)
def test_nvcc_must_fit_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, release: str, cuda: tuple[int, int], fault: str
) -> None:
    found = executable(tmp_path / "bin" / "nvcc", f"Cuda compilation tools, release {release}, V{release}.1")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(tools, "torch_cuda_version", lambda: cuda)
    if fault:
        with pytest.raises(tools.MissingToolError, match=fault):
            tools.nvcc()
    else:
        assert tools.nvcc() == str(found)


def test_no_cuda_without_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "torch_cuda_version", lambda: None)
    with pytest.raises(tools.MissingToolError, match="torch is installed without CUDA"):
        tools.nvcc()


def test_a_shim_without_its_python_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    executable(tmp_path / "python3.12", "pyenv: command not found")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "none"))
    assert interpreter() in tools.interpreters()
    assert all(Path(python.include, "Python.h").is_file() for python in tools.interpreters())

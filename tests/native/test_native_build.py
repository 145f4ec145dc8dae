"""Building, keeping, loading and falling back, on a host module so small that it compiles in a second."""

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from detcore import toolchain
from detcore.doctor import facts, show
from detcore.ops import native
from detcore.toolchain import Target, interpreter, library, targets, wheel

MODULE = """
#include <Python.h>
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "detcore_host", nullptr, -1, nullptr};
PyMODINIT_FUNC PyInit_detcore_host() {
    PyObject* module = PyModule_Create(&definition);
    PyModule_AddIntConstant(module, "answer", ANSWER);
    return module;
}
"""


@pytest.fixture
def csrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> Path:
    """Sources of one small host module, an empty cache, and a process that has loaded nothing."""
    pytest.importorskip("pybind11")
    folder = tmp_path / "csrc"
    (folder / "host").mkdir(parents=True)
    (folder / "CMakeLists.txt").write_text((repository / "csrc" / "CMakeLists.txt").read_text())
    (folder / "host" / "module_host.cpp").write_text(MODULE.replace("ANSWER", "42"))
    monkeypatch.setattr(targets, "SOURCES", folder)
    monkeypatch.setattr(wheel, "PREBUILT", tmp_path / "_native")
    monkeypatch.setattr(native, "_STATES", {})
    monkeypatch.setenv("DETCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DETCORE_NATIVE", "auto")
    monkeypatch.delenv("DETCORE_MARCH", raising=False)
    return folder


@pytest.fixture
def restart(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forgets what is loaded, as a new process does."""
    return lambda: monkeypatch.setattr(native, "_STATES", {})


def target() -> Target:
    return toolchain.targets_for("host")[-1]


def answer() -> int | None:
    module = native.host()
    return None if module is None else module.answer


def test_the_first_use_builds_and_later_ones_load(
    csrc: Path, restart: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    assert native.inspect("host").why == "not built yet: its first use does, or `make native`"
    assert answer() == 42
    assert sum("building the native library for host" in line for line in caplog.messages) == 1
    library = toolchain.cached(target())
    assert library is not None and toolchain.record(library)["python"] == interpreter().version
    written = library.stat().st_mtime_ns
    restart()
    started = time.perf_counter()
    assert toolchain.build(target(), again=False) == library
    assert time.perf_counter() - started < 2  # the promise of a cache hit; it takes milliseconds
    assert answer() == 42 and library.stat().st_mtime_ns == written
    assert native.inspect("host").library == library


def test_other_sources_are_another_library(csrc: Path, restart: Callable[[], None]) -> None:
    assert answer() == 42
    (csrc / "host" / "module_host.cpp").write_text(MODULE.replace("ANSWER", "43"))
    restart()
    assert answer() == 43


@pytest.mark.parametrize("fault", ["cut short", "overwritten"])
def test_a_broken_library_in_the_cache_is_built_again(csrc: Path, restart: Callable[[], None], fault: str) -> None:
    library = toolchain.build(target(), again=False)
    whole = library.read_bytes()
    library.write_bytes(whole[:-100] if fault == "cut short" else bytes(len(whole)))
    assert answer() == 42
    assert toolchain.record(library)


def test_what_is_built_and_does_not_load_is_not_built_by_every_process(
    csrc: Path, restart: Callable[[], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (csrc / "host" / "module_host.cpp").write_text("extern int nowhere(); int use() { return nowhere(); }\n")
    assert answer() is None and "was built, but does not load" in caplog.messages[-1]
    restart()
    assert answer() is None and "an earlier build failed, see" in caplog.messages[-1]


def test_a_failed_build_is_not_tried_again_by_every_process(
    csrc: Path, restart: Callable[[], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (csrc / "host" / "module_host.cpp").write_text("this is no C++\n")
    assert answer() is None and "ninja failed, see" in caplog.messages[-1]
    restart()
    assert answer() is None and "an earlier build failed, see" in caplog.messages[-1]
    assert "failure.log" in native.inspect("host").why
    assert not list(csrc.parent.rglob("build-*"))
    restart()
    monkeypatch.setenv("DETCORE_NATIVE", "require")
    with pytest.raises(toolchain.NativeBuildError, match="DETCORE_NATIVE=require: an earlier build failed"):
        native.host()


@pytest.mark.parametrize("loads", [True, False])
def test_the_wheels_library_comes_before_the_cache_if_it_loads(
    csrc: Path, monkeypatch: pytest.MonkeyPatch, loads: bool
) -> None:
    built = toolchain.build(target(), again=False)
    carried = wheel.PREBUILT / built.name
    carried.parent.mkdir()
    carried.write_bytes(built.read_bytes() if loads else bytes(built.stat().st_size))
    record = {"march": "x86-64-v3", "bytes": carried.stat().st_size}
    carried.with_name(f"{carried.name}.json").write_text(json.dumps(record))
    monkeypatch.setattr(targets, "processor", lambda: {"flags": "avx avx2 bmi1 bmi2 f16c fma abm movbe"})
    assert answer() == 42
    assert native.inspect("host").library == (carried if loads else built)


def test_off_loads_nothing(csrc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETCORE_NATIVE", "off")
    assert native.host() is None and not native.serves("cpu") and not native.serves("cuda")
    assert native.inspect("cpu").why == "DETCORE_NATIVE=off"


def test_a_word_that_is_no_mode_is_an_error(csrc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETCORE_NATIVE", "of")
    with pytest.raises(ValueError, match="DETCORE_NATIVE='of': must be one of auto, require, off"):
        native.serves("cpu")


def test_no_compiler_is_said_once_in_one_line_or_is_an_error(
    csrc: Path, restart: Callable[[], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert native.host() is None and native.host() is None
    assert len(caplog.messages) == 1 and "\n" not in caplog.text.strip()
    assert "no C++ compiler found" in caplog.text
    restart()
    monkeypatch.setenv("DETCORE_NATIVE", "require")
    with pytest.raises(toolchain.NativeBuildError, match=r"DETCORE_NATIVE=require: no C\+\+ compiler found"):
        native.host()


def test_make_native_says_what_it_did_and_processes_that_start_together_build_once(csrc: Path) -> None:
    code = f"""
import pathlib, sys
from detcore.toolchain import targets
targets.SOURCES = pathlib.Path({str(csrc)!r})
from detcore.toolchain.__main__ import main
code = main()
assert "torch" not in sys.modules
sys.exit(code)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(toolchain.__file__).parents[2])}
    command = [sys.executable, "-c", code]
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate()[0].splitlines() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    # No sources of cpu and cuda are here; host is one line with its seconds.
    assert all(len(lines) == 1 and lines[0].startswith("host (3.") and lines[0].endswith(" s)") for lines in said)
    assert len(list(csrc.parent.glob("cache/native/*/detcore_host*.so"))) == 1


def test_every_operator_has_a_fake_and_a_cpu_kernel() -> None:
    declared = set(native.operators())
    assert declared and declared <= set(native.operators("cpu"))


def test_doctor_says_where_libraries_are_and_what_falls_back() -> None:
    found = facts()
    cpu = found["native"]["cpu"]
    assert cpu["library"] == str(native.inspect("cpu").library) and cpu["state"] in ("built here", "from the wheel")
    assert set(cpu["native"]) | set(cpu["falls back"]) == set(native.operators())
    assert "nms" in cpu["native"]
    for state in found["native"].values():
        assert state["state"] != "not loaded" or state["why"]
    paths = (state.get("library", "") for state in found["native"].values())
    shown = show(found)
    assert all(path in shown for path in paths)
    assert "nms_padded" in shown and "native cuda: " in shown


def test_who_finds_another_process_building_says_that_it_waits(csrc: Path, caplog: pytest.LogCaptureFixture) -> None:
    lock = library.folder_of(target()) / "lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        threading.Timer(0.3, fcntl.flock, (held, fcntl.LOCK_UN)).start()
        assert answer() == 42
    assert "another process builds the native library for host: waiting for it" in caplog.text

"""Building, caching and falling back, each in a process of its own."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from detcore.ops import native

IS_SERVED = "from detcore.ops import native; print(native.serves('cpu'))"


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_off_uses_the_references() -> None:
    assert run(IS_SERVED, DETCORE_NATIVE="off").stdout == "False\n"


def test_a_word_that_is_no_mode_is_an_error() -> None:
    assert "DETCORE_NATIVE='of': must be one of" in run(IS_SERVED, DETCORE_NATIVE="of").stderr


def test_no_compiler_is_said_once_in_one_line_or_is_an_error(tmp_path: Path) -> None:
    missing = {"CXX": "/nowhere/c++", "DETCORE_CACHE": str(tmp_path)}
    twice = run(f"{IS_SERVED}; print(native.serves('cpu'))", DETCORE_NATIVE="auto", **missing)
    assert twice.stdout == "False\nFalse\n"
    assert len(twice.stderr.splitlines()) == 1 and "no C++ compiler found" in twice.stderr
    required = run(IS_SERVED, DETCORE_NATIVE="require", **missing)
    assert required.returncode == 1 and "NativeBuildError: DETCORE_NATIVE=require: no C++ compiler" in required.stderr


def test_a_failed_build_is_not_tried_again_by_every_process(tmp_path: Path) -> None:
    false = {"CXX": "/bin/false", "DETCORE_CACHE": str(tmp_path), "DETCORE_NATIVE": "auto"}
    assert "cmake failed, see" in run(IS_SERVED, **false).stderr
    again = run(IS_SERVED, **false)
    assert again.stdout == "False\n" and "an earlier build failed, see" in again.stderr
    assert not list(tmp_path.rglob("build-*"))


def test_a_second_load_is_quick_and_leaves_the_library_alone() -> None:
    library = native.build("cpu", again=False)
    before = library.stat().st_mtime_ns
    started = time.perf_counter()
    assert native.build("cpu", again=False) == library
    assert library.stat().st_mtime_ns == before
    assert time.perf_counter() - started < 2  # the promise of a cache hit; it takes milliseconds


@pytest.mark.slow
def test_processes_that_start_together_build_once(tmp_path: Path) -> None:
    environment = {**os.environ, "DETCORE_CACHE": str(tmp_path), "DETCORE_NATIVE": "require"}
    command = [sys.executable, "-c", IS_SERVED]
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    results = [process.communicate() for process in started]
    assert [out for out, _ in results] == ["True\n"] * 3
    assert sum("building the native operators" in err for _, err in results) == 1


def test_every_operator_has_a_fake_and_a_cpu_kernel() -> None:
    declared = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("detcore::")}
    kernels = set(torch._C._dispatch_get_registrations_for_dispatch_key("CPU"))
    assert declared and declared <= kernels

"""What a wheel carries besides the package: conf/ and csrc/, and the native libraries that `make wheel` has built."""

import os
import shutil
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# The folder of built libraries. Without it the wheel is for any machine, and csrc/ is built on first use.
PREBUILT = os.environ.get("DETCORE_PREBUILT")


class CarryFolders(build_py):
    """Copies into the wheel what an editable installation finds in the checkout."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        folders = {"conf": ROOT / "conf", "csrc": ROOT / "csrc"} | ({"_native": Path(PREBUILT)} if PREBUILT else {})
        for name, folder in folders.items():
            shutil.copytree(folder, Path(self.build_lib) / "detcore" / name, dirs_exist_ok=True)


class PlatformWheel(bdist_wheel):
    """The libraries are for this system, but for every Python: what depends on its version is there for each."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


class Binary(Distribution):
    """Says whether the wheel is for one kind of system."""

    def has_ext_modules(self) -> bool:
        return bool(PREBUILT)


setup(distclass=Binary, cmdclass={"build_py": CarryFolders, "bdist_wheel": PlatformWheel})

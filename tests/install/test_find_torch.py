# SPDX-License-Identifier: Apache-2.0
"""Which torch a build finds: the one that the environment imports, also where pip isolates the build.

A folder with the names of torch's stands for torch; nothing of it is imported.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIND = ROOT / "cmake" / "find_torch.py"

# Builds nothing: a wheel whose only content is what FIND said.
BACKEND = """
import subprocess, sys, zipfile

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    said = subprocess.run([sys.executable, "-E", {find!r}], capture_output=True, text=True, check=True).stdout
    with zipfile.ZipFile(wheel_directory + "/said-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("said.txt", said)
        wheel.writestr("said-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: said\\nVersion: 1\\n")
        wheel.writestr("said-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("said-1.dist-info/RECORD", "")
    return "said-1-py3-none-any.whl"
"""


def fake_torch(folder: Path) -> Path:
    package = folder / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    return package


class Environment:
    """A virtual environment without pip."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder)
        self.python = folder / "bin" / "python"
        (self.site,) = (folder / "lib").glob("python*/site-packages")

    def found(self, **env: str) -> str:
        command = [self.python, "-E", FIND]
        return subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=True).stdout.strip()

    def found_by_pip(self, folder: Path, **env: str) -> str:
        """What is found in a build that pip isolates."""
        (folder / "backend.py").write_text(BACKEND.format(find=str(FIND)))
        (folder / "pyproject.toml").write_text(
            "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
            "[project]\nname = 'said'\nversion = '1'\n"
        )
        options = ("--python", self.python, "install", "--quiet", "--no-index", "--target", folder / "out", folder)
        subprocess.run([sys.executable, "-m", "pip", *options], env=os.environ | env, check=True)
        return (folder / "out" / "said.txt").read_text().strip()


@pytest.fixture
def environment(tmp_path) -> Environment:
    return Environment(tmp_path / "environment")


def test_no_torch(environment, tmp_path):
    assert environment.found() == environment.found_by_pip(tmp_path) == ""


def test_installed(environment, tmp_path):
    torch = fake_torch(environment.site)
    assert environment.found() == environment.found_by_pip(tmp_path) == str(torch)


def test_linked_by_a_pth_file(environment, tmp_path):
    torch = fake_torch(tmp_path / "elsewhere")
    (environment.site / "elsewhere.pth").write_text(str(torch.parent))
    assert environment.found() == environment.found_by_pip(tmp_path) == str(torch)


def test_pythonpath(environment, tmp_path):
    torch = fake_torch(tmp_path / "elsewhere")
    env = {"PYTHONPATH": str(torch.parent)}
    assert environment.found(**env) == environment.found_by_pip(tmp_path, **env) == str(torch)

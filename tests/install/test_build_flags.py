# SPDX-License-Identifier: Apache-2.0
"""What `python -m dlbridge` says of an installed package: its folders and flags, by which C++ programs are built."""

import re
import shutil
import sys

import pytest
from build_tree import BUILD
from cpp_project import build_by_command_line
from processes import run

pytestmark = pytest.mark.skipif(
    not (BUILD / "CMakeCache.txt").exists(), reason=f"no build tree in {BUILD}: run scripts/setup"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder that a wheel was unpacked into."""
    folder = tmp_path_factory.mktemp("site")
    run("cmake", "--install", BUILD, "--component", "python", "--prefix", folder)
    return folder


@pytest.fixture
def say(site):
    def lines(*arguments: str) -> list[str]:
        return run(sys.executable, "-m", "dlbridge", *arguments, env={"PYTHONPATH": str(site)}).splitlines()

    return lines


def test_folders(say, site):
    top = site / "dlbridge"
    folders = [top / "lib" / "cmake" / "dlbridge", top / "include", top / "lib", top / "lib" / "pkgconfig"]
    assert say("--cmake-dir", "--include-dir", "--lib-dir", "--pkg-config-dir") == [*map(str, folders)]
    files = ("dlbridge-config.cmake", "dlbridge/plan.h", "libdlbridge.so.0.1", "dlbridge.pc")
    assert all((folder / file).is_file() for folder, file in zip(folders, files, strict=True))


def test_doctor_names_the_cmake_files(say, site):
    (line,) = [line for line in say("doctor") if "find_package" in line]
    assert re.match(rf"ok +C and C\+\+ +find_package\(dlbridge\) finds {site}/dlbridge/lib/cmake/dlbridge$", line)


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="pkg-config is not installed")
def test_flags_are_those_of_pkg_config(say):
    (folder,) = say("--pkg-config-dir")
    flags = " ".join(say("--cflags", "--libs")).split()
    assert flags.pop() == f"-Wl,-rpath,{say('--lib-dir')[0]}"

    def resolved(words):
        return {re.sub(r"[^/]+/\.\./", "", word.replace("/lib/pkgconfig/../..", "")) for word in words}

    env = {"PKG_CONFIG_PATH": folder}
    assert resolved(run("pkg-config", "--cflags", "--libs", "dlbridge", env=env).split()) == set(flags)


def test_programs_are_built(site, tmp_path):
    build_by_command_line(f"'{sys.executable}' -m dlbridge", tmp_path / "program", {"PYTHONPATH": str(site)})

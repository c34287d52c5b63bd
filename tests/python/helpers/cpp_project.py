# SPDX-License-Identifier: Apache-2.0
"""A small C++ program, built against an installed package by what its command line says."""

from pathlib import Path

from processes import run

PROGRAM = """
#include <iostream>

#include "dlbridge/error.h"

int main() { std::cout << dlbridge::name(dlbridge::ErrorCode::negative_stride) << std::endl; }
"""
PROJECT = """
cmake_minimum_required(VERSION 3.25)
project(names LANGUAGES CXX)
find_package(dlbridge REQUIRED)
add_executable(names names.cpp)
target_link_libraries(names PRIVATE dlbridge::core)
"""


def build_by_command_line(command: str, folder: Path, env: dict[str, str] | None = None) -> None:
    """Builds and runs it by CMake and by a compiler's flags. `command` runs the command line in a shell."""
    folder.mkdir()
    (folder / "names.cpp").write_text(PROGRAM)
    (folder / "CMakeLists.txt").write_text(PROJECT)
    for line in (
        f'cmake -G Ninja -S . -B build -DCMAKE_PREFIX_PATH="$({command} --cmake-dir)" && cmake --build build',
        f"mkdir flags && g++ -std=c++20 names.cpp $({command} --cflags --libs) -o flags/names",
    ):
        run("sh", "-c", f"cd '{folder}' && {line}", env=env)
    for program in ("build/names", "flags/names"):
        assert run(folder / program) == "negative_stride\n"

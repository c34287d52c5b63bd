# SPDX-License-Identifier: Apache-2.0
"""Where the installed package keeps what C++ projects need."""

import os


def cmake_dir() -> str:
    """Return the folder to pass to CMake as ``-Ddlbridge_DIR=...``, for ``find_package(dlbridge)``.

    The files for pkg-config are in ``../../pkgconfig`` beside it. Raises FileNotFoundError for the package in a
    build tree, which is not installed.
    """
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib", "cmake", "dlbridge")
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"{folder} is not there: this dlbridge was not installed; expected one from pip install or cmake --install"
        )
    return folder

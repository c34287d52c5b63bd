# SPDX-License-Identifier: Apache-2.0
"""Where the installed package keeps what C and C++ projects need."""

import os


def _folder(*parts: str) -> str:
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), *parts)
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"{folder} is not there: this dlbridge was not installed; expected one from pip install or cmake --install"
        )
    return folder


def cmake_dir() -> str:
    """Return the folder to pass to CMake as ``-Ddlbridge_DIR=...``, for ``find_package(dlbridge)``.

    Raises FileNotFoundError for the package in a build tree, which is not installed.

    >>> os.path.basename(dlbridge.cmake_dir())
    'dlbridge'

    .. versionadded:: 0.1.0
    """
    return _folder("lib", "cmake", "dlbridge")


def get_include() -> str:
    """Return the folder of the C and C++ headers, those of DLPack included, to pass to a compiler as ``-I...``.

    Raises FileNotFoundError for the package in a build tree, which is not installed.

    >>> os.path.basename(dlbridge.get_include())
    'include'

    .. versionadded:: 0.1.0
    """
    return _folder("include")


def lib_dir() -> str:
    """Return the folder of the shared libraries."""
    return _folder("lib")


def pkg_config_dir() -> str:
    """Return the folder for ``PKG_CONFIG_PATH``."""
    return _folder("lib", "pkgconfig")


def core_library() -> str:
    """Return the file name of libdlbridge, such as libdlbridge.so.0.1: a wheel holds no link libdlbridge.so."""
    return next(name for name in sorted(os.listdir(lib_dir())) if name.startswith("libdlbridge.so"))

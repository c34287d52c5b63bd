# SPDX-License-Identifier: Apache-2.0
"""The C ABI of the package's library, and docs/c.md against the header. What each function does is in
tests/core/c_api_*_test.cpp.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

import pytest
from pages import blocks, page, section, tables

import dlbridge

HEADER = page("core/include/dlbridge/c_api.h")
CUDA_HEADER = page("cuda/include/dlbridge/cuda/c_api.h")
GUIDE = page("docs/c.md")
EXAMPLES = [page(f"examples/c/{name}") for name in ("exchange.c", "stage/frames.c")]

OK = 0


class VersionInfo(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        *((name, ctypes.c_int32) for name in ("major", "minor", "patch", "c_api", "dlpack_major", "dlpack_minor")),
    ]


def library_path() -> Path:
    """libdlbridge: in an installed package under lib, in a build tree beside the package's folder."""
    package = Path(dlbridge.__file__).parent
    for folder in (package / "lib", package.parents[1] / "lib"):
        if found := sorted(folder.glob("libdlbridge.so.*")):
            return found[0]
    raise FileNotFoundError(f"libdlbridge is neither under {package} nor in its build tree")


@pytest.fixture(scope="module")
def c() -> Any:
    """The library with its functions, which all return a status."""
    return ctypes.CDLL(str(library_path()))


def test_version_of_the_package(c):
    info = VersionInfo(struct_size=ctypes.sizeof(VersionInfo))
    assert c.dlb_version(ctypes.byref(info)) == OK
    assert f"{info.major}.{info.minor}.{info.patch}" == dlbridge.__version__
    assert (info.c_api, info.dlpack_major, info.dlpack_minor) == (1, 1, 3)


# ---- docs/c.md ----


def declared_functions(header: str = HEADER) -> list[str]:
    return re.findall(r"^DLBRIDGE_API dlb_status (dlb_\w+)\(", header, re.MULTILINE)


def test_declarations_are_counted():
    assert len(declared_functions()) == HEADER.count("DLBRIDGE_API ") == 21
    assert len(declared_functions(CUDA_HEADER)) == CUDA_HEADER.count("DLBRIDGE_API ") == 19


@pytest.mark.parametrize(
    ("title", "header"), [("Functions", HEADER), ("Functions of the CUDA module", CUDA_HEADER)], ids=["core", "cuda"]
)
def test_function_table_is_complete(title, header):
    cells = [list(row.values()) for table in tables(section(GUIDE, title)) for row in table]
    assert [row[0].strip("`") for row in cells] == declared_functions(header)
    assert all(len(row) == 4 and all(row) for row in cells)


@pytest.mark.parametrize("name", declared_functions())
def test_functions_are_exported(c, name):
    assert getattr(c, name)


@pytest.mark.parametrize("name", declared_functions() + declared_functions(CUDA_HEADER))
def test_declaration_says_who_owns(name):
    header = HEADER if name in declared_functions() else CUDA_HEADER
    declarations = header.split("DLBRIDGE_API dlb_status ")
    place = next(i for i, text in enumerate(declarations) if text.startswith(name + "("))
    comment = declarations[place - 1].split("DLBRIDGE_NOEXCEPT;")[-1]
    same_as_above = "///" not in comment or "The same" in comment
    assert "Owns:" in comment or same_as_above, comment


def test_status_table_matches_header():
    values = re.findall(r"^  (DLBRIDGE_\w+) = (\d+),? ", HEADER.split("} dlb_status;")[0], re.MULTILINE)
    values.insert(0, ("DLBRIDGE_OK", "0"))
    (rows,) = tables(section(GUIDE, "Statuses"))
    assert [tuple(cell.strip("`") for cell in list(row.values())[:2]) for row in rows] == values


def test_guide_quotes_example():
    shown = blocks(GUIDE, "c")
    assert len(shown) >= 9
    for block in shown:
        assert any(block in example for example in EXAMPLES)

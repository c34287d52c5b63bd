# SPDX-License-Identifier: Apache-2.0
"""The C ABI through ctypes, given NumPy's capsules, and docs/c.md against the header. What each function does is in
tests/core/c_api_*_test.cpp.

The library is the one that the package uses. DLBRIDGE_TEST_LIBRARY names another file.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capsules import versioned_of

import dlbridge
from isolated import needs_torch

ROOT = Path(__file__).parents[3]
HEADER = (ROOT / "core" / "include" / "dlbridge" / "c_api.h").read_text()
CUDA_HEADER = (ROOT / "cuda" / "include" / "dlbridge" / "cuda" / "c_api.h").read_text()
GUIDE = (ROOT / "docs" / "c.md").read_text()
EXAMPLES = [(ROOT / "examples" / "c" / name).read_text() for name in ("exchange.c", "stage/frames.c")]

OK, _, WRONG_STRUCT_SIZE = range(3)
WRITABLE, READ_ONLY = range(2)
COPY, REFUSE = 1, 4


class DLDataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class DLDevice(ctypes.Structure):
    _fields_ = [("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32)]


class Error(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("status", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("code", ctypes.c_char_p),
        ("field", ctypes.c_char_p),
        ("message", ctypes.c_char_p),
    ]


class VersionInfo(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        *((name, ctypes.c_int32) for name in ("major", "minor", "patch", "c_api", "dlpack_major", "dlpack_minor")),
    ]


class Description(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("capacity", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("data", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
        ("size", ctypes.c_int64),
        ("nbytes", ctypes.c_int64),
        ("device", DLDevice),
        ("dtype", DLDataType),
        ("flags", ctypes.c_uint32),
        ("access", ctypes.c_int32),
        ("is_contiguous", ctypes.c_int32),
        ("dtype_name", ctypes.c_char * 32),
        ("device_name", ctypes.c_char * 32),
    ]


class Traits(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
        ("dtypes", ctypes.POINTER(DLDataType)),
        ("dtype_count", ctypes.c_int32),
        ("max_ndim", ctypes.c_int32),
        ("accepts", ctypes.c_uint32),
        ("devices", ctypes.c_uint32),
        ("float4", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
    ]


class Request(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("copy", ctypes.c_int32),
        ("named", ctypes.c_uint32),
        ("device", DLDevice),
        ("dtype", DLDataType),
        ("reserved", ctypes.c_int32),
    ]


class PlanResult(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("reasons", ctypes.POINTER(ctypes.c_char_p)),
        ("message", ctypes.c_char_p),
        ("message_capacity", ctypes.c_size_t),
        ("message_length", ctypes.c_size_t),
        ("reasons_capacity", ctypes.c_int32),
        ("reasons_count", ctypes.c_int32),
        ("bytes", ctypes.c_int64),
        ("verdict", ctypes.c_int32),
        ("casts", ctypes.c_int32),
        ("stages", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
    ]


def library_path() -> Path:
    """libdlbridge: in an installed package under lib, in a build tree beside the package's folder."""
    if named := os.environ.get("DLBRIDGE_TEST_LIBRARY"):
        return Path(named)
    package = Path(dlbridge.__file__).parent
    for folder in (package / "lib", package.parents[1] / "lib"):
        if found := sorted(folder.glob("libdlbridge.so.*")):
            return found[0]
    raise FileNotFoundError(f"libdlbridge is neither under {package} nor in its build tree")


@pytest.fixture(scope="module")
def c() -> Any:
    """The library with its functions, which all return a status."""
    return ctypes.CDLL(str(library_path()))


def sized(kind: type[Any], **fields: Any) -> Any:
    """A struct of the ABI with its size set."""
    return kind(struct_size=ctypes.sizeof(kind), **fields)


def last_error(c: Any) -> tuple[str, str, str]:
    error = sized(Error)
    assert c.dlb_last_error(ctypes.byref(error)) == OK
    return error.code.decode(), error.field.decode(), error.message.decode()


def describe(c: Any, managed: Any) -> tuple[Description, list[int], list[int]]:
    shape, strides = (ctypes.c_int64 * 8)(), (ctypes.c_int64 * 8)()
    found = sized(Description, capacity=8, shape=shape, strides=strides)
    assert c.dlb_describe(ctypes.byref(managed), ctypes.byref(found)) == OK, last_error(c)
    return found, list(shape[: found.ndim]), list(strides[: found.ndim])


def capsule_of(array: np.ndarray) -> Any:
    return array.__dlpack__(max_version=(1, 3))


ARRAYS = {
    "compact": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    "backwards": np.arange(6, dtype=np.complex128)[::-1],
    "gaps": np.arange(24, dtype=np.uint8).reshape(4, 6)[::2, 1::3],
    "broadcast": np.broadcast_to(np.arange(3, dtype=np.int16), (2, 3)),
    "scalar": np.array(7, dtype=np.bool_),
    "empty": np.zeros((0, 3), dtype=np.float64),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_describe_agrees_with_numpy(c, name):
    array = ARRAYS[name]
    capsule = capsule_of(array)
    managed = versioned_of(capsule)
    assert c.dlb_validate(ctypes.byref(managed)) == OK
    found, shape, strides = describe(c, managed)
    assert shape == list(array.shape)
    if array.size:
        assert strides == [stride // array.itemsize for stride in array.strides]
        assert found.data == array.__array_interface__["data"][0]
    assert (found.size, found.nbytes) == (array.size, array.nbytes)
    assert found.dtype_name.decode() == str(array.dtype)
    assert found.device_name == b"cpu" and found.byte_offset == 0
    assert found.access == (WRITABLE if array.flags.writeable else READ_ONLY)
    assert found.is_contiguous == array.flags.c_contiguous


@needs_torch
def test_plan_agrees_with_explain(c):
    array = np.arange(6, dtype=np.float32)[::-1]
    capsule = capsule_of(array)
    dtypes = (DLDataType * 1)(DLDataType(2, 32, 1))
    traits = sized(Traits, name=b"torch", dtypes=dtypes, dtype_count=1, max_ndim=64, accepts=2, devices=1 << 1)
    for mode, copy in ((0, {}), (1, {"copy": False}), (2, {"copy": None}), (3, {"copy": True})):
        expected = dlbridge.explain(array, "torch", **copy)
        reasons = (ctypes.c_char_p * 4)()
        text = ctypes.create_string_buffer(512)
        result = sized(PlanResult, reasons=reasons, reasons_capacity=4, message_capacity=512)
        result.message = ctypes.cast(text, ctypes.c_char_p)
        request = sized(Request, copy=mode)
        arguments = [ctypes.byref(x) for x in (versioned_of(capsule), traits, request, result)]
        assert c.dlb_plan(*arguments) == OK, last_error(c)
        assert result.verdict == (REFUSE if mode < 2 else COPY)
        assert [reason.decode() for reason in reasons[: result.reasons_count]] == expected.reasons
        assert result.bytes == expected.bytes == 24
        assert text.value.decode() == expected.message


def test_version_of_the_package(c):
    info = sized(VersionInfo)
    assert c.dlb_version(ctypes.byref(info)) == OK
    assert f"{info.major}.{info.minor}.{info.patch}" == dlbridge.__version__
    assert (info.c_api, info.dlpack_major, info.dlpack_minor) == (1, 1, 3)
    info.struct_size -= 1
    assert c.dlb_version(ctypes.byref(info)) == WRONG_STRUCT_SIZE


# ---- docs/c.md ----


def declared_functions(header: str = HEADER) -> list[str]:
    return re.findall(r"^DLBRIDGE_API dlb_status (dlb_\w+)\(", header, re.MULTILINE)


def section(title: str) -> str:
    return GUIDE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(title: str) -> Iterator[list[str]]:
    """The cells of each row of a section's table that begins with code."""
    for line in section(title).splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def test_declarations_are_counted():
    assert len(declared_functions()) == HEADER.count("DLBRIDGE_API ") == 21
    assert len(declared_functions(CUDA_HEADER)) == CUDA_HEADER.count("DLBRIDGE_API ") == 23


@pytest.mark.parametrize(
    ("title", "header"), [("Functions", HEADER), ("Functions of the CUDA module", CUDA_HEADER)], ids=["core", "cuda"]
)
def test_function_table_is_complete(title, header):
    table = {cells[0].strip("`"): cells[1:] for cells in rows(title)}
    assert list(table) == declared_functions(header)
    assert all(len(cells) == 3 and all(cells) for cells in table.values())


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
    table = [(cells[0].strip("`"), cells[1]) for cells in rows("Statuses")]
    assert table == values


def test_guide_quotes_example():
    blocks = re.findall(r"^```c\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 9
    for block in blocks:
        assert any(block in example for example in EXAMPLES)

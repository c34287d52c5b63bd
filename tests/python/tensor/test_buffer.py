# SPDX-License-Identifier: Apache-2.0
"""The buffer protocol of dlbridge.Tensor, request by request; NumPy's own exports are the measure where they exist."""

from __future__ import annotations

import array as stdlib_array
import ctypes
import gc
import hashlib
import io
import itertools
import struct
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from capsules import Crafted, _capi
from dtypes import random_array

import dlbridge
from support import AS, LAYOUTS, address, assert_no_growth, read_only, refusal


class PyBuffer(ctypes.Structure):
    """Py_buffer."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.POINTER(ctypes.c_ssize_t)),
        ("strides", ctypes.POINTER(ctypes.c_ssize_t)),
        ("suboffsets", ctypes.POINTER(ctypes.c_ssize_t)),
        ("internal", ctypes.c_void_p),
    ]


_get = _capi("PyObject_GetBuffer", ctypes.c_int, ctypes.py_object, ctypes.c_void_p, ctypes.c_int)
_release = _capi("PyBuffer_Release", None, ctypes.c_void_p)

WRITABLE, FORMAT, ND = 0x1, 0x4, 0x8
STRIDES = 0x10 | ND
ORDERS = {
    "simple": 0,
    "nd": ND,
    "strides": STRIDES,
    "c": 0x20 | STRIDES,
    "f": 0x40 | STRIDES,
    "any": 0x80 | STRIDES,
    "indirect": 0x100 | STRIDES,
}
READ_ONLY_FULL = ORDERS["indirect"] | FORMAT


@contextmanager
def buffer(x: Any, flags: int) -> Iterator[PyBuffer]:
    """The Py_buffer that `x` answers a request with."""
    view = PyBuffer()
    _get(x, ctypes.addressof(view), flags)
    try:
        yield view
    finally:
        _release(ctypes.addressof(view))


def ask(x: Any, flags: int) -> None:
    """Makes a request, and ends it."""
    with buffer(x, flags):
        pass


def fields(x: Any, flags: int) -> dict[str, Any] | type[Exception]:
    """What a request gives: the fields that mean something under it, or the exception's base."""
    try:
        with buffer(x, flags) as view:
            shaped, strided = flags & ND == ND, flags & STRIDES == STRIDES
            assert not view.suboffsets
            assert bool(view.shape) == (shaped and view.ndim > 0)
            assert bool(view.strides) == (strided and view.ndim > 0)
            return {
                "buf": view.buf,
                "len": view.len,
                "itemsize": view.itemsize,
                "readonly": view.readonly,
                "format": view.format,
                "shape": tuple(view.shape[: view.ndim]) if view.shape else (),
                "strides": tuple(view.strides[: view.ndim]) if view.strides else (),
            }
    except (BufferError, ValueError):  # NumPy refuses with ValueError
        return BufferError


def device_handle() -> dlbridge.Tensor:
    return dlbridge.from_dlpack(Crafted(device=(2, 1)).capsule())


# ---- formats ----

FORMATS = ["?", "b", "B", "h", "H", "i", "I", "l", "L", "q", "Q", "e", "f", "d", "Zf", "Zd"]


@pytest.mark.parametrize("code", FORMATS)
def test_formats_are_numpys(code: str) -> None:
    dtype = np.dtype({"Zf": "F", "Zd": "D"}.get(code, code))
    a = random_array(dtype)
    view = memoryview(dlbridge.from_dlpack(a))
    expected = {"q": "l", "Q": "L"}.get(code, code) if np.dtype("l").itemsize == 8 else code
    assert view.format == expected
    assert (view.itemsize, view.shape, view.strides) == (a.itemsize, a.shape, a.strides)
    assert view.nbytes == a.nbytes
    assert bytes(view) == a.tobytes()
    again = np.asarray(view)
    assert again.dtype == a.dtype
    assert address(again) == address(a)


@pytest.mark.parametrize("code", ["?", "b", "B", "h", "H", "i", "I", "l", "L", "f", "d"])
def test_elements_are_writable(code: str) -> None:
    a = np.array([[0, 1, 1], [1, 0, 1]], code)
    view = memoryview(dlbridge.from_dlpack(a))
    assert view.tolist() == a.tolist()
    assert view[1, 0] == 1
    view[1, 0] = 0
    assert a[1, 0] == 0


PADDED_TYPES = ("float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn", "int1", "int2", "int4", "uint1", "uint2", "uint4")
FLOAT8 = [name for name in dir(ml_dtypes) if name.startswith("float8_")]


@pytest.mark.parametrize("name", ["bfloat16", *FLOAT8, *PADDED_TYPES])
def test_ml_dtypes_have_no_format(name: str) -> None:
    if not hasattr(ml_dtypes, name):
        pytest.skip(f"this ml_dtypes has no {name}")
    a = random_array(np.uint8, (4, 6)).view(getattr(ml_dtypes, name))
    handle = dlbridge.from_dlpack(a)
    error = refusal(lambda: memoryview(handle))
    assert (error.code, error.field) == ("unsupported_dtype", "dtype")
    assert f"dtype is {name}" in str(error)
    assert 'x.numpy().view("uint8")' in str(error)
    assert bytes(memoryview(handle.numpy().view("uint8"))) == a.tobytes()
    for flags in (WRITABLE, WRITABLE | ND, WRITABLE | STRIDES):
        with buffer(handle, flags) as plain:
            assert (plain.buf, plain.len, plain.format) == (address(a), a.nbytes, None)


@pytest.mark.parametrize("dtype", [torch.complex32, torch.float4_e2m1fn_x2], ids=str)
def test_torch_dtypes_have_no_format(dtype: torch.dtype) -> None:
    t = torch.arange(8, dtype=torch.uint8).view(dtype)
    handle = dlbridge.from_dlpack(t)
    error = refusal(lambda: memoryview(handle))
    assert error.code == "unsupported_dtype"
    assert "x.torch()" in str(error)
    assert handle.torch().dtype == dtype
    assert hashlib.md5(handle).digest() == hashlib.md5(bytes(range(8))).digest()


def test_packed_elements_have_no_shape() -> None:
    crafted = Crafted(code=0, bits=4, shape=(5,), strides=(1,))
    handle = dlbridge.from_dlpack(crafted.capsule())
    assert "unpack it" in str(refusal(lambda: memoryview(handle)))
    with buffer(handle, 0) as plain:
        assert (plain.buf, plain.len) == (crafted.address(), 3)
    assert refusal(lambda: ask(handle, ND)).code == "unsupported_dtype"


def test_bytes_consumers_take_every_dtype() -> None:
    a = np.arange(6).astype(ml_dtypes.bfloat16)
    handle = dlbridge.from_dlpack(a)
    file = io.BytesIO()
    assert file.write(handle) == 12
    assert file.getvalue() == a.tobytes()
    assert hashlib.sha256(handle).digest() == hashlib.sha256(a.tobytes()).digest()
    assert zlib.crc32(handle) == zlib.crc32(a.tobytes())
    assert file.seek(0) == 0
    assert file.readinto(dlbridge.from_dlpack(b := np.zeros(6, ml_dtypes.bfloat16))) == 12
    assert (a == b).all()


# ---- layouts and requests ----


@pytest.mark.parametrize("writable", [0, WRITABLE], ids=["ro", "rw"])
@pytest.mark.parametrize("with_format", [0, FORMAT], ids=["bare", "format"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_requests_are_answered_like_numpy(layout: str, order: str, with_format: int, writable: int) -> None:
    a = LAYOUTS[layout]()
    flags = ORDERS[order] | with_format | writable
    theirs, ours = fields(a, flags), fields(dlbridge.from_dlpack(a), flags)
    if isinstance(theirs, dict) and isinstance(ours, dict):
        # Strides that mean nothing may differ.
        steps = [i for i, extent in enumerate(theirs["shape"]) if extent > 1 and a.size > 0]
        for answer in (theirs, ours):
            answer["strides"] = answer["strides"] and tuple(answer["strides"][i] for i in steps)
    assert ours == theirs


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memoryview_of_layouts(layout: str) -> None:
    a = LAYOUTS[layout]()
    handle = dlbridge.from_dlpack(a)
    view = memoryview(handle)
    assert view.obj is handle
    assert view.shape == a.shape
    assert view.nbytes == a.nbytes == handle.nbytes
    assert bytes(view) == bytes(handle) == a.tobytes()
    again = np.asarray(view)
    assert again.tolist() == a.tolist()
    assert a.size == 0 or address(again) == address(a)
    for order in ("c_contiguous", "f_contiguous"):
        assert getattr(view, order) == getattr(a.flags, order)


def test_refused_order_names_remedy() -> None:
    handle = dlbridge.from_dlpack(np.arange(12.0).reshape(3, 4).T)
    error = refusal(lambda: hashlib.md5(handle))
    assert (error.code, error.field) == ("invalid_argument", "strides")
    assert "C-contiguous" in str(error)
    assert "numpy.ascontiguousarray(x)" in str(error)
    assert hashlib.md5(np.ascontiguousarray(handle)).digest() == hashlib.md5(bytes(handle)).digest()
    error = refusal(lambda: ask(dlbridge.from_dlpack(np.zeros((3, 4))), ORDERS["f"]))
    assert "numpy.asfortranarray(x)" in str(error)


def test_meaningless_strides_are_canonical() -> None:
    crafted = Crafted(shape=(1, 3, 1), strides=(2**60, 1, -(2**60)))
    view = memoryview(dlbridge.from_dlpack(crafted.capsule()))
    assert view.strides == (12, 4, 4)
    assert view.tolist() == [[[0], [1], [2]]]
    empty = memoryview(dlbridge.from_dlpack(Crafted(shape=(0, 3), strides=(2**60, -(2**60)), data=None).capsule()))
    assert (empty.shape, empty.strides, empty.tolist()) == ((0, 3), (12, 4), [])


def test_empty_buffer_has_address() -> None:
    handle = dlbridge.from_dlpack(Crafted(shape=(2, 0), strides=(0, 1), data=None).capsule())
    with buffer(handle, READ_ONLY_FULL) as view:
        assert view.buf
        assert view.len == 0
    assert bytes(handle) == b""
    assert np.asarray(handle).shape == (2, 0)


def test_rank_65_is_refused() -> None:
    handle = dlbridge.from_dlpack(torch.zeros((1,) * 65))
    error = refusal(lambda: memoryview(handle))
    assert (error.code, error.field) == ("too_many_dimensions", "ndim")
    assert "65" in str(error) and "reshape" in str(error)
    assert hashlib.md5(handle).digest() == hashlib.md5(bytes(4)).digest()
    assert memoryview(dlbridge.from_dlpack(torch.zeros((1,) * 64))).ndim == 64


# ---- who may write ----


def read_only_handle() -> dlbridge.Tensor:
    return dlbridge.from_dlpack(read_only(np.arange(4.0)))


@pytest.mark.parametrize(
    "make, code",
    [
        (read_only_handle, "read_only"),
        (lambda: dlbridge.from_dlpack(np.arange(4.0).__dlpack__()), "read_only"),
        (lambda: dlbridge.from_dlpack(torch.arange(4.0).expand(3, 4)), "overlap"),
    ],
    ids=["read_only", "legacy", "broadcast"],
)
def test_read_only_buffers(make: Callable[[], dlbridge.Tensor], code: str) -> None:
    handle = make()
    view = memoryview(handle)
    assert view.readonly
    with pytest.raises(TypeError):
        view[(0,) * view.ndim] = 1
    assert not np.asarray(handle).flags.writeable
    error = refusal(lambda: ask(handle, READ_ONLY_FULL | WRITABLE))
    assert error.code == code
    assert "dlbridge.from_dlpack(x, copy=True)" in str(error)
    copied = dlbridge.from_dlpack(handle, copy=True)
    assert not memoryview(copied).readonly
    with pytest.raises((BufferError, TypeError)):
        io.BytesIO(bytes(64)).readinto(handle)


def test_single_zero_stride_is_writable() -> None:
    assert not memoryview(dlbridge.from_dlpack(AS(np.arange(4.0), (1, 4), (0, 8)))).readonly


# ---- devices ----


@pytest.mark.parametrize("flags", [0, ND, READ_ONLY_FULL], ids=["simple", "nd", "full"])
def test_device_memory_has_no_buffer(flags: int) -> None:
    error = refusal(lambda: ask(device_handle(), flags))
    assert isinstance(error, BufferError)
    assert (error.code, error.field) == ("device_not_named", "device")
    assert "cuda:1" in str(error)
    assert 'dlbridge.to_numpy(x, device="cpu")' in str(error)


@pytest.mark.parametrize("device", [(1, 0), (1, 7), (3, 0), (11, 2)])
def test_host_memory_has_buffer(device: tuple[int, int]) -> None:
    crafted = Crafted(device=device)
    assert memoryview(dlbridge.from_dlpack(crafted.capsule())).tolist() == [[0, 1, 2], [3, 4, 5]]


# ---- lifetime ----


def test_buffer_keeps_memory_alive() -> None:
    crafted = Crafted()
    handle = dlbridge.from_dlpack(crafted.capsule())
    view = memoryview(handle)
    watch = weakref.ref(crafted)
    assert watch() is crafted
    del handle
    gc.collect()
    assert crafted.calls == 0
    assert view.tolist() == [[0, 1, 2], [3, 4, 5]]
    second = view[1:]
    view.release()
    gc.collect()
    assert crafted.calls == 0
    assert second.tolist() == [[3, 4, 5]]
    del view
    second.release()
    del second
    gc.collect()
    assert crafted.calls == 1


def test_requests_leak_nothing() -> None:
    handles = [dlbridge.from_dlpack(LAYOUTS[name]()) for name in ("c", "negative", "scalar", "empty")]
    handles += [read_only_handle(), device_handle(), dlbridge.from_dlpack(np.zeros(3, ml_dtypes.bfloat16))]

    def request() -> None:
        for handle, order in itertools.product(handles, ORDERS.values()):
            fields(handle, order | FORMAT)
            fields(handle, order | WRITABLE)

    assert_no_growth(request, times=100)


def test_refused_request_leaves_no_object() -> None:
    view = PyBuffer(obj=1)
    with pytest.raises(BufferError):
        _get(read_only_handle(), ctypes.addressof(view), WRITABLE)
    assert view.obj is None


# ---- consumers of the standard library ----


def test_standard_library_consumers() -> None:
    a = np.arange(6, dtype=np.int32)
    handle = dlbridge.from_dlpack(a)
    assert struct.unpack_from("=6i", handle) == (0, 1, 2, 3, 4, 5)
    assert bytearray(handle) == a.tobytes()
    assert stdlib_array.array("i", bytes(handle)).tolist() == a.tolist()
    assert b"".join([handle, handle]) == a.tobytes() * 2
    assert memoryview(handle).cast("B").tolist() == list(a.tobytes())
    ctypes_view = (ctypes.c_int * 6).from_buffer(handle)
    ctypes_view[0] = 40
    assert a[0] == 40
    struct.pack_into("=i", handle, 4, 41)
    assert a[1] == 41

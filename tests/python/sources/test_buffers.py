# SPDX-License-Identifier: Apache-2.0
"""Objects with the buffer protocol as sources, and from_buffer()."""

import array
import ctypes
import gc
import mmap
import sys
import types
import weakref
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import dlbridge
from support import TARGETS, address, refusal

BUFFERS = {
    "bytearray": lambda: bytearray(b"\x01\x02\x03\x04"),
    "memoryview": lambda: memoryview(bytearray(b"\x01\x02\x03\x04")),
    "array_h": lambda: array.array("h", [1, -2, 3]),
    "array_d": lambda: array.array("d", [1.5, 2.5]),
    "array_L": lambda: array.array("L", [1, 2]),
    "ctypes": lambda: (ctypes.c_float * 3 * 2)((1, 2, 3), (4, 5, 6)),
    "ctypes_scalar": lambda: ctypes.c_int32(7),
    "bool": lambda: memoryview(bytearray(2)).cast("?"),
    "ndim_2": lambda: memoryview(np.arange(6, dtype=np.int16).reshape(2, 3)),
    "strided": lambda: memoryview(np.arange(12, dtype=np.complex64).reshape(3, 4)[:, ::2]),
    "mmap": lambda: mmap.mmap(-1, 4096),
}


@pytest.mark.parametrize("make", BUFFERS.values(), ids=BUFFERS)
@pytest.mark.parametrize("target", TARGETS)
def test_buffers_are_shared(make: Any, target: str) -> None:
    x = make()
    out = TARGETS[target](x)
    expected = np.asarray(x)
    assert address(out) == expected.__array_interface__["data"][0]
    assert dlbridge.to_numpy(out).tolist() == expected.tolist()
    assert dlbridge.to_numpy(out).dtype == expected.dtype
    assert dlbridge.to_numpy(out).flags.writeable
    assert dlbridge.explain(x, target).verdict == "share"


def test_read_only_buffers_stay_so() -> None:
    for x in (b"abcd", memoryview(bytearray(4)).toreadonly()):
        assert not dlbridge.to_numpy(x).flags.writeable
        assert dlbridge.from_dlpack(x).read_only
        assert refusal(lambda x=x: dlbridge.to_torch(x)).code == "read_only"
        assert dlbridge.to_torch(x, copy=None).tolist() == list(x)


def test_dtype_casts_bytes() -> None:
    assert dlbridge.to_torch(b"\x00\xff", dtype="float32").tolist() == [0.0, 255.0]
    assert dlbridge.to_numpy(b"\x00\xff", dtype="int64").tolist() == [0, 255]


def test_the_buffer_is_held_and_released(tmp_path: Path) -> None:
    x = bytearray(8)
    t = dlbridge.to_torch(x)
    view = t[2:]
    del t
    with pytest.raises(BufferError):
        x.extend(b"more")  # its memory would move
    view[0] = 9
    assert x[2] == 9
    del view
    x.extend(b"more")
    path = tmp_path / "file"
    path.write_bytes(b"\x01" * 4096)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        handle = dlbridge.from_dlpack(mapped)
        with pytest.raises(BufferError):
            mapped.close()
        handle.torch()[0] = 5
        del handle
        gc.collect()
    assert path.read_bytes()[0] == 5


@pytest.mark.parametrize("copy", [None, True])
def test_copies_release_the_buffer(copy: bool | None) -> None:
    x = memoryview(bytearray(8))[::-1]
    out = dlbridge.to_torch(x, copy=copy)
    assert out.tolist() == [0] * 8
    x.release()


@pytest.mark.parametrize(
    ("x", "found"),
    [
        (memoryview(np.zeros(2, np.longdouble)), "longdouble"),
        (memoryview(np.zeros(2, "i4,f4")), "structured"),
        (array.array("u", "text"), "str"),
        (memoryview(bytearray(b"ab")).cast("c"), "bytes"),
    ],
    ids=["longdouble", "structured", "text", "char"],
)
def test_odd_formats_are_named(x: Any, found: str) -> None:
    error = refusal(lambda: dlbridge.to_numpy(x))
    assert error.code == "unsupported_dtype"
    assert found in str(error)


def test_other_byte_orders_are_copied() -> None:
    x = memoryview(np.array([1, 2], ">i4"))
    assert refusal(lambda: dlbridge.to_numpy(x)).code == "byte_order"
    assert dlbridge.to_torch(x, copy=None).tolist() == [1, 2]


class Interface:
    """Has __array_interface__ alone, as Pillow's images do."""

    def __init__(self, array: Any, **changes: Any) -> None:
        self.array, self.changes, self.asked = array, changes, 0

    @property
    def __array_interface__(self) -> dict[str, Any]:
        self.asked += 1
        return {**self.array.__array_interface__, **self.changes}


def test_array_interfaces_are_shared() -> None:
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    x = Interface(a.T)
    t = dlbridge.to_torch(x)
    assert (t.data_ptr(), t.stride(), x.asked) == (address(a), (1, 3), 1)
    alive = weakref.ref(x)
    del x
    assert alive() is not None  # the tensor holds it
    del t
    assert alive() is None


def test_an_interface_of_the_instance_alone_is_read() -> None:
    a = np.arange(3)
    x = types.SimpleNamespace(__array_interface__=a.__array_interface__, keeps=a)
    assert address(dlbridge.to_numpy(x)) == address(a)


def test_a_copy_of_the_producer_is_named() -> None:
    x = Interface(np.arange(3, dtype=np.uint8), data=b"\x01\x02\x03")
    h = dlbridge.from_dlpack(x)
    assert h.is_copied
    assert h.read_only
    assert h.numpy().tolist() == [1, 2, 3]
    assert not dlbridge.from_dlpack(b"123").is_copied


def test_unreadable_interfaces_are_named() -> None:
    with pytest.raises(TypeError, match="mask"):
        dlbridge.to_torch(Interface(np.zeros(3), mask=Interface(np.zeros(3, bool))))
    with pytest.raises(TypeError, match="__array_interface__"):
        dlbridge.to_torch(Interface(np.zeros(3), typestr="nonsense"))


def test_a_closed_buffer_raises() -> None:
    x = memoryview(bytearray(2))
    x.release()
    with pytest.raises(ValueError, match="released"):
        dlbridge.to_numpy(x)


# ---- from_buffer ----


@pytest.mark.parametrize("dtype", ["float32", "<f4", np.float32, np.dtype("f4"), torch.float32])
def test_bytes_are_read_as_elements(dtype: Any) -> None:
    x = np.arange(6, dtype=np.float32).tobytes()
    h = dlbridge.from_buffer(x, dtype, shape=(2, -1))
    assert h.numpy().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert h.read_only
    assert address(h.numpy()) == np.frombuffer(x, "u1").__array_interface__["data"][0]


def test_offset_and_shape() -> None:
    x = bytearray(np.arange(6, dtype=np.int16))
    assert dlbridge.from_buffer(x, "int16", offset=4).torch().tolist() == [2, 3, 4, 5]
    assert dlbridge.from_buffer(x, "int16", 2, 2).numpy().tolist() == [1, 2]
    assert dlbridge.from_buffer(x, "int16", (), 2).numpy().tolist() == 1
    assert dlbridge.from_buffer(x, "int16", (0, 3), 12).shape == (0, 3)
    assert dlbridge.from_buffer(x, "uint8", offset=1).nbytes == 11
    assert dlbridge.from_buffer(b"", "float64").shape == (0,)


def test_any_contiguous_source_is_read() -> None:
    t = torch.arange(4, dtype=torch.float32)
    again = dlbridge.from_buffer(t, "bfloat16").torch()
    assert again.dtype == torch.bfloat16
    assert again.untyped_storage().data_ptr() == t.untyped_storage().data_ptr()
    bits = dlbridge.from_buffer(np.ones(2, ml_dtypes.bfloat16), "uint16").numpy()
    assert bits.tolist() == [0x3F80] * 2


@pytest.mark.parametrize(
    ("arguments", "field", "code"),
    [
        ({"dtype": "float32"}, "shape", "invalid_argument"),
        ({"dtype": "float32", "shape": 3}, "shape", "invalid_argument"),
        ({"dtype": "float32", "shape": (-1, -1)}, "shape", "invalid_argument"),
        ({"dtype": "float32", "shape": (-2,)}, "shape", "invalid_argument"),
        ({"dtype": "uint8", "shape": (3, -1)}, "shape", "invalid_argument"),
        ({"dtype": "uint8", "shape": (1 << 40, 1 << 40)}, "shape", "invalid_argument"),
        ({"dtype": "uint8", "shape": (0, -1)}, "shape", "invalid_argument"),
        ({"dtype": "uint8", "offset": 11}, "offset", "invalid_argument"),
        ({"dtype": "uint8", "offset": -1}, "offset", "invalid_argument"),
        ({"dtype": "int4"}, "dtype", "invalid_dtype"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], field: str, code: str) -> None:
    x = bytes(10)
    before = sys.getrefcount(x)
    error = refusal(lambda: dlbridge.from_buffer(x, **arguments))
    assert (error.field, error.code) == (field, code)
    assert sys.getrefcount(x) == before


def test_other_memory_is_refused() -> None:
    x = np.arange(12.0).reshape(3, 4)[:, ::2]
    error = refusal(lambda: dlbridge.from_buffer(x, "float64"))
    assert error.field == "strides"
    assert 'dlbridge.from_dlpack(x, order="C")' in str(error)
    assert dlbridge.from_buffer(dlbridge.from_dlpack(x, order="C"), "float64").numpy().tolist() == x.ravel().tolist()
    x = np.arange(3, dtype=">f4")
    assert "dlbridge.from_dlpack(x, copy=None)" in str(refusal(lambda: dlbridge.from_buffer(x, "uint8")))
    assert dlbridge.from_buffer(dlbridge.from_dlpack(x, copy=None), "float32").numpy().tolist() == [0, 1, 2]
    assert "numpy.frombuffer(x, dtype)" in str(refusal(lambda: dlbridge.from_buffer(b"1234", ">f4")))
    assert refusal(lambda: dlbridge.from_buffer(torch.ones(2, requires_grad=True), "uint8")).code == "requires_grad"
    with pytest.raises(TypeError, match="x is int"):
        dlbridge.from_buffer(3, "uint8")
    with pytest.raises(TypeError):
        dlbridge.from_buffer(b"1234", "uint8", 1.5)
    with pytest.raises(dlbridge.ExchangeError, match="dtype is 'no such type'; expected "):
        dlbridge.from_buffer(b"1234", "no such type")


# ---- only __array__ ----


@pytest.mark.parametrize(
    ("package", "call"), [("pandas", "x.to_numpy()"), ("h5py", "x[()]"), ("other", "numpy.asarray(x)")]
)
def test_arrays_by_a_call_are_named(package: str, call: str) -> None:
    names = ["__array__", "to_numpy"] if "to_numpy" in call else ["__array__"]
    methods = dict.fromkeys(names, lambda self: np.zeros(2))
    kind = type("Series", (), {**methods, "__module__": f"{package}.core"})
    with pytest.raises(TypeError) as caught:
        dlbridge.to_torch(kind())
    assert str(caught.value).endswith(f"pass {call}")

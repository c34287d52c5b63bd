# SPDX-License-Identifier: Apache-2.0
"""dlbridge.Tensor: its properties, numpy(), torch() and __array__, and what its __dlpack__ exports."""

from __future__ import annotations

import enum
import itertools
import re
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from capsules import IS_COPIED, PADDED, READ_ONLY, Crafted, legacy_of, name_of, versioned_of

import dlbridge
from isolated import run_isolated
from support import address, array, assert_no_growth, read_only, refusal

# ---- properties ----


def test_properties() -> None:
    a = array()[:, 1:, ::2]
    handle = dlbridge.from_dlpack(a)
    assert type(handle) is dlbridge.Tensor
    assert handle.shape == (2, 2, 2)
    assert handle.strides == (12, 4, 2)
    assert handle.dtype == "float32"
    assert handle.device == "cpu"
    assert handle.ndim == 3
    assert (handle.nbytes, handle.size, handle.itemsize, len(handle)) == (32, 8, 4, 2)
    assert handle.data_ptr == address(a)
    assert handle.read_only is False
    assert handle.is_copied is False
    assert isinstance(handle.shape, tuple)
    assert type(handle.data_ptr) is int


def test_properties_of_unusual_layouts() -> None:
    scalar = dlbridge.from_dlpack(np.array(2.5))
    assert (scalar.shape, scalar.strides, scalar.ndim, scalar.nbytes) == ((), (), 0, 8)
    empty = dlbridge.from_dlpack(np.empty((3, 0)))
    assert (empty.shape, empty.nbytes, empty.size, len(empty)) == ((3, 0), 0, 0, 3)
    assert scalar.size == 1
    with pytest.raises(TypeError, match=r"x\.numpy\(\)\[\(\)\]"):
        len(scalar)
    flipped = dlbridge.from_dlpack(np.arange(4.0)[::-1])
    assert flipped.strides == (-1,)
    broadcast = dlbridge.from_dlpack(torch.ones(3).expand(2, 3))
    assert broadcast.strides == (0, 1)
    assert dlbridge.from_dlpack(torch.zeros((1,) * 65)).ndim == 65


def test_handles_are_true() -> None:
    assert all(dlbridge.from_dlpack(np.zeros(shape)) for shape in [(0, 3), (), (2,)])


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float32", "complex128"])
def test_array_interface(dtype: str) -> None:
    array = np.zeros((4, 6), dtype)[1:3, ::2]
    interface = dlbridge.from_dlpack(array).__array_interface__
    expected = array.__array_interface__
    assert interface == {name: expected[name] for name in ("version", "shape", "typestr", "data", "strides")}
    assert dlbridge.from_dlpack(np.zeros(3, dtype)).__array_interface__["strides"] is None


@pytest.mark.parametrize(
    "array", [read_only(np.zeros(3)), np.broadcast_to(np.zeros(3), (2, 3))], ids=["read_only", "broadcast"]
)
def test_array_interface_is_read_only(array: np.ndarray) -> None:
    assert dlbridge.from_dlpack(array).__array_interface__["data"] == (address(array), True)


def test_array_interface_refuses_other_types() -> None:
    x = dlbridge.from_dlpack(torch.ones(2, dtype=torch.bfloat16))
    with pytest.raises(AttributeError, match="no __array_interface__ here: NumPy has no code for its dtype") as raised:
        x.__array_interface__  # noqa: B018
    call = re.search(r"pass (.+), a copy$", str(raised.value))
    assert call and eval(call[1]).__array_interface__["typestr"] == "<f4"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tobytes_is_row_major(dtype: str) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype if dtype != "bfloat16" else ml_dtypes.bfloat16)[::-1, ::2].T
    assert dlbridge.from_dlpack(array).tobytes() == array.tobytes()


def test_size_one_strides_are_canonical() -> None:
    array = np.lib.stride_tricks.as_strided(np.zeros(40, "f4"), (1, 3, 1, 4), (4000, 32, 28, 4))
    handle = dlbridge.from_dlpack(array)
    assert handle.__array_interface__["strides"] == (96, 32, 16, 4)
    assert np.from_dlpack(handle).strides == (96, 32, 16, 4)
    assert handle.strides == (1000, 8, 7, 1)


def test_properties_cannot_be_set() -> None:
    handle = dlbridge.from_dlpack(array())
    for name in (
        "shape",
        "strides",
        "dtype",
        "device",
        "ndim",
        "nbytes",
        "size",
        "itemsize",
        "data_ptr",
        "read_only",
        "is_copied",
    ):
        with pytest.raises(AttributeError):
            setattr(handle, name, None)
    with pytest.raises(TypeError):
        dlbridge.Tensor()


def test_repr_of_handles() -> None:
    a = array()
    text = repr(dlbridge.from_dlpack(a))
    expected = (
        f"dlbridge.Tensor(shape=(2, 3, 4), strides=(12, 4, 1), dtype=float32, device=cpu, data_ptr={address(a):#x})"
    )
    assert text == expected
    assert "read_only" in repr(dlbridge.from_dlpack(read_only(array())))
    assert "is_copied" in repr(dlbridge.from_dlpack(a, copy=True))


def test_handles_at_exit_print_nothing() -> None:
    output = run_isolated(
        """
        import builtins
        kept, builtins.kept = (dlbridge.from_dlpack(np.zeros(3)) for _ in range(2))
        cycle = [dlbridge.from_dlpack(np.zeros(3))]
        cycle.append(cycle)
        sys.stderr = sys.stdout
        os.dup2(1, 2)
        """,
        prelude="import os, sys\nimport numpy as np\nimport dlbridge\n",
    )
    assert output == ""


def test_handles_compare_by_identity() -> None:
    a = array()
    first, second = dlbridge.from_dlpack(a), dlbridge.from_dlpack(a)
    assert first == first
    assert first != second
    assert hash(first) != hash(second)
    assert {first: 1, second: 2}[first] == 1


def test_handles_have_no_constructor() -> None:
    class Derived(dlbridge.Tensor):
        pass

    for make in (dlbridge.Tensor, lambda: dlbridge.Tensor.__new__(dlbridge.Tensor), Derived):
        with pytest.raises(TypeError, match=r"dlbridge.from_dlpack\(x\)"):
            make()
    with pytest.raises(TypeError, match="not safe"):
        object.__new__(dlbridge.Tensor)


# ---- numpy(), torch(), __array__ ----


def test_array_protocol() -> None:
    a = array()
    handle = dlbridge.from_dlpack(a)
    assert address(np.asarray(handle)) == address(a)
    assert type(np.asarray(handle)) is np.ndarray
    assert address(np.array(handle)) != address(a)
    assert np.array(handle).tolist() == a.tolist()
    assert address(np.array(handle, copy=False)) == address(a)
    cast = np.asarray(handle, dtype=np.float64)
    assert cast.dtype == np.float64
    assert cast.tolist() == a.tolist()
    assert address(np.asarray(handle, dtype=np.float32)) == address(a)
    with pytest.raises(ValueError):
        np.array(handle, dtype=np.float64, copy=False)
    assert handle.__array__(np.float64).dtype == np.float64
    assert handle.__array__(copy=True).flags.owndata
    assert address(handle.__array__(dtype=None, copy=False)) == handle.data_ptr
    assert (np.add(handle, 1) == a + 1).all()
    assert not np.asarray(dlbridge.from_dlpack(read_only(array()))).flags.writeable


def test_array_protocol_of_bfloat16() -> None:
    a = array().astype(ml_dtypes.bfloat16)
    handle = dlbridge.from_dlpack(a)
    assert address(np.asarray(handle)) == address(np.array(handle, copy=False)) == address(a)
    assert address(np.array(handle)) != address(a)
    assert np.asarray(handle, dtype=np.float32).tolist() == array().tolist()
    with pytest.raises(ValueError, match="copy"):
        np.array(handle, dtype=np.float32, copy=False)


@pytest.mark.parametrize("call", [np.asarray, np.array, lambda x: np.asarray(x, dtype="f4")])
def test_array_protocol_refuses_device_memory(call: Callable[[Any], Any]) -> None:
    handle = dlbridge.from_dlpack(Crafted(device=(2, 0), data=64).capsule())
    assert refusal(lambda: call(handle)).code == "device_not_named"


# ---- __dlpack__ ----


class Device(enum.IntEnum):
    CPU = 1
    CUDA = 2


STREAMS = {"none": None, "zero": 0, "one": 1, "minus_one": -1, "text": "s"}
VERSIONS = {"none": None, "0.8": (0, 8), "1.0": (1, 0), "1.3": (1, 3), "2.100": (2, 100)}
DEVICES = {"none": None, "cpu": (1, 0), "cpu_enum": (Device.CPU, 0), "cuda": (2, 0)}
COPIES = {"none": None, "false": False, "true": True}
SOURCES = {"writable": array, "read_only": lambda: read_only(array())}


def expected_outcome(stream: Any, version: Any, device: Any, copy: Any, readonly: bool) -> Any:
    """A capsule's name, or the exceptions that may be raised (what is checked first is free)."""
    errors: list[type] = []
    if isinstance(stream, str):
        errors.append(TypeError)
    elif stream is not None:
        errors.append(BufferError)
    if device is not None and device[0] != 1:
        errors.append(BufferError)
    versioned = version is not None and version[0] >= 1
    if readonly and not versioned and copy is not True:
        errors.append(BufferError)
    if errors:
        return tuple(errors)
    return "dltensor_versioned" if versioned else "dltensor"


@pytest.mark.rule(31, 32, 84, 96, 98)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("stream", STREAMS)
def test_dlpack_keyword_combinations(stream: str, version: str, device: str, copy: str, source: str) -> None:
    handle = dlbridge.from_dlpack(SOURCES[source]())
    keywords = {
        "stream": STREAMS[stream],
        "max_version": VERSIONS[version],
        "dl_device": DEVICES[device],
        "copy": COPIES[copy],
    }
    outcome = expected_outcome(*keywords.values(), readonly=source == "read_only")
    if isinstance(outcome, tuple):
        with pytest.raises(outcome):
            handle.__dlpack__(**keywords)
        return
    capsule = handle.__dlpack__(**keywords)
    assert name_of(capsule) == outcome
    managed = versioned_of(capsule) if outcome == "dltensor_versioned" else legacy_of(capsule)
    tensor = managed.dl_tensor
    copied = keywords["copy"] is True
    assert (tensor.data == handle.data_ptr) != copied
    assert tensor.byte_offset == 0
    assert (tensor.device_type, tensor.device_id, tensor.ndim) == (1, 0, 3)
    assert (tensor.code, tensor.bits, tensor.lanes) == (2, 32, 1)
    assert [tensor.shape[i] for i in range(3)] == [2, 3, 4]
    assert [tensor.strides[i] for i in range(3)] == [12, 4, 1]
    if outcome == "dltensor_versioned":
        assert managed.major == 1
        assert bool(managed.flags & IS_COPIED) == copied
        assert bool(managed.flags & READ_ONLY) == (source == "read_only" and not copied)
        assert managed.flags & ~3 == 0


WRONG_KEYWORDS = {
    "stream": [2, -2, 2**31, 2**80, True, "0", 1.0, []],
    "copy": [1, 0, "yes", np.True_],
    "max_version": [1, "1.0", (1,), ("1", 0), (1, 0, 0)],
    "dl_device": ["cpu", (1,), 1, (1, "0"), (99, 0)],
}


@pytest.mark.rule(79, 97, 99)
@pytest.mark.parametrize(
    "keyword, value", [(name, value) for name, values in WRONG_KEYWORDS.items() for value in values], ids=repr
)
def test_dlpack_refuses_wrong_keywords(keyword: str, value: Any) -> None:
    kinds = (TypeError, ValueError) if keyword != "stream" else BufferError if isinstance(value, int) else TypeError
    with pytest.raises(kinds, match=keyword):
        dlbridge.from_dlpack(array()).__dlpack__(**{keyword: value})


@pytest.mark.rule(98)
def test_dlpack_refuses_another_device() -> None:
    on_cuda = dlbridge.from_dlpack(Crafted(device=(2, 1)).capsule())
    assert (on_cuda.device, on_cuda.__dlpack_device__()) == ("cuda:1", (2, 1))
    for handle, device in ((dlbridge.from_dlpack(array()), (2, 0)), (on_cuda, (1, 0))):
        with pytest.raises(BufferError, match="device"):
            handle.__dlpack__(dl_device=device)
    with pytest.raises(BufferError, match="the memory is on cpu"):
        dlbridge.from_dlpack(array()).__dlpack__(dl_device=(3, 0))


def test_dlpack_of_pinned_memory() -> None:
    handle = dlbridge.from_dlpack(Crafted(device=(3, 0)).capsule())

    def exported(device: Any, copy: Any = None) -> tuple[int, int]:
        capsule = handle.__dlpack__(max_version=(1, 0), dl_device=device, copy=copy)
        tensor = versioned_of(capsule).dl_tensor
        assert (tensor.data == handle.data_ptr) == (copy is not True)
        return tensor.device_type, tensor.device_id

    assert handle.__dlpack_device__() == exported(None) == exported((3, 0)) == (3, 0)
    assert exported((1, 0)) == exported((1, 0), True) == exported(None, True) == (1, 0)
    with pytest.raises(BufferError, match="the memory is on cpu"):
        exported((3, 0), True)


def test_dlpack_takes_keywords_only() -> None:
    with pytest.raises(TypeError):
        dlbridge.from_dlpack(array()).__dlpack__(None)
    with pytest.raises(TypeError):
        dlbridge.from_dlpack(array()).__dlpack__(unknown=1)


def test_copied_capsules_are_independent() -> None:
    for make in (array, lambda: array()[::-1, :, ::-2], lambda: read_only(array())):
        handle = dlbridge.from_dlpack(make())
        out = dlbridge.to_numpy(handle.__dlpack__(max_version=(1, 0), copy=True))
        assert out.tolist() == make().tolist()
        assert out.flags.writeable
        assert not dlbridge.shares_memory(out, handle)


@pytest.mark.rule(107)
def test_flags_survive_the_handle() -> None:
    padded = dlbridge.from_dlpack(Crafted(code=15, bits=6, shape=(4,), strides=(1,), flags=PADDED).capsule())
    assert (padded.dtype, padded.nbytes) == ("float6_e2m3fn", 4)
    assert padded.numpy().dtype == np.dtype(ml_dtypes.float6_e2m3fn)
    managed_capsule = padded.__dlpack__(max_version=(1, 1))
    assert versioned_of(managed_capsule).flags == PADDED
    tensor = versioned_of(managed_capsule).dl_tensor
    assert (tensor.code, tensor.bits, tensor.lanes) == (15, 6, 1)
    again = dlbridge.from_dlpack(managed_capsule)
    assert versioned_of(again.__dlpack__(max_version=(1, 1))).flags == PADDED
    copied = dlbridge.from_dlpack(read_only(array()), copy=True)
    assert versioned_of(dlbridge.from_dlpack(copied).__dlpack__(max_version=(1, 0))).flags == IS_COPIED
    shared = dlbridge.from_dlpack(dlbridge.from_dlpack(read_only(array())))
    assert versioned_of(shared.__dlpack__(max_version=(1, 0))).flags == READ_ONLY


@pytest.mark.parametrize("dtype", [ml_dtypes.float4_e2m1fn, ml_dtypes.int4], ids=lambda dtype: dtype.__name__)
def test_legacy_capsules_refuse_padding(dtype: type) -> None:
    handle = dlbridge.from_dlpack(np.zeros(4, dtype))
    text = rf"dtype is {handle.dtype}, padded .*; expected a versioned descriptor: pass max_version=\(1, 3\)"
    for copy in (None, True):
        with pytest.raises(dlbridge.ExchangeError, match=text) as caught:
            handle.__dlpack__(copy=copy)
        assert (caught.value.code, caught.value.field) == ("unsupported_dtype", "dtype")
    assert dlbridge.to_numpy(handle.__dlpack__(max_version=(1, 3))).dtype == dtype


@pytest.mark.rule(47)
def test_dropped_capsules_release_once() -> None:
    a = array()
    handle = dlbridge.from_dlpack(a)
    before = sys.getrefcount(a)
    for version, copy in itertools.product((None, (1, 0)), (None, True)):
        assert_no_growth(lambda v=version, c=copy: handle.__dlpack__(max_version=v, copy=c))
    assert sys.getrefcount(a) == before
    handle = None
    assert sys.getrefcount(a) == before - 1


def test_wrong_dl_device_is_named() -> None:
    handle = dlbridge.from_dlpack(Crafted().capsule())
    error = refusal(lambda: handle.__dlpack__(dl_device=(99, 0)))
    assert error.code == "invalid_device"
    assert "(99, 0)" in str(error) and "(1, 0)" in str(error)
    with pytest.raises(TypeError, match="dl_device is 'cpu'"):
        handle.__dlpack__(dl_device="cpu")
    assert handle.__dlpack__(dl_device=(1, 0), max_version=(1, 0)) is not None

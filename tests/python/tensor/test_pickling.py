# SPDX-License-Identifier: Apache-2.0
"""Pickles and copies of dlbridge.Tensor: what survives, what is shared, what is refused."""

from __future__ import annotations

import base64
import copy
import ctypes
import gc
import mmap
import multiprocessing
import pickle
import pickletools
import weakref
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from capsules import Crafted, versioned_of
from dtypes import random_array
from refusals import without_gpu

import dlbridge
from dlbridge import _pickling
from isolated import run_isolated
from support import DTYPE_PAIRS, LAYOUTS, address, assert_no_growth, raw, read_only, refusal

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def through(handle: Any, protocol: int) -> Any:
    return pickle.loads(pickle.dumps(handle, protocol=protocol))


def out_of_band(handle: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    buffers: list[pickle.PickleBuffer] = []
    return pickle.dumps(handle, protocol=5, buffer_callback=buffers.append), buffers


def loaded_over(handle: Any, memory: Any) -> dlbridge.Tensor:
    """The handle's pickle, loaded over other memory."""
    return pickle.loads(out_of_band(handle)[0], buffers=[memory])


def floats() -> dlbridge.Tensor:
    return dlbridge.from_dlpack(np.arange(6, dtype=np.float32).reshape(2, 3))


# ---- what survives ----


FURTHER = ["float8_e3m4", "float8_e4m3b11fnuz", "float6_e2m3fn", "float4_e2m1fn", "int4", "uint2"]  # of ml_dtypes alone


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", [*DTYPE_PAIRS, *FURTHER])
def test_dtypes_survive_pickling(name: str, protocol: int) -> None:
    a = random_array(name, (3, 5))
    handle = dlbridge.from_dlpack(a)
    again = through(handle, protocol)
    assert type(again) is dlbridge.Tensor
    assert (again.dtype, again.shape, again.strides) == (handle.dtype, (3, 5), (5, 1))
    assert again.device == "cpu"
    assert again.data_ptr != handle.data_ptr
    assert again.numpy().dtype == a.dtype
    assert raw(again.numpy()) == raw(a)


@pytest.mark.parametrize("dtype", [torch.complex32, torch.float4_e2m1fn_x2], ids=str)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_torch_dtypes_survive(dtype: torch.dtype, protocol: int) -> None:
    t = torch.arange(24, dtype=torch.uint8).view(dtype).reshape(2, -1)
    again = through(dlbridge.from_dlpack(t), protocol).torch()
    assert again.dtype == dtype
    assert again.shape == t.shape
    assert again.view(torch.uint8).tolist() == t.view(torch.uint8).tolist()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_packed_elements_survive(protocol: int) -> None:
    crafted = Crafted(code=0, bits=4, shape=(3, 5), strides=(5, 1))
    again = through(dlbridge.from_dlpack(crafted.capsule()), protocol)
    assert (again.dtype, again.shape, again.nbytes) == ("int4", (3, 5), 8)
    memory = versioned_of(again.__dlpack__(max_version=(1, 3))).dl_tensor.data
    assert ctypes.string_at(memory, 8) == bytes(crafted.memory)[:8]


DENSE = ("c", "f", "permuted", "scalar", "size_1", "rank_32")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_survive_pickling(layout: str, protocol: int) -> None:
    a = LAYOUTS[layout]()
    again = through(dlbridge.from_dlpack(a), protocol)
    assert again.shape == a.shape
    assert again.numpy().tolist() == a.tolist()
    assert again.read_only == (not a.flags.writeable)
    loaded = again.numpy()
    assert a.size == 0 or a.nbytes == a.itemsize + sum(
        (n - 1) * s for n, s in zip(a.shape, loaded.strides, strict=True)
    )
    if layout in DENSE:
        steps = [i for i, extent in enumerate(a.shape) if extent > 1]
        assert [loaded.strides[i] for i in steps] == [a.strides[i] for i in steps]


def test_gaps_are_not_pickled() -> None:
    wide = np.zeros((100, 1000))[:, ::100]
    assert len(pickle.dumps(dlbridge.from_dlpack(wide))) < 1.1 * wide.size * 8 + 200
    spread = np.broadcast_to(np.zeros(1), (500,))
    assert through(dlbridge.from_dlpack(spread), 5).strides == (1,)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("strided", [False, True], ids=["dense", "strided"])
def test_read_only_survives(strided: bool, protocol: int) -> None:
    a = np.arange(6.0)[:: 2 if strided else 1]
    writable = through(dlbridge.from_dlpack(a, copy=True), protocol)
    assert not writable.read_only
    assert not writable.is_copied
    writable.numpy()[0] = 40
    assert a[0] == 0
    kept = through(dlbridge.from_dlpack(read_only(a)), protocol)
    assert kept.read_only
    assert not kept.numpy().flags.writeable
    assert kept.numpy().tolist() == a.tolist()


def test_legacy_memory_pickles_read_only() -> None:
    assert through(dlbridge.from_dlpack(np.arange(3.0).__dlpack__()), 5).read_only


def test_pinned_memory_pickles_as_host() -> None:
    again = through(dlbridge.from_dlpack(Crafted(device=(3, 0)).capsule()), 5)
    assert again.device == "cpu"
    assert again.numpy().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_identity_survives_pickling() -> None:
    handle = floats()
    first, second, other = through([handle, handle, floats()], 5)
    assert first is second
    assert first is not other
    assert not dlbridge.shares_memory(first, other)


# ---- out of band ----


@pytest.mark.parametrize("layout", DENSE)
def test_dense_memory_out_of_band(layout: str) -> None:
    a = LAYOUTS[layout]()
    handle = dlbridge.from_dlpack(a)
    data, buffers = out_of_band(handle)
    assert len(buffers) == 1
    assert len(data) < 700  # the memory is not in there
    again = pickle.loads(data, buffers=buffers)
    assert again.data_ptr == handle.data_ptr == address(a)
    assert again.shape == a.shape
    assert again.numpy().tolist() == a.tolist()
    assert not again.read_only


def test_strided_memory_is_packed_once() -> None:
    a = np.arange(24.0)[::2]
    data, buffers = out_of_band(dlbridge.from_dlpack(a))
    assert memoryview(buffers[0]).nbytes == a.nbytes
    again = pickle.loads(data, buffers=buffers)
    assert not dlbridge.shares_memory(again, a)
    assert again.data_ptr == address(np.asarray(memoryview(buffers[0])))
    assert again.numpy().tolist() == a.tolist()


MEMORY: dict[str, Callable[[], Any]] = {
    "bytes": lambda: bytes(24),
    "bytearray": lambda: bytearray(24),
    "read_only_view": lambda: memoryview(bytearray(24)).toreadonly(),
    "view": lambda: memoryview(bytearray(24)),
    "longer": lambda: bytearray(40),
    "floats": lambda: np.zeros(6, np.float32),
    "matrix": lambda: np.zeros((3, 8), np.uint8),
    "mmap": lambda: mmap.mmap(-1, 24),
    "tensor": lambda: dlbridge.from_dlpack(np.zeros(6, np.float32)),
    "read_only_array": lambda: read_only(np.zeros(6, np.float32)),
}
IMMUTABLE = ("bytes", "read_only_view", "read_only_array")


@pytest.mark.parametrize("source", ["writable", "read_only"])
@pytest.mark.parametrize("kind", MEMORY)
def test_loading_shares_given_buffer(kind: str, source: str) -> None:
    a = np.arange(6, dtype=np.float32)
    handle = dlbridge.from_dlpack(read_only(a) if source == "read_only" else a)
    memory = MEMORY[kind]()
    again = loaded_over(handle, memory)
    assert again.data_ptr == address(np.frombuffer(memory, np.uint8))
    assert again.read_only == (source == "read_only" or kind in IMMUTABLE)
    if not again.read_only:
        again.numpy()[1] = 5
        assert bytes(memoryview(memory).cast("B"))[4:8] == np.float32(5).tobytes()


def test_loaded_tensor_holds_buffer() -> None:
    memory = bytearray(24)
    again = loaded_over(floats(), memory)
    exported = again.torch()
    with pytest.raises(BufferError):
        memory.append(1)
    del again
    gc.collect()
    with pytest.raises(BufferError):
        memory.append(1)
    del exported
    gc.collect()
    memory.append(1)


def test_pickle_buffer_holds_memory() -> None:
    a = np.arange(6.0)
    watch = weakref.ref(a)
    data, buffers = out_of_band(dlbridge.from_dlpack(a))
    del a
    gc.collect()
    assert pickle.loads(data, buffers=buffers).numpy().tolist() == [0, 1, 2, 3, 4, 5]
    assert watch() is not None
    buffers.clear()
    gc.collect()
    assert watch() is None


# ---- what is refused ----


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_device_memory_is_not_pickled(protocol: int) -> None:
    handle = dlbridge.from_dlpack(Crafted(device=(2, 1), data=64).capsule())
    error = refusal(lambda: pickle.dumps(handle, protocol=protocol))
    assert (error.code, error.field) == ("device_not_named", "device")
    assert "cuda:1" in str(error)
    assert 'dlbridge.from_dlpack(x, device="cpu")' in str(error)


def test_rank_65_is_not_pickled() -> None:
    t = torch.arange(2.0).reshape((1,) * 63 + (2,))
    again = through(dlbridge.from_dlpack(t), 5)
    assert again.shape == t.shape
    assert again.torch().tolist() == t.tolist()
    error = refusal(lambda: pickle.dumps(dlbridge.from_dlpack(torch.zeros((1,) * 65))))
    assert (error.code, error.field) == ("too_many_dimensions", "ndim")


@pytest.mark.parametrize("memory", [b"", bytes(23), bytearray(8)], ids=len)
def test_small_buffers_are_refused(memory: Any) -> None:
    error = refusal(lambda: loaded_over(floats(), memory))
    assert (error.code, error.field) == ("invalid_argument", "data")
    assert f"{len(memory)} bytes" in str(error) and "24 bytes" in str(error)
    assert "buffer_callback" in str(error)


STATES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown_dtype": ({"dtype": "float31"}, "invalid_dtype"),
    "ranks_differ": ({"strides": [1]}, "invalid_argument"),
    "negative_extent": ({"shape": (-1, 3)}, "negative_extent"),
    "too_long": ({"shape": (3, 3)}, "invalid_argument"),
    "stride_too_long": ({"strides": [4, 1]}, "invalid_argument"),
    "before_the_beginning": ({"strides": [-3, 1]}, "invalid_argument"),
    "wider_elements": ({"dtype": "float64"}, "invalid_argument"),
    "too_many_elements": ({"shape": (2**40, 2**40)}, "extent_overflow"),
    "strides_overflow": ({"strides": [2**62, 1]}, "stride_overflow"),
    "too_many_dimensions": ({"shape": (1,) * 65, "strides": [1] * 65}, "invalid_ndim"),
    "gaps_below_a_byte": ({"dtype": "int4", "strides": [6, 2]}, "packed_subbyte"),
    "too_long_below_a_byte": ({"dtype": "int4", "shape": (49,), "strides": [1]}, "invalid_argument"),
}


@pytest.mark.parametrize("kind", STATES)
def test_inconsistent_states_are_refused(kind: str) -> None:
    changed, code = STATES[kind]
    state: dict[str, Any] = {"data": bytes(24), "dtype": "float32", "shape": (2, 3), "strides": [3, 1], "flags": 0}
    assert _pickling.rebuild_tensor(**state).numpy().tolist() == [[0] * 3] * 2
    assert refusal(lambda: _pickling.rebuild_tensor(**(state | changed))).code == code


def test_non_byte_memory_is_refused() -> None:
    for array in (np.zeros(6, np.float32), np.zeros((4, 6), np.uint8), np.zeros(48, np.uint8)[::2]):
        memory = dlbridge.from_dlpack(array)
        assert refusal(lambda m=memory: dlbridge._core._tensor_over(m, "uint8", [2], [1], 0)).field == "data"


def test_data_must_be_a_buffer() -> None:
    with pytest.raises(TypeError):
        _pickling.rebuild_tensor([1, 2], "uint8", (2,), [1], 0)


# ---- the pickle itself ----

# Written by this version: float32 [[0, 1, 2], [3, 4, 5]], protocol 4. It must load in every later one.
WRITTEN = (
    "gASVgAAAAAAAAACMEmRsYnJpZGdlLl9waWNrbGluZ5SMDnJlYnVpbGRfdGVuc29ylJOUKIwIYnVpbHRpbnOUjAlieXRlYXJyYXmU"
    "k5RDGAAAAAAAAIA/AAAAQAAAQEAAAIBAAACgQJSFlFKUjAdmbG9hdDMylEsCSwOGlF2UKEsDSwFlSwB0lFKULg=="
)


def test_older_pickles_load() -> None:
    again = pickle.loads(base64.b64decode(WRITTEN))
    assert (again.dtype, again.shape, again.strides, again.read_only) == ("float32", (2, 3), (3, 1), False)
    assert again.numpy().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_pickles_name_one_function() -> None:
    names = [argument for _, argument, _ in pickletools.genops(pickle.dumps(floats(), protocol=4))]
    texts = [name for name in names if isinstance(name, str)]
    assert texts[:2] == ["dlbridge._pickling", "rebuild_tensor"]
    assert not [name for name in texts if "_core" in name or "numpy" in name or "torch" in name]


def test_loading_imports_what_it_needs() -> None:
    data = base64.b64encode(pickle.dumps(floats())).decode()
    program = f"import base64, pickle, sys; x = pickle.loads(base64.b64decode({data!r}))\n"
    program += "print(x.numpy().tolist(), 'torch' in sys.modules)"
    assert run_isolated(program, prelude="") == "[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]] False\n"


def test_pickling_leaks_nothing() -> None:
    handles = [floats(), dlbridge.from_dlpack(np.arange(24.0)[::2]), dlbridge.from_dlpack(read_only(np.arange(3.0)))]
    for handle in handles:
        for protocol in (2, 5):
            assert_no_growth(lambda h=handle, p=protocol: through(h, p))
        assert_no_growth(lambda h=handle: pickle.loads(*out_of_band(h)[:1], buffers=out_of_band(h)[1]))
        assert_no_growth(lambda h=handle: copy.deepcopy(h))
    data, _ = out_of_band(floats())
    assert_no_growth(lambda: refusal(lambda: pickle.loads(data, buffers=[bytes(5)])))


# ---- copies ----


def test_copy_shares_memory() -> None:
    a = np.arange(24.0)[::-2]
    handle = dlbridge.from_dlpack(read_only(a))
    second = copy.copy(handle)
    assert second is not handle
    assert (second.data_ptr, second.strides) == (handle.data_ptr, handle.strides)
    assert second.read_only
    assert not second.is_copied
    watch = weakref.ref(a)
    del a, handle
    gc.collect()
    assert watch() is not None
    assert second.numpy()[0] == 23


def test_copy_of_device_memory() -> None:
    handle = dlbridge.from_dlpack(Crafted(device=(2, 1), data=64).capsule())
    assert copy.copy(handle).device == "cuda:1"
    assert refusal(lambda: copy.deepcopy(handle)).code == without_gpu()


def test_deepcopy_is_writable() -> None:
    a = read_only(np.arange(24.0))[::-2]
    handle = dlbridge.from_dlpack(a)
    deep = copy.deepcopy(handle)
    assert type(deep) is dlbridge.Tensor
    assert not dlbridge.shares_memory(deep, a)
    assert not deep.read_only
    assert deep.is_copied
    assert deep.numpy().tolist() == a.tolist()


def test_deepcopy_copies_once() -> None:
    handle = floats()
    first, second = copy.deepcopy((handle, [handle]))
    assert first is second[0]
    assert first is not handle
    assert not dlbridge.shares_memory(first, handle)


# ---- other processes ----


def twice_and_flags(handle: dlbridge.Tensor) -> tuple[dlbridge.Tensor, bool]:
    """Runs in another process."""
    return dlbridge.from_dlpack(handle.numpy() * 2), handle.read_only


def test_tensor_through_another_process() -> None:
    sources = [np.arange(6, dtype=np.float32), np.arange(6)[::-1].astype(ml_dtypes.bfloat16), read_only(np.arange(3.0))]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        answers = pool.map(twice_and_flags, [dlbridge.from_dlpack(a) for a in sources])
    for source, (answer, was_read_only) in zip(sources, answers, strict=True):
        assert type(answer) is dlbridge.Tensor
        assert answer.numpy().dtype == source.dtype
        assert answer.numpy().tolist() == (source * 2).tolist()
        assert was_read_only == (not source.flags.writeable)

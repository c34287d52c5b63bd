# SPDX-License-Identifier: Apache-2.0
"""dlbridge.Tensor in the hands of other frameworks: the same memory, what becomes of read-only, how long it lives."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from dtypes import numpy_dtype
from peers import CONSUMERS, Consumer, aligned_array, jax, nanobind, tvm_ffi

import dlbridge
from support import address, refusal

consumers = pytest.mark.parametrize("consumer", CONSUMERS, ids=lambda consumer: consumer.name)


def back(x: Any) -> np.ndarray:
    """What a consumer made, as an array over the same memory: by dlbridge, or by the buffer protocol."""
    return np.asarray(x) if isinstance(x, memoryview) else dlbridge.to_numpy(x)


def floats(count: int = 24) -> np.ndarray:
    a = aligned_array(np.float32, count)
    a[...] = np.arange(count)
    return a


LAYOUTS: dict[str, Callable[[], np.ndarray]] = {
    "vector": floats,
    "matrix": lambda: floats().reshape(4, 6),
    "transposed": lambda: floats().reshape(4, 6).T,
    "sliced": lambda: floats().reshape(4, 6)[::2, 1:],
    "negative": lambda: floats()[::-1],
    "scalar": lambda: floats(1).reshape(()),
    "empty": lambda: np.empty((0, 3), np.float32),
}


@consumers
@pytest.mark.parametrize("layout", LAYOUTS)
def test_consumers_share_layouts(layout: str, consumer: Consumer) -> None:
    a = LAYOUTS[layout]()
    handle = dlbridge.from_dlpack(a)
    if layout in consumer.refuses:
        with pytest.raises(Exception, match="stride|STRIDE|strid"):
            consumer.take(handle)
        return
    taken = consumer.take(handle)
    assert back(taken).tolist() == a.tolist()
    assert back(taken).shape == a.shape
    assert a.size == 0 or address(back(taken)) == address(a) == handle.data_ptr


@consumers
def test_consumers_share_dtypes(consumer: Consumer) -> None:
    for name in consumer.dtypes:
        a = aligned_array(numpy_dtype(name), 8)
        a[...] = [0, 1, 1, 0, 1, 0, 0, 1]
        taken = back(consumer.take(dlbridge.from_dlpack(a)))
        assert taken.dtype == a.dtype
        assert taken.tolist() == a.tolist()
        assert address(taken) == address(a)


@consumers
def test_consumers_share_writes(consumer: Consumer) -> None:
    a = floats()
    taken = consumer.take(dlbridge.from_dlpack(a))
    a[3] = 50
    assert back(taken)[3] == 50
    assert back(taken).flags.writeable == consumer.writes
    if consumer.writes:
        back(taken)[4] = 51
        assert a[4] == 51


@consumers
def test_consumers_and_read_only_memory(consumer: Consumer) -> None:
    a = floats()
    a.flags.writeable = False
    handle = dlbridge.from_dlpack(a)
    if consumer.read_only == "refused":
        error = refusal(lambda: consumer.take(handle))
        assert error.code == "read_only"
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        taken = consumer.take(handle)
    assert address(back(taken)) == address(a)
    assert back(taken).flags.writeable == (consumer.read_only == "lost")


@consumers
def test_consumers_keep_memory_alive(consumer: Consumer) -> None:
    a = floats()
    watch = weakref.ref(a)
    taken = consumer.take(dlbridge.from_dlpack(a))
    del a
    gc.collect()
    assert back(taken).sum() == 276
    assert watch() is not None
    del taken
    gc.collect()
    assert watch() is None


@contextmanager
def recorded_calls() -> Iterator[list[str]]:
    """The names of the methods that consumers call on Tensors meanwhile."""
    calls: list[str] = []
    originals = {name: getattr(dlbridge.Tensor, name) for name in ("__dlpack__", "__array__")}

    def recorder(name: str) -> Callable[..., Any]:
        def record(self: dlbridge.Tensor, *args: Any, **keywords: Any) -> Any:
            calls.append(name)
            return originals[name](self, *args, **keywords)

        return record

    for name in originals:
        setattr(dlbridge.Tensor, name, recorder(name))
    try:
        yield calls
    finally:
        for name, original in originals.items():
            setattr(dlbridge.Tensor, name, original)


@consumers
def test_methods_consumers_call(consumer: Consumer) -> None:
    handle = dlbridge.from_dlpack(floats())
    with recorded_calls() as calls:
        consumer.take(handle)
    # Neither the buffer protocol nor the exchange table is a method that can be watched.
    assert calls == (["__dlpack__"] if consumer.calls == "__dlpack__" else [])


# ---- NumPy ----


def test_numpy_copies_on_request() -> None:
    a = floats()
    handle = dlbridge.from_dlpack(a)
    copied = np.from_dlpack(handle, copy=True)
    assert address(copied) != address(a)
    assert copied.tolist() == a.tolist()
    assert address(np.from_dlpack(handle, copy=False)) == address(a)
    assert address(np.from_dlpack(handle, device="cpu")) == address(a)


# ---- torch ----


def test_torch_takes_legacy_capsules() -> None:
    a = floats()
    assert torch.from_dlpack(dlbridge.from_dlpack(a.astype(ml_dtypes.bfloat16))).dtype == torch.bfloat16
    taken = torch.utils.dlpack.from_dlpack(dlbridge.from_dlpack(a).__dlpack__())
    assert address(taken) == address(a)


def test_torch_asarray_loses_shape() -> None:
    a = floats().reshape(4, 6)
    taken = torch.asarray(dlbridge.from_dlpack(a))
    assert address(taken) == address(a)
    assert taken.shape == (24,), "docs/tensor.md says that torch.asarray forgets the shape"
    flat = torch.frombuffer(dlbridge.from_dlpack(a), dtype=torch.float32)
    assert address(flat) == address(a)
    assert flat.shape == (24,)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
def test_torch_loses_read_only() -> None:
    a = floats()
    a.flags.writeable = False
    handle = dlbridge.from_dlpack(a)
    assert address(torch.asarray(handle)) == address(a)
    assert address(torch.frombuffer(handle, dtype=torch.float32)) == address(a)
    assert refusal(handle.torch).code == "read_only"


# ---- JAX ----


def test_jax_copies_misaligned_memory() -> None:
    a = floats()[1:]
    taken = jax().dlpack.from_dlpack(dlbridge.from_dlpack(a))
    assert taken.tolist() == a.tolist()
    assert taken.unsafe_buffer_pointer() != address(a)


def test_jax_takes_read_only_arrays() -> None:
    a = floats()
    a.flags.writeable = False
    taken = jax().numpy.asarray(dlbridge.from_dlpack(a).numpy())
    assert taken.tolist() == a.tolist()


# ---- TVM FFI ----


def test_tvm_ffi_calls_functions() -> None:
    ffi = tvm_ffi()
    a = floats().reshape(4, 6)
    echo = ffi.get_global_func("testing.echo")
    taken = echo(dlbridge.from_dlpack(a))
    assert isinstance(taken, dlbridge.Tensor)  # what a function gives back is made by the argument's exchange table
    assert taken.data_ptr == address(a)
    assert taken.shape == (4, 6)


# ---- nanobind ----


def test_nanobind_sees_layout() -> None:
    a = np.arange(24, dtype=np.int16).reshape(2, 3, 4)[:, ::-1, ::2]
    seen = nanobind().seen(dlbridge.from_dlpack(a))
    assert seen == {
        "address": address(a),
        "shape": (2, 3, 2),
        "strides": (12, -4, 2),
        "dtype": (0, 16, 1),
        "device": (1, 0),
    }


def test_nanobind_respects_read_only() -> None:
    module = nanobind()
    a = floats(4)
    module.add_one(dlbridge.from_dlpack(a))
    assert a.tolist() == [1, 2, 3, 4]
    a.flags.writeable = False
    with pytest.raises(TypeError, match="incompatible function arguments"):
        module.add_one(dlbridge.from_dlpack(a))
    assert a.tolist() == [1, 2, 3, 4]
    for unfit in (floats(8)[::2], floats(4).reshape(2, 2), np.zeros(4)):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            module.add_one(dlbridge.from_dlpack(unfit))


def test_nanobind_keeps_memory_alive() -> None:
    module = nanobind()
    a = floats()
    watch = weakref.ref(a)
    module.keep(dlbridge.from_dlpack(a))
    del a
    gc.collect()
    assert watch() is not None
    module.forget()
    gc.collect()
    assert watch() is None

# SPDX-License-Identifier: Apache-2.0
"""dlbridge.Tensor in the hands of other frameworks: the same memory, what becomes of read-only, how long it lives."""

from __future__ import annotations

import gc
import importlib
import io
import re
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
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


@pytest.mark.parametrize("name", ["jax.dlpack.from_dlpack", "warp.from_dlpack"])
def test_message_of_read_only_memory_names_calls_of_the_consumer(name: str) -> None:
    a = floats()
    a.flags.writeable = False
    x = dlbridge.from_dlpack(a)
    take = attrgetter(name.partition(".")[2])(library(name))
    message = str(refusal(lambda: take(x)))
    calls = re.findall(r"[\w.]+\(x(?:, copy=True)?\)", message)
    assert calls == ["jax.numpy.asarray(x)", "numpy.asarray(x)", "dlbridge.from_dlpack(x, copy=True)"]
    for call in calls:
        taken = eval(call, {"jax": jax(), "numpy": np, "dlbridge": dlbridge, "x": x})
        assert np.asarray(taken).tolist() == a.tolist()
    assert np.asarray(take(taken)).tolist() == a.tolist()  # the last one


def test_jax_copies_on_request() -> None:
    h = dlbridge.from_dlpack(floats())
    copied = jax().numpy.array(h, copy=True)
    h.numpy()[3] = 50
    assert copied[3] == 3


# ---- other libraries ----


def library(name: str) -> Any:
    package = name.partition(".")[0]
    found = pytest.importorskip(package, reason=f"{package} is not installed: scripts/test interop has most of them")
    if package == "warp":
        found.init()
    return found


def of_zarr(h: dlbridge.Tensor) -> np.ndarray:
    made = library("zarr").zeros(h.shape, dtype=h.dtype)
    made[:] = h.numpy()
    return made[:]


# What docs/tensor.md names: what each makes of a handle as an array, and whether it shares dense memory.
LIBRARIES: dict[str, tuple[Callable[[dlbridge.Tensor], Any], bool]] = {
    "jax.numpy.asarray": (lambda h: jax().numpy.asarray(h), True),
    "warp.array": (lambda h: library("warp").array(h, device="cpu"), False),
    "warp.array(copy=False)": (lambda h: library("warp").array(h, copy=False, device="cpu"), True),
    "PIL.Image.fromarray": (
        lambda h: library("PIL") and importlib.import_module("PIL.Image").fromarray(h, "F"), False),
    "xarray.DataArray": (lambda h: library("xarray").DataArray(h).values, True),
    "h5py": (lambda h: library("h5py").File(io.BytesIO(), "w").create_dataset("x", data=h)[()], False),
    "zarr": (of_zarr, False),
    "pandas": (lambda h: library("pandas").DataFrame(h.numpy()).to_numpy(), False),
    "polars": (lambda h: library("polars").DataFrame(h.numpy()).to_numpy(), False),
    "cv2": (lambda h: library("cv2").flip(library("cv2").flip(h.numpy(), 0), 0), False),
    "pyarrow": (
        lambda h: np.frombuffer(library("pyarrow").py_buffer(h), np.float32).reshape(h.shape), True),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("layout", ["matrix", "sliced", "read_only"])
@pytest.mark.parametrize("name", LIBRARIES)
def test_libraries_take_handles(name: str, layout: str) -> None:
    take, shares = LIBRARIES[name]
    a = LAYOUTS[layout if layout == "sliced" else "matrix"]()
    a.flags.writeable = layout != "read_only"
    if (name, layout) == ("pyarrow", "sliced"):
        pytest.skip("a buffer of Arrow has no strides")
    taken = np.asarray(take(dlbridge.from_dlpack(a)))
    assert taken.tolist() == a.tolist()
    if layout == "matrix":
        assert np.shares_memory(taken, a) == shares


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

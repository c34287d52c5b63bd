# SPDX-License-Identifier: Apache-2.0
"""Arrays in host memory: a framework as a producer and as a consumer of DLPack. python -m dlbridge.testing cpu"""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

import dlbridge

from .case import DTYPES, Bench, case, element_type
from .layouts import LAYOUTS
from .providers import Array, Unsupported

cpu_case = functools.partial(case, "cpu")
HOST_TYPES = (1, 3, 11)  # DLPack's numbers of ordinary and pinned memory
NEWEST = (1, 3)


def foreign(bench: Bench, layout: str = "dense", dtype: str = "float32") -> tuple[Array, Any]:
    """An array of NumPy at a multiple of 64, and a dlbridge.Tensor over it."""
    elements = bench.elements(dtype, LAYOUTS[layout].size)
    memory = np.empty(elements.nbytes + 64, np.uint8)
    start = -memory.__array_interface__["data"][0] % 64
    buffer = memory[start : start + elements.nbytes].view(elements.dtype)
    buffer[...] = elements
    array = LAYOUTS[layout].of(buffer)
    return array, dlbridge.from_dlpack(array)


def attempted(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> tuple[Any, Exception | None]:
    """What the call returns, and the exception with which the framework refuses it. Unsupported passes through."""
    try:
        return call(*arguments, **keywords), None
    except Unsupported:
        raise
    except Exception as error:
        return None, error.with_traceback(None)


def taken(bench: Bench, tensor: Any) -> Any:
    """The framework's array over it. What the framework refuses is skipped."""
    got, error = attempted(bench.provider.take, tensor, None)
    if error is not None:
        raise Unsupported(f"{bench.provider.name} refuses it with {type(error).__name__}") from error
    return got


def exported(x: Any, **keywords: Any) -> Any:
    """A capsule. A producer that does not know the keywords is skipped."""
    if not hasattr(x, "__dlpack__"):
        raise Unsupported("its arrays have no __dlpack__")
    try:
        return x.__dlpack__(**keywords)
    except TypeError as error:
        raise Unsupported(f"__dlpack__ does not take {', '.join(keywords) or 'no arguments'}: {error}") from error


def on_a_thread(objects: list[Any]) -> None:
    """Drops them on another thread."""
    thread = threading.Thread(target=objects.clear)
    thread.start()
    thread.join()


# ---- exchange


@cpu_case("exchange", layout=LAYOUTS, dtype=DTYPES)
def export(bench: Bench, layout: str, dtype: str) -> None:
    """The elements arrive in NumPy, whatever their layout and type."""
    x, expected = bench.on_device(layout, dtype)
    bench.same(dlbridge.to_numpy(x, copy=None), expected)


@cpu_case("exchange", layout=LAYOUTS)
def export_shares(bench: Bench, layout: str) -> None:
    """Nothing is copied."""
    x, expected = bench.on_device(layout)
    tensor = dlbridge.from_dlpack(x)
    assert tensor.device == "cpu", tensor
    if expected.size:
        assert tensor.data_ptr == bench.provider.address(x), "the export is a copy"
    bench.same(tensor.numpy(), expected)


@cpu_case("exchange")
def export_device(bench: Bench) -> None:
    """__dlpack_device__ names host memory."""
    x, _ = bench.on_device()
    if not hasattr(x, "__dlpack_device__"):
        raise Unsupported("its arrays have no __dlpack_device__")
    device = x.__dlpack_device__()
    assert device[0] in HOST_TYPES, f"__dlpack_device__() is {device}"


@cpu_case("exchange", layout=LAYOUTS, dtype=DTYPES)
def take(bench: Bench, layout: str, dtype: str) -> None:
    """The elements arrive in the framework. It may refuse what it does not have."""
    array, tensor = foreign(bench, layout, dtype)
    plain = (layout, dtype) == ("dense", "float32")  # every framework must take it
    got = bench.provider.take(tensor, None) if plain else taken(bench, tensor)
    bench.same(bench.provider.read(got), array)


@cpu_case("exchange")
def take_shares(bench: Bench) -> None:
    """Nothing is copied."""
    _, tensor = foreign(bench)
    got = taken(bench, tensor)
    assert bench.provider.address(got) == tensor.data_ptr, "what was taken is a copy"


@cpu_case("exchange", layout=("dense", "offset", "transposed"))
def writes_show(bench: Bench, layout: str) -> None:
    """What one side writes the other one sees."""
    x, _ = bench.on_device(layout)
    bench.provider.overwrite(x, 0x11, None)
    array = dlbridge.to_numpy(x)
    bench.provider.overwrite(x, 0x5A, None)
    assert array.tobytes() == b"\x5a" * array.nbytes, "NumPy does not see what the framework writes"
    array[...] = 7
    bench.same(bench.provider.read(x), array)


# ---- flags


@cpu_case("flags")
def writable(bench: Bench) -> None:
    """Arrays that the framework writes are exported as writable."""
    x, _ = bench.on_device()
    bench.provider.overwrite(x, 0, None)
    assert not dlbridge.from_dlpack(x).read_only, "the export says that the array is read-only"


@cpu_case("flags")
def read_only(bench: Bench) -> None:
    """Arrays that must not be written are exported as read-only, or not at all."""
    x, expected = bench.on_device()
    locked = bench.provider.lock(x)
    try:
        tensor = dlbridge.from_dlpack(locked)
    except BufferError as error:
        raise Unsupported(f"read-only arrays are not exported: {error}") from error
    assert tensor.read_only, "the export says that the array may be written"
    bench.same(tensor.numpy(), expected)


@cpu_case("flags")
def read_only_taken(bench: Bench) -> None:
    """Read-only memory is refused, or never written."""
    array, _ = foreign(bench)
    before = array.tobytes()
    array.flags.writeable = False
    got, error = attempted(bench.provider.take, dlbridge.from_dlpack(array), None)
    if error is None:
        with contextlib.suppress(Exception):
            bench.provider.overwrite(got, 0x5A, None)
    assert array.tobytes() == before, "read-only memory was written"


@cpu_case("flags", copy=(True, False))
def export_copy(bench: Bench, copy: bool) -> None:
    """__dlpack__(copy=True) exports other memory, copy=False the array's own."""
    x, expected = bench.on_device()
    tensor = dlbridge.from_dlpack(exported(x, copy=copy, max_version=NEWEST))
    assert (tensor.data_ptr != bench.provider.address(x)) == copy, f"copy={copy} is not obeyed"
    bench.same(tensor.numpy(), expected)


# ---- lifetime


@cpu_case("lifetime")
def array_first(bench: Bench) -> None:
    """An export outlives the array."""
    x, expected = bench.on_device()
    tensor = dlbridge.from_dlpack(x)
    del x
    gc.collect()
    for _ in range(20):
        bench.on_device()
    bench.same(tensor.numpy(), expected)


@cpu_case("lifetime", used=(True, False))
def exports_are_dropped(bench: Bench, used: bool) -> None:
    """Dropped exports, and capsules without a consumer, leave the array's reference count as it was."""
    x, expected = bench.on_device()
    exported(x)
    before = sys.getrefcount(x)
    for _ in range(50):
        capsule = exported(x)
        if used:
            dlbridge.from_dlpack(capsule)
        del capsule
    gc.collect()
    assert sys.getrefcount(x) == before, f"{sys.getrefcount(x) - before} references more than before"
    bench.same(bench.provider.read(x), expected)


@cpu_case("lifetime")
def exports_on_another_thread(bench: Bench) -> None:
    """An export may be dropped on any thread."""
    x, expected = bench.on_device()
    on_a_thread([dlbridge.from_dlpack(x) for _ in range(10)])
    bench.same(bench.provider.read(x), expected)


@cpu_case("lifetime", thread=(False, True))
def taken_memory(bench: Bench, thread: bool) -> None:
    """What was taken keeps its memory, and gives it back when it is dropped, on any thread."""
    array, tensor = foreign(bench)
    expected, alive = array.copy(), weakref.ref(array)
    kept = [taken(bench, tensor)]
    shares = bench.provider.address(kept[0]) == tensor.data_ptr
    del array, tensor
    gc.collect()
    assert alive() is not None or not shares, "the memory was given back too early"
    bench.same(bench.provider.read(kept[0]), expected)
    if thread:
        on_a_thread(kept)
    kept.clear()
    gc.collect()
    assert alive() is None, "the memory was not given back"


# ---- refusals


@cpu_case("refusals")
def other_device(bench: Bench) -> None:
    """__dlpack__(dl_device=) of a GPU is refused, or exports memory of that GPU."""
    x, _ = bench.on_device()
    capsule, error = attempted(exported, x, dl_device=(2, 0), max_version=NEWEST)
    if error is None:
        device = dlbridge.from_dlpack(capsule).device
        assert device == "cuda:0", f"dl_device=(2, 0) was asked for, the export is on {device}"


@cpu_case("refusals")
def newer_version(bench: Bench) -> None:
    """A consumer of a later DLPack gets a version that exists."""
    x, expected = bench.on_device()
    bench.same(dlbridge.from_dlpack(exported(x, max_version=(99, 0))).numpy(), expected)


@cpu_case("refusals", dtype=("bfloat16", "float8_e3m4", "float8_e8m0fnu"))
def refused_memory(bench: Bench, dtype: str) -> None:
    """Memory that is refused, as of a type that the framework does not have, is given back."""
    array = np.zeros(4, element_type(dtype))
    tensor, alive = dlbridge.from_dlpack(array), weakref.ref(array)
    attempted(bench.provider.take, tensor, None)
    del array, tensor
    gc.collect()
    assert alive() is None, "the memory was not given back"

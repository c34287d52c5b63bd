# SPDX-License-Identifier: Apache-2.0
"""Helpers shared by the Python tests: addresses, dtype pairs, heap counters, builders of awkward arrays."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from dtypes import WHOLE_DTYPES, numpy_dtype, random_array
from refusals import refusal as refusal

import dlbridge

# (NumPy's dtype, torch's dtype) of everything that both hold, by name.
_NAMES_IN_TORCH = {name: name for name in WHOLE_DTYPES if hasattr(torch, name)}
_NAMES_IN_TORCH |= {"longlong": "int64", "ulonglong": "uint64"}
DTYPE_PAIRS: dict[str, tuple[Any, torch.dtype]] = {
    name: (numpy_dtype(name), getattr(torch, in_torch)) for name, in_torch in _NAMES_IN_TORCH.items()
}
# Those that torch hands out: one NumPy dtype each.
TORCH_PAIRS = {name: pair for name, pair in DTYPE_PAIRS.items() if name not in ("longlong", "ulonglong")}

AS = np.lib.stride_tricks.as_strided

# The three conversions, by the name that explain() has for what they make.
TARGETS: dict[str, Callable[..., Any]] = {
    "torch": dlbridge.to_torch,
    "numpy": dlbridge.to_numpy,
    "dlpack": dlbridge.from_dlpack,
}

TORCH_TIER = dlbridge.build_info()["torch_tier"]
# For what no other tier keeps (docs/tiers.md); elsewhere these are not collected.
direct_tier = pytest.mark.direct_tier
COPIES_ON_WRITE = "copy" in dlbridge.build_info()["on_write"]
# For what a guard does in torch 2.13 and later alone.
copies_on_write = (
    pytest.mark.skipif(not COPIES_ON_WRITE, reason="this torch does not copy on write")
    if TORCH_TIER == "direct"
    else direct_tier
)


def address(x: Any) -> int:
    """Address of the first element of an ndarray, a torch.Tensor or a dlbridge.Tensor."""
    if isinstance(x, np.ndarray):
        return x.__array_interface__["data"][0]
    if isinstance(x, torch.Tensor):
        return x.data_ptr()
    return x.data_ptr


def element_strides(x: Any) -> tuple[int, ...]:
    """Strides in elements."""
    if isinstance(x, np.ndarray):
        return tuple(stride // x.itemsize for stride in x.strides)
    if isinstance(x, torch.Tensor):
        return x.stride()
    return x.strides


def raw(x: Any) -> bytes:
    """The elements' bytes in row-major order, by the framework's own means."""
    if isinstance(x, torch.Tensor):
        dense = x.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
        if dense.numel() == 1:
            dense = dense.as_strided((1,), (1,))  # contiguous() leaves any stride to a dimension of size 1
        return bytes(dense.view(torch.uint8).tolist())
    return np.asarray(x).tobytes()


def cdata(t: torch.Tensor) -> int:
    """Identity of a tensor's storage."""
    return t.untyped_storage()._cdata


def assert_original_storage(again: torch.Tensor, t: torch.Tensor) -> None:
    """`again` lies in the memory of `t`; in the tier direct it has the same storage (docs/tiers.md)."""
    start, end = t.untyped_storage().data_ptr(), t.untyped_storage().data_ptr() + t.untyped_storage().nbytes()
    assert start <= again.data_ptr() < end
    if TORCH_TIER == "direct":
        assert cdata(again) == cdata(t)
        assert again.storage_offset() * again.element_size() == again.data_ptr() - start


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...] = (4, 5)) -> torch.Tensor:
    """A tensor of random bits, each a valid element, in memory that torch allocated."""
    bits = torch.tensor(random_array("uint8", (int(np.prod(shape)) * dtype.itemsize,)))
    return (bits % 2 if dtype == torch.bool else bits).view(dtype).reshape(shape)


def f8() -> np.ndarray:
    """A float64 array."""
    return np.arange(12.0).reshape(3, 4)


def f4() -> torch.Tensor:
    """A float32 tensor of the same values."""
    return torch.arange(12.0).reshape(3, 4)


def array() -> np.ndarray:
    """A float32 array of three dimensions."""
    return np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def values(x: Any) -> list:
    """The elements as nested lists, whatever holds them."""
    return (x.numpy() if isinstance(x, dlbridge.Tensor) else x).tolist()


def read_only(a: np.ndarray) -> np.ndarray:
    """The same array, not writable from here on."""
    a.flags.writeable = False
    return a


def misaligned_array(dtype: Any = np.float32, count: int = 6) -> np.ndarray:
    """A writable array whose address is one byte beyond a multiple of 64."""
    dtype = np.dtype(dtype)
    memory = np.zeros(count * dtype.itemsize + 128, np.uint8)
    start = -memory.__array_interface__["data"][0] % 64 + 1
    array = memory[start : start + count * dtype.itemsize].view(dtype)
    array[...] = np.arange(count)
    return array


# Layouts of arrays; floats and doubles.
LAYOUTS: dict[str, Callable[[], np.ndarray]] = {
    "c": lambda: np.arange(24.0).reshape(2, 3, 4),
    "f": lambda: np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "permuted": lambda: np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    "sliced": lambda: np.arange(48.0).reshape(2, 6, 4)[:, ::2, 1:],
    "stepped": lambda: np.arange(10.0)[::2],
    "negative": lambda: np.arange(12.0).reshape(3, 4)[::-1, ::-2],
    "vector": lambda: np.arange(5.0),
    "scalar": lambda: np.array(2.5),
    "size_1": lambda: np.arange(24.0).reshape(6, 4)[::6, :1],
    "size_1_inside": lambda: np.arange(24.0).reshape(2, 3, 4)[:, :1, :],
    "empty": lambda: np.empty((3, 0, 2)),
    "empty_slice": lambda: np.arange(24.0).reshape(4, 6)[2:2, ::3],
    "one_of_many": lambda: np.arange(24.0)[7:8].reshape(1, 1, 1),
    "broadcast": lambda: np.broadcast_to(np.arange(4.0), (3, 4)),
    "overlapping": lambda: np.lib.stride_tricks.sliding_window_view(np.arange(6.0), 3),
    "misaligned": misaligned_array,
    "field": lambda: np.zeros(4, [("a", "f8"), ("b", "f8")])["b"],
    "rank_32": lambda: np.arange(2.0).reshape((1,) * 31 + (2,)),
}


def writeback_array() -> tuple[Any, np.ndarray]:
    """An operand with WRITEBACKIFCOPY set, and the iterator that must live as long."""
    source = np.arange(4, dtype=np.float64)
    iterator = np.nditer(source, [], [["readwrite", "updateifcopy"]], casting="same_kind", op_dtypes=[np.float32])
    operand = iterator.operands[0]
    assert operand.flags.writebackifcopy
    return iterator, operand


class Watched(np.ndarray):
    """A plain subclass, to which weak references lead."""


def watched(array: np.ndarray) -> tuple[np.ndarray, weakref.ref]:
    """A view of the array, and a weak reference to it."""
    view = array.view(Watched)
    return view, weakref.ref(view)


class _MallInfo2(ctypes.Structure):
    # As in malloc.h; all ten are size_t.
    _fields_ = [(f"before_{i}", ctypes.c_size_t) for i in range(4)] + [
        ("hblkhd", ctypes.c_size_t),
        ("usmblks", ctypes.c_size_t),
        ("fsmblks", ctypes.c_size_t),
        ("uordblks", ctypes.c_size_t),
        ("fordblks", ctypes.c_size_t),
        ("keepcost", ctypes.c_size_t),
    ]


def heap_bytes() -> int:
    """Bytes that malloc has handed out (C and C++; small Python objects live elsewhere)."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _MallInfo2
    info = mallinfo2()
    return info.uordblks + info.hblkhd


def _growth(call: Callable[[], Any], times: int) -> tuple[int, int]:
    gc.collect()
    heap, blocks = heap_bytes(), sys.getallocatedblocks()
    for _ in range(times):
        call()
    gc.collect()
    return heap_bytes() - heap, sys.getallocatedblocks() - blocks


def assert_no_growth(call: Callable[[], Any], times: int = 400) -> None:
    """Runs `call` many times; a leak of 32 bytes or of one Python object a call fails.

    A leak grows every time. What grows once (a cache that fills, a thread of another test that runs meanwhile) does
    not, so one measurement without growth is enough, and later ones wait for such threads.
    """
    for _ in range(50):
        call()
    gc.collect()
    gc.freeze()  # what is there by now, lazily imported modules above all, is not walked through each time
    measured = []
    for pause in (0, 0, 0.1, 0.4, 1):
        time.sleep(pause)
        heap, blocks = _growth(call, times)
        measured.append((heap, blocks))
        if heap < times * 32 and blocks < times // 2:
            return
    raise AssertionError(measured)

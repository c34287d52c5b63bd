# SPDX-License-Identifier: Apache-2.0
"""The frameworks on the other side, as the interop tests see them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from build_tree import BUILD, load_module, module_file


def jax() -> Any:
    return pytest.importorskip("jax", reason="JAX is not installed")


def tvm_ffi() -> Any:
    return pytest.importorskip("tvm_ffi", reason="TVM FFI is not installed")


@functools.cache
def nanobind() -> Any:
    """The extension module of nanobind_module.cpp."""
    file = module_file("tests/interop", "nanobind_peer")
    if file is None:
        pytest.skip(f"nanobind_peer is not built in {BUILD}: run scripts/setup --tests")
    return load_module(file, "nanobind_peer")


def aligned_array(dtype: Any, count: int) -> np.ndarray:
    """A writable array at a multiple of 64, which JAX wants: it copies everything else."""
    dtype = np.dtype(dtype)
    memory = np.zeros(count * dtype.itemsize + 64, np.uint8)
    start = -memory.__array_interface__["data"][0] % 64
    return memory[start : start + count * dtype.itemsize].view(dtype)


@dataclass(frozen=True)
class Consumer:
    """One call that takes a dlbridge.Tensor."""

    name: str
    take: Callable[[Any], Any]
    calls: str  # "buffer", or the name of what it asks the Tensor for
    read_only: str  # what becomes of it: "kept", "lost" (handed out as writable) or "refused"
    refuses: tuple[str, ...] = ()  # of LAYOUTS
    dtypes: tuple[str, ...] = ("float32", "int32", "bool", "complex64", "float16", "bfloat16", "float8_e5m2")
    writes: bool = True  # whether what it makes can be written at all


PLAIN = ("float32", "int32", "bool", "complex64", "float16")
CONSUMERS = [
    Consumer("numpy.from_dlpack", np.from_dlpack, "__dlpack__", "kept", dtypes=PLAIN),
    Consumer("numpy.asarray", np.asarray, "buffer", "kept"),
    Consumer("memoryview", memoryview, "buffer", "kept", dtypes=PLAIN),
    Consumer("torch.from_dlpack", torch.from_dlpack, "__dlpack__", "lost", ("negative",)),
    Consumer("torch.utils.dlpack.from_dlpack", torch.utils.dlpack.from_dlpack, "__dlpack__", "lost", ("negative",)),
    Consumer("torch.as_tensor", torch.as_tensor, "__dlpack__", "lost", ("negative",)),
    *(
        Consumer(name, take, "__dlpack__", "refused", refuses=("negative", "sliced"), writes=False)
        for name, take in (
            ("jax.dlpack.from_dlpack", lambda x: jax().dlpack.from_dlpack(x)),
            ("jax.numpy.from_dlpack", lambda x: jax().numpy.from_dlpack(x)),
        )
    ),
    Consumer("tvm_ffi.from_dlpack", lambda x: tvm_ffi().from_dlpack(x), "__dlpack_c_exchange_api__", "lost"),
    Consumer("nanobind", lambda x: nanobind().same(x), "__dlpack__", "kept"),
]

# SPDX-License-Identifier: Apache-2.0
"""A user's program with types: mypy and basedpyright check it strictly, and core/test_typing.py runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future as ThreadFuture
from typing import Any, Literal

import numpy as np
import torch
import torch.utils.dlpack
from numpy.typing import NDArray
from typing_extensions import assert_type

import dlbridge

Array = NDArray[np.float64]


def conversions(a: Array, t: torch.Tensor) -> None:
    """To each framework, with every keyword."""
    assert_type(dlbridge.to_torch(a), torch.Tensor)
    assert_type(dlbridge.to_torch(a, device="cpu", dtype=torch.float32, copy=None, order="C"), torch.Tensor)
    assert_type(dlbridge.to_torch(a, dtype="f4"), torch.Tensor)
    assert_type(dlbridge.to_torch(a, dtype=np.float32, device=torch.device("cpu")), torch.Tensor)
    assert_type(dlbridge.to_numpy(t), NDArray[Any])
    assert_type(dlbridge.to_numpy(t, dtype=np.int16, copy=True, device=(1, 0)), NDArray[Any])
    assert_type(dlbridge.to_numpy(t, dtype=torch.int8, out=np.empty(a.shape, "i1")), NDArray[Any])
    assert_type(dlbridge.from_dlpack(t, copy=False, order="K"), dlbridge.Tensor)
    assert_type(dlbridge.from_buffer(bytes(24), "float32", shape=(2, -1), offset=8), dlbridge.Tensor)
    assert_type(dlbridge.shares_memory(a, t), bool)


def containers(a: Array) -> None:
    """A dict stays a dict."""
    batch: dict[str, Any] = dlbridge.to_torch({"a": a, "b": a[::2]})
    assert set(batch) == {"a", "b"}
    assert_type(dlbridge.to_numpy([a, a]), list[Any])
    assert_type(dlbridge.from_dlpack((a, a)), tuple[Any, ...])


def handles(a: Array) -> None:
    """Attributes, methods and protocols of a Tensor."""
    h = dlbridge.from_dlpack(a)
    assert_type(h.shape, tuple[int, ...])
    assert_type(h.strides, tuple[int, ...])
    assert_type((h.ndim, h.size, h.itemsize, h.nbytes, h.data_ptr, len(h)), tuple[int, int, int, int, int, int])
    assert_type((h.dtype, h.device), tuple[str, str])
    assert_type((h.read_only, h.is_copied), tuple[bool, bool])
    assert_type(h.numpy(dtype="f4", copy=None), NDArray[Any])
    assert_type(h.torch(order="C"), torch.Tensor)
    assert_type(h.tobytes(), bytes)
    assert_type(h.__dlpack_device__(), tuple[int, int])
    assert np.from_dlpack(h).shape == torch.utils.dlpack.from_dlpack(h).shape == h.shape
    assert_type(np.asarray(h).ndim, int)
    assert_type(memoryview(h).nbytes, int)


def plans(a: Array) -> None:
    """What explain() says, and refusals."""
    plan = dlbridge.explain(a[::-1], "torch", copy=None)
    assert_type(plan, dlbridge.Plan)
    assert_type(plan.verdict, Literal["share", "copy", "cast", "stage", "refuse"])
    assert_type(plan.reasons, list[str])
    assert_type(plan.path, list[str])
    assert_type((plan.bytes, plan.message), tuple[int, str])
    try:
        dlbridge.to_torch(a[::-1])
    except dlbridge.ExchangeError as error:
        assert_type((error.code, error.field), tuple[str, str])


def facts() -> None:
    """Versions, threads, dtypes, folders."""
    info = dlbridge.build_info()
    assert_type(info, dlbridge.BuildInfo)
    assert_type(info["torch"], str | None)
    version: str = dlbridge.__version__
    dlbridge.set_num_threads(0)
    assert_type(dlbridge.get_num_threads(), int)
    assert_type(dlbridge.dtypes, Mapping[str, dlbridge.DType])
    row = dlbridge.dtypes["float32"]
    assert_type((row.name, row.code, row.bits, row.lanes), tuple[str, int, int, int])
    assert_type(row.torch, torch.dtype | None)
    folders: list[Callable[[], str]] = [dlbridge.get_include, dlbridge.cmake_dir]
    assert version and len(folders) == 2


async def gpu(a: Array, module: torch.nn.Module) -> None:
    """Staging and the pool."""
    future = dlbridge.stage(a, device="cuda:0", to="dlpack", snapshot=True, borrow=False)
    assert_type(future, dlbridge.Future)
    assert_type(future.done(), bool)
    assert_type(future.fileno(), int)
    future.synchronize(timeout=60)
    await future
    many = dlbridge.stage_many({"x": future.result(timeout=60.0)}, device="cpu", stream=None, progress=False)
    assert_type(many, dlbridge.Future)
    many.synchronize()
    assert_type(dlbridge.pinned_empty((2, 3), "float32"), NDArray[Any])
    assert_type(dlbridge.record_stream(dlbridge.pinned_empty(3, np.int8), 1, device="cuda:0"), bool)
    stats = dlbridge.pool_stats()
    assert_type(stats, dlbridge.PoolStats)
    assert_type((stats.registered, stats.limit), tuple[int, int])
    reservation = dlbridge.reserve_pinned(1 << 20, background=True)
    assert_type(reservation, ThreadFuture[int])
    assert reservation.result() == 1 << 20
    dlbridge.set_pool_limit(bytes=stats.limit)
    assert_type(dlbridge.trim_pinned(keep_bytes=0), int)
    weights = dlbridge.offload(module, device="cuda:0", frozen=True)
    assert_type(weights, dlbridge.Offload)
    assert_type(weights.offload(), int)


def host() -> None:
    """What needs no GPU."""
    a = np.arange(6.0).reshape(2, 3)
    conversions(a, torch.zeros(2, 3))
    containers(a)
    handles(a)
    plans(a)
    facts()

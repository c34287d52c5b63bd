# SPDX-License-Identifier: Apache-2.0
"""Pinned memory: the pool's limit, results that are held, memory that is full."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import dlbridge

from .case import PATIENCE_SECONDS, Bench, case, wait_for
from .layouts import Layout

MIB = 1 << 20
BIG = Layout("1 MiB", MIB // 4, (512, 512), (512, 1))
IMPOSSIBLE = 1 << 52  # bytes: more than an address has room for


@contextlib.contextmanager
def pool_limit(bench: Bench, further: int) -> Iterator[None]:
    """What is free is given back, and so many bytes may come to what is in use: slots to copy through among it."""
    before = dlbridge.pool_stats().limit
    try:
        dlbridge.set_pool_limit(0)
        dlbridge.set_pool_limit(dlbridge.pool_stats().registered + further)
        x, expected = bench.on_device(BIG)
        dlbridge.to_numpy(x, device="cpu", out=np.zeros(expected.shape, expected.dtype))
        yield
    finally:
        gc.collect()
        dlbridge.set_pool_limit(before)


def address(array: np.ndarray[Any, Any]) -> int:
    """Where it lies."""
    return int(array.__array_interface__["data"][0])


@case(asynchronous=(False, True))
def beyond_the_limit(bench: Bench, asynchronous: bool) -> None:
    """Results that the pool has no room for are ordinary memory, with the same elements."""
    before = dlbridge.pool_stats()
    with pool_limit(bench, 2 * MIB):
        held = []
        stats = dlbridge.pool_stats()
        for _ in range((stats.limit - stats.owned) // MIB + 4):
            x, expected = bench.on_device(BIG)
            if asynchronous:
                held.append((dlbridge.stage(x, device="cpu").result(PATIENCE_SECONDS), expected))
            else:
                held.append((dlbridge.to_numpy(x, device="cpu"), expected))
        stats = dlbridge.pool_stats()
        assert stats.registered <= stats.limit, stats
        assert stats.refused > before.refused, f"nothing was refused: {stats}"
        for got, expected in held:
            bench.same(got, expected)


@case()
def tight_limit(bench: Bench) -> None:
    """Where only slots to copy through fit into the pool, everything goes on."""
    with pool_limit(bench, 2 * MIB):
        for _ in range(3):
            x, expected = bench.on_device(Layout("8 MiB", 2 * MIB, (2 * MIB,), (1,)))
            bench.same(dlbridge.to_numpy(x, device="cpu"), expected)
            tensor = dlbridge.from_dlpack(expected, device=bench.provider.device)
            bench.same(dlbridge.to_numpy(tensor, device="cpu"), expected)


@case()
def held_results_differ(bench: Bench) -> None:
    """Results that are held at once have memory of their own."""
    held = []
    for _ in range(8):
        x, expected = bench.on_device("large")
        held.append((dlbridge.to_numpy(x, device="cpu"), expected))
    assert len({address(got) for got, _ in held}) == len(held)
    for got, expected in held:
        bench.same(got, expected)


@case()
def dropped_results_are_used_again(bench: Bench) -> None:
    """The pool does not grow when results are dropped."""
    x, expected = bench.on_device(BIG)
    grown = []
    for _ in range(30):
        bench.same(dlbridge.to_numpy(x, device="cpu"), expected)
        bench.provider.synchronize()
        grown.append(dlbridge.pool_stats().registered)
    assert grown[-1] == grown[5], f"the pool grew from {grown[5]} to {grown[-1]} bytes"


@case()
def states_add_up(bench: Bench) -> None:
    """Every registered byte is in one state."""
    x, _ = bench.on_device(BIG)
    held = dlbridge.to_numpy(x, device="cpu")
    stats = dlbridge.pool_stats()
    assert stats.owned >= held.nbytes, stats
    assert stats.free + stats.owned + stats.in_flight + stats.quarantined + stats.leaked == stats.registered, stats
    del held
    wait_for("the return of a dropped result", lambda: dlbridge.pool_stats().owned < stats.owned)
    assert dlbridge.pool_stats().leaked == 0, "memory was leaked: a copy failed earlier"


@case()
def pinned_arrays(bench: Bench) -> None:
    """pinned_empty: an ordinary ndarray in pinned memory."""
    for shape, dtype in (((3, 4), "float64"), ((), "int8"), ((0, 5), "float32"), ((1000, 1000), "float32")):
        array = dlbridge.pinned_empty(shape, dtype)
        assert type(array) is np.ndarray and array.flags.writeable and array.flags.c_contiguous
        assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    x, expected = bench.on_device("large")
    pinned = dlbridge.pinned_empty(expected.shape, expected.dtype)
    dlbridge.stage(x, out=pinned).result(PATIENCE_SECONDS)
    bench.same(pinned, expected)


@case()
def full_device(bench: Bench) -> None:
    """A tensor that the device has no room for is refused, and the next one arrives."""
    impossible = np.broadcast_to(np.zeros(1, np.uint8), (IMPOSSIBLE,))
    error = bench.refusal("out_of_memory", lambda: dlbridge.from_dlpack(impossible, device=bench.provider.device))
    assert "memory" in str(error), error
    x, expected = bench.on_device("large")
    bench.same(dlbridge.to_numpy(x, device="cpu"), expected)


@case()
def full_host(bench: Bench) -> None:
    """A result that the host has no room for is refused, and the next one arrives."""
    endless = Layout("endless", 1, (IMPOSSIBLE,), (0,))
    x = bench.provider.array(bench.elements("uint8", 1), endless, None)
    for call in (
        lambda: dlbridge.to_numpy(x, device="cpu"),
        lambda: dlbridge.stage(x, device="cpu").result(PATIENCE_SECONDS),
    ):
        try:
            bench.refusal("out_of_memory", call)
        except MemoryError:  # NumPy's own
            continue
    x, expected = bench.on_device("large")
    bench.same(dlbridge.to_numpy(x, device="cpu"), expected)


@case()
def recorded_stream(bench: Bench) -> None:
    """record_stream: the result's memory is not given out again while that stream may use it."""
    x, _ = bench.on_device(BIG)
    own = bench.provider.new_stream()
    result = dlbridge.to_numpy(x, device="cpu")
    with bench.held(own) as hold:
        assert dlbridge.record_stream(result, bench.provider.number(own), device=bench.provider.device)
        kept = address(result)
        del result
        for _ in range(6):
            assert address(dlbridge.to_numpy(x, device="cpu")) != kept, "given out while the stream may still read it"
        hold.release()
    assert not dlbridge.record_stream(np.zeros(3), bench.provider.number(own), device=bench.provider.device)


@case()
def results_outlive_everything(bench: Bench) -> None:
    """A result needs neither its source nor its Future."""
    x, expected = bench.on_device("large")
    future = dlbridge.stage(x, device="cpu")
    result = future.result(PATIENCE_SECONDS)
    del x, future
    gc.collect()
    time.sleep(0.01)
    for _ in range(5):
        other, _ = bench.on_device("large")
        dlbridge.to_numpy(other, device="cpu")
    bench.same(result, expected)

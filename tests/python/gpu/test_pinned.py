# SPDX-License-Identifier: Apache-2.0
"""Pinned memory behind results: registrations, the limit of the pool, pinned arrays."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import simulated_gpu
from refusals import refusal
from simulated_gpu import (
    LARGE,
    LEGACY,
    SMALL,
    eventually,
    values_of,
)

import dlbridge
from dlbridge import ExchangeError, from_dlpack, stage, to_numpy

pytestmark = pytest.mark.skipif(simulated_gpu.why_not() is not None, reason=str(simulated_gpu.why_not()))

DEVICE = "cuda:0"
MEMORY_ALLOCATION = 2  # CUDA_ERROR_OUT_OF_MEMORY


@pytest.mark.parametrize("gpu", [{"piece_bytes": 2 << 20}], indirect=True)
def test_results_across_registrations(gpu):
    """The simulator reports a copy that crosses the border between two."""
    values = values_of((1500, 1200))
    fake = gpu.array(values, late=True, stream=gpu.stream())
    np.testing.assert_array_equal(to_numpy(fake, device="cpu"), values)
    np.testing.assert_array_equal(stage(fake, device="cpu").result(), values)
    pinned = dlbridge.pinned_empty(values.shape, np.float32)
    pinned[...] = values
    tensor = from_dlpack(pinned, device=DEVICE)
    np.testing.assert_array_equal(stage(tensor, device="cpu").result(), values)
    assert gpu.counts()["host_register"] > 3


@contextlib.contextmanager
def pool_limit(size: int) -> Iterator[None]:
    before = dlbridge.pool_stats().limit
    dlbridge.set_pool_limit(size)
    try:
        yield
    finally:
        dlbridge.set_pool_limit(before)


def test_explain_names_pinned_memory(gpu):
    """That results beyond the limit arrive is in memory.beyond_the_limit of dlbridge.testing."""
    fake = gpu.array(values_of(LARGE))
    assert any("pooled" in step for step in dlbridge.explain(fake, "numpy", device="cpu").path)
    with pool_limit(4 << 20):
        held = [to_numpy(fake, device="cpu") for _ in range(5)]
        assert dlbridge.pool_stats().refused > 0
        path = dlbridge.explain(fake, "numpy", device="cpu").path
        assert not any("pooled" in step for step in path), path
        del held
        gc.collect()
        eventually(lambda: dlbridge.pool_stats().owned == 0)


def test_zero_pool_limit(gpu):
    """Everything goes on, by way of ordinary memory."""
    with pool_limit(0):
        for shape in (SMALL, LARGE):
            np.testing.assert_array_equal(to_numpy(gpu.array(values_of(shape)), device="cpu"), values_of(shape))
            np.testing.assert_array_equal(stage(gpu.array(values_of(shape)), device="cpu").result(), values_of(shape))
            tensor = from_dlpack(values_of(shape), device=DEVICE)
            np.testing.assert_array_equal(to_numpy(tensor, device="cpu"), values_of(shape))
        assert refusal(lambda: dlbridge.pinned_empty((1000, 1000))).code == "out_of_memory"
    with pytest.raises(ExchangeError):
        dlbridge.set_pool_limit(-1)


def test_pinned_arrays(gpu):
    for shape, dtype in ((7, bool), ([2, 2], "complex64")):
        array = dlbridge.pinned_empty(shape, dtype)
        assert array.shape == np.empty(shape).shape and array.dtype == np.dtype(dtype)
    assert dlbridge.pinned_empty(4).dtype == np.float64
    for shape in (-1, (3, -2)):
        with pytest.raises(ExchangeError):
            dlbridge.pinned_empty(shape)
    with pytest.raises(TypeError):
        dlbridge.pinned_empty("ab")
    with pytest.raises(ExchangeError):
        dlbridge.pinned_empty((1 << 40, 1 << 40))


def test_legacy_stream_needs_no_recording(gpu):
    fake = gpu.array(values_of(LARGE))
    result = to_numpy(fake, device="cpu")
    at, size = result.ctypes.data, result.nbytes
    hold = gpu.hold()
    reading = gpu.sim.enqueue_read(LEGACY, at, size)
    del result
    gc.collect()
    other = gpu.array(values_of(LARGE, first=50), stream=gpu.stream())
    assert to_numpy(other, device="cpu").ctypes.data != at
    hold.release()
    gpu.synchronize()
    assert reading.bytes() == values_of(LARGE).tobytes()


def test_trim_releases_free_memory(gpu):
    held = dlbridge.pinned_empty(4 << 20, np.uint8)
    del held
    eventually(lambda: dlbridge.pool_stats().quarantined == 0)
    registered = dlbridge.pool_stats().registered
    assert registered >= 4 << 20
    assert dlbridge.trim_pinned(registered) == 0
    assert dlbridge.trim_pinned() == registered
    assert dlbridge.pool_stats().registered == 0


@pytest.mark.parametrize("background", [True, False])
def test_reserved_memory_is_used(gpu, background):
    reservation = dlbridge.reserve_pinned(16 << 20, background=background)
    assert background or reservation.done()
    assert reservation.result(timeout=20) == 16 << 20
    assert dlbridge.pool_stats().registered == 16 << 20
    fake = gpu.array(values_of(LARGE))
    np.testing.assert_array_equal(to_numpy(fake, device="cpu"), values_of(LARGE))
    assert dlbridge.pool_stats().registered == 16 << 20


@pytest.mark.parametrize("gpu", [{"piece_bytes": 2 << 20}], indirect=True)
def test_reservation_draws_a_bar(gpu, monkeypatch, capfd):
    pytest.importorskip("tqdm")
    dlbridge.reserve_pinned(6 << 20, background=False, progress=True)
    assert "6.00M/6.00M" in capfd.readouterr().err
    assert gpu.counts()["host_register"] == 3


def test_bar_needs_tqdm(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="pip install tqdm"):
        dlbridge.reserve_pinned(2 << 20, progress=True)
    assert dlbridge.pool_stats().registered == 0


def test_refused_reservations(gpu):
    with pool_limit(8 << 20):
        error = refusal(lambda: dlbridge.reserve_pinned(9 << 20).result(timeout=20))
        assert error.code == "out_of_memory" and "dlbridge.set_pool_limit(bytes)" in str(error)
    for wrong in (-1, 1 << 63):
        assert refusal(lambda wrong=wrong: dlbridge.reserve_pinned(wrong).result(timeout=20)).code == "invalid_argument"
    with pytest.raises(TypeError, match="expected an integer"):
        dlbridge.reserve_pinned("much").result(timeout=20)
    with pytest.raises(TypeError, match="keep_bytes is"):
        dlbridge.trim_pinned(1.5)


def test_refused_registration_lowers_the_limit(gpu):
    before = dlbridge.pool_stats().limit
    gpu.fail_next("host_register", code=MEMORY_ALLOCATION)
    fake = gpu.array(values_of(LARGE))
    np.testing.assert_array_equal(to_numpy(fake, device="cpu"), values_of(LARGE))
    stats = dlbridge.pool_stats()
    assert stats.register_failed == 1 and stats.refused > 0
    assert stats.limit == stats.registered < before

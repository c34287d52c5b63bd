# SPDX-License-Identifier: Apache-2.0
"""stage() and stage_many(): Futures, batches, errors, machines without a GPU, captures."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import simulated_gpu
from refusals import refusal
from simulated_gpu import (
    ILLEGAL_ADDRESS,
    LARGE,
    OUT_OF_MEMORY,
    SMALL,
    eventually,
    values_of,
)

import dlbridge
from dlbridge import ExchangeError, from_dlpack, stage, stage_many, to_numpy

pytestmark = pytest.mark.skipif(simulated_gpu.why_not() is not None, reason=str(simulated_gpu.why_not()))

DEVICE = "cuda:0"


# ---- Futures


@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_pending_future(gpu, shape):
    own = gpu.stream()
    hold = gpu.hold(own)
    future = stage(gpu.array(values_of(shape), late=True, stream=own), device="cpu")
    assert not future.done() and "under way" in repr(future)
    for wait in (future.result, future.synchronize):
        for timeout in (0, 0.02):
            with pytest.raises(TimeoutError):
                wait(timeout=timeout)
    hold.release()
    assert future.synchronize(timeout=10) is None
    assert future.done() and "done" in repr(future)


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_invalid_timeouts_are_refused(gpu, timeout):
    future = stage(gpu.array(values_of()), device="cpu")
    with pytest.raises(ExchangeError, match="timeout"):
        future.result(timeout)
    future.result()


@pytest.mark.rule(57)
def test_source_is_released_when_done(gpu):
    """By a deleter that is Python code, on the thread that completed the copy."""
    own = gpu.stream()
    fake = gpu.array(values_of(LARGE), late=True, stream=own, free_on_release=True)
    seen: list[str] = []
    fake.ledger.call_on_release(lambda: seen.append(threading.current_thread().name))
    hold = gpu.hold(own)
    future = stage(fake, device="cpu")
    gc.collect()
    assert fake.released == 0
    hold.release()
    np.testing.assert_array_equal(future.result(), values_of(LARGE))
    eventually(lambda: fake.ledger.freed and len(seen) == 1)


@pytest.mark.rule(82)
def test_waiting_releases_the_gil(gpu):
    """Also in synchronous conversions: this thread could not release the hold otherwise."""
    for call in (
        lambda fake: to_numpy(fake, device="cpu"),
        lambda fake: to_numpy(fake, device="cpu", out=np.empty(fake.shape, np.float32)),
        lambda fake: stage(fake, device="cpu").result(),
        lambda fake: from_dlpack(fake, device="cpu").numpy(),
    ):
        for shape in (SMALL, LARGE):
            own = gpu.stream()
            fake = gpu.array(values_of(shape), late=True, stream=own)
            hold = gpu.hold(own)
            results: list[Any] = []
            thread = threading.Thread(target=lambda c=call, f=fake, r=results: r.append(c(f)))
            thread.start()
            assert not results
            hold.release()
            thread.join()
            np.testing.assert_array_equal(results[0], values_of(shape))


# ---- errors


def fails_alike(future: Any) -> None:
    """Every call of a Future that failed raises the same error."""
    errors = [refusal(lambda wait=wait: wait(10)) for wait in (future.result, future.result, future.synchronize)]
    assert {error.code for error in errors} == {"device_failed"} and len({str(error) for error in errors}) == 1
    assert future.done()


def test_device_failure_ends_copies(gpu):
    gpu.expect_losses()
    own = gpu.stream()
    hold = gpu.hold(own)
    futures = [stage(gpu.array(values_of(shape), late=True, stream=own), device="cpu") for shape in (SMALL, LARGE)]
    result = to_numpy(gpu.array(values_of()), device="cpu")
    gpu.sim.kill_device(0, ILLEGAL_ADDRESS)
    for future in futures:
        fails_alike(future)
    assert refusal(lambda: stage(gpu.array(values_of(), stream=own), device="cpu", stream=own)).code == "device_failed"
    np.testing.assert_array_equal(result, values_of())  # what was there stays readable
    hold.release()


def test_kernel_failure_ends_copies(gpu):
    gpu.expect_losses()
    own = gpu.stream()
    fake = gpu.array(values_of(LARGE), late=True, stream=own)
    gpu.sim.enqueue_fault(own, ILLEGAL_ADDRESS)
    fails_alike(stage(fake, device="cpu", stream=own))


FAULTY = [
    "memcpy_async",
    "event_record",
    "stream_wait_event",
    "stream_is_capturing",
    "pointer_get_attributes",
    "launch",
]


@pytest.mark.parametrize("call", FAULTY)
@pytest.mark.parametrize("what", ["to_numpy", "stage", "out", "from_dlpack"])
def test_recovery_from_failing_calls(call, what):
    """Each n-th call of a function fails once: an error with a code comes out, nothing is lost, all goes on."""
    bodies: dict[str, Callable[[Any], Any]] = {
        "to_numpy": lambda fake: to_numpy(fake, device="cpu"),
        "stage": lambda fake: stage(fake, device="cpu").result(10),
        "out": lambda fake: stage(fake, out=np.empty(fake.shape, np.float32)).result(10),
        "from_dlpack": lambda fake: from_dlpack(values_of((100, 300)), device=DEVICE).device,
    }
    body = bodies[what]
    struck = 0
    for n in range(1, 20):
        with simulated_gpu.simulated_gpu("lazy", seed=n) as gpu:
            fake = gpu.array(values_of((100, 300)).T, late=True, stream=gpu.stream())
            if what != "from_dlpack" or n % 2:
                body(fake)
            gpu.fail_next(call, n, simulated_gpu.INVALID_VALUE)
            try:
                result = body(fake)
                assert what == "from_dlpack" or np.array_equal(result, values_of((100, 300)).T)
            except ExchangeError as error:
                assert error.code in ("device_failed", "stream_invalid", "invalid_device", "stream_capturing"), error
            gpu.sim.clear_faults()
            hit = gpu.sim.faults_struck()
            struck += hit
            gpu.expect_losses() if hit else None
            gc.collect()
            with contextlib.suppress(ExchangeError):  # a device may be given up
                body(fake)
            eventually(lambda fake=fake: fake.exported == fake.released)
        if not hit:
            break
    assert struck > 0 or call in ("launch", "stream_wait_event")


def test_memory_that_cannot_be_pinned(gpu):
    gpu.fail_next("host_register", 1, OUT_OF_MEMORY)
    np.testing.assert_array_equal(to_numpy(gpu.array(values_of(LARGE)), device="cpu"), values_of(LARGE))
    assert gpu.sim.faults_struck() == 1


@pytest.mark.parametrize(
    ("driver", "code"), [("absent", "no_driver"), ("too_old", "driver_too_old"), ("no_device", "no_device")]
)
def test_machines_without_a_gpu(driver, code):
    said = {"absent": "no CUDA driver", "too_old": "too old", "no_device": "no device"}
    with simulated_gpu.simulated_gpu(driver=driver) as gpu:
        fake = gpu.array(values_of())
        for call in (
            lambda: to_numpy(fake, device="cpu"),
            lambda: to_numpy(fake, device="cpu", out=np.empty(fake.shape, np.float32)),
            lambda: stage(fake, device="cpu"),
            lambda: stage(np.zeros(3), device=DEVICE),
            lambda: from_dlpack(np.zeros(3), device=DEVICE),
            lambda: stage_many([fake]),
            lambda: dlbridge.pinned_empty(3),
        ):
            error = refusal(call)
            assert error.code == code and said[driver] in str(error), error
        assert dlbridge.explain(fake, to="numpy", device="cpu").reasons == [code]
        info = dlbridge.build_info()["cuda"]
        assert said[driver] in info
        np.testing.assert_array_equal(to_numpy(np.ones(3)), np.ones(3))


# ---- captures


@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_captured_stream_is_refused(gpu, shape):
    own, other = gpu.stream(), gpu.stream()
    array = gpu.array(values_of(shape)).as_cai(stream=own)
    with gpu.capture(own):
        for call in (
            lambda: stage(array, device="cpu"),
            lambda: stage(array, device="cpu", stream=own),
            lambda: to_numpy(array, device="cpu"),
            lambda: stage(values_of(shape), device=DEVICE, to="dlpack", stream=own),
        ):
            assert refusal(call).code == "stream_capturing"
        elsewhere = gpu.array(values_of(shape), stream=other).as_cai()
        np.testing.assert_array_equal(stage(elsewhere, device="cpu").result(10), values_of(shape))
    np.testing.assert_array_equal(stage(array, device="cpu").result(10), values_of(shape))


@pytest.mark.parametrize(
    "call", [lambda x, s: stage(x, device="cpu", stream=s), lambda x, s: stage_many([x], stream=s)]
)
def test_producer_is_given_no_captured_stream(gpu, call):
    """A producer makes the stream wait for its own, which ends a capture of that stream."""
    own = gpu.stream()
    fake = gpu.array(values_of(), stream=gpu.stream())
    with gpu.capture(own):
        assert refusal(lambda: call(fake, own)).code == "stream_capturing"
    assert fake.requests == []


def test_producer_that_captures(gpu):
    """It adds the copy stream to its capture when it exports; only this one call fails."""
    own = gpu.stream()
    fake = gpu.array(values_of(), stream=own)
    with contextlib.suppress(AssertionError), gpu.capture(own):
        error = refusal(lambda: stage(fake, device="cpu"))
    assert error.code == "stream_capturing"
    gpu.take_reports()
    np.testing.assert_array_equal(stage(fake, device="cpu").result(10), values_of())

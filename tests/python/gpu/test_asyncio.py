# SPDX-License-Identifier: Apache-2.0
"""Awaiting Futures on the simulated GPU: nothing polls, nothing is lost by cancelling, every waiter wakes."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import threading
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
import simulated_gpu
from simulated_gpu import ILLEGAL_ADDRESS, LARGE, SMALL, FakeArray, Held, SimulatedGpu, eventually, values_of

from dlbridge import ExchangeError, stage

pytestmark = pytest.mark.skipif(simulated_gpu.why_not() is not None, reason=str(simulated_gpu.why_not()))

SHAPES = pytest.mark.parametrize("shape", [SMALL, LARGE])


def held(gpu: SimulatedGpu, shape: tuple[int, ...] = SMALL) -> tuple[FakeArray, Held]:
    """An array whose bytes do not come before the hold is released."""
    own = gpu.stream()
    hold = gpu.hold(own)
    return gpu.array(values_of(shape), late=True, stream=own), hold


class NoTimers(asyncio.SelectorEventLoop):
    """A loop in which nothing may be done later."""

    def call_at(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("a timer was set")

    call_later = call_at


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """asyncio.run in a loop without timers."""
    loop = NoTimers()
    try:
        answer = loop.run_until_complete(main)
        assert not loop._scheduled
        assert not loop._selector.get_map() or len(loop._selector.get_map()) == 1  # the loop's own
        return answer
    finally:
        loop.close()


async def result(future: Any) -> Any:
    return await future


async def turns(count: int = 20) -> None:
    """Lets the others go on."""
    for _ in range(count):
        await asyncio.sleep(0)


def release_soon(hold: Held, seconds: float = 0.05) -> None:
    """By a thread, since the loop has no timers."""
    threading.Timer(seconds, hold.release).start()


@SHAPES
def test_awaiting_sets_no_timer(gpu, shape):
    async def main() -> None:
        fake, hold = held(gpu, shape)
        future = stage(fake, device="cpu")
        release_soon(hold)
        first = await future
        np.testing.assert_array_equal(first, values_of(shape))
        assert await future is first and future.result() is first

    run(main())
    assert gpu.sim.spinning_waits() == 0


def test_many_awaiters(gpu):
    async def main() -> None:
        fake, hold = held(gpu)
        future = stage(fake, device="cpu")
        tasks = [asyncio.ensure_future(result(future)) for _ in range(50)]
        await turns()
        assert not any(task.done() for task in tasks)
        release_soon(hold)
        results = await asyncio.gather(*tasks)
        assert all(each is results[0] for each in results)

    run(main())


@pytest.mark.parametrize("fails", ["device", "kernel"])
def test_failure_wakes_awaiters(gpu, fails):
    gpu.expect_losses()

    async def main() -> None:
        fake, hold = held(gpu, LARGE)
        if fails == "kernel":
            gpu.sim.enqueue_fault(fake.stream, ILLEGAL_ADDRESS)
        future = stage(fake, device="cpu")
        tasks = [asyncio.ensure_future(result(future)) for _ in range(3)]
        await turns()
        if fails == "device":
            threading.Timer(0.05, gpu.sim.kill_device, (0, ILLEGAL_ADDRESS)).start()
        else:
            release_soon(hold)
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(error) for error in errors} == {ExchangeError}
        assert len({str(error) for error in errors}) == 1
        assert {error.code for error in errors} == {"device_failed"}
        with pytest.raises(ExchangeError):
            await future

    run(main())


def test_fds_become_readable(gpu):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        fake, hold = held(gpu)
        future = stage(fake, device="cpu")
        descriptor = future.fileno()
        assert future.fileno() == descriptor
        assert select.select([future], [], [], 0)[0] == []
        release_soon(hold, 0)
        assert select.select([future], [], [], 10)[0] == [future]
        assert future.done() and select.select([future], [], [], 0)[0] == [future]
        run(result(future))
        del future
    gc.collect()
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= before + 2)  # a thread may hold the last operation


def test_several_loops_await(gpu):
    fake, hold = held(gpu)
    future = stage(fake, device="cpu")
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(asyncio.run(result(future)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    hold.release()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(each is results[0] for each in results)

"""Awaiting Futures on the simulated GPU: nothing polls, nothing is lost by cancelling, every waiter wakes."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import threading
import time
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
import simulated_gpu
from simulated_gpu import ILLEGAL_ADDRESS, FakeArray, Held, SimulatedGpu

from dlbridge import ExchangeError, stage, stage_many

pytestmark = pytest.mark.skipif(simulated_gpu.why_not() is not None, reason=str(simulated_gpu.why_not()))

SMALL, LARGE = (10, 10), (700, 700)
SHAPES = pytest.mark.parametrize("shape", [SMALL, LARGE])


def values_of(shape: tuple[int, ...] = SMALL, first: int = 1) -> np.ndarray:
    return np.arange(first, first + np.prod(shape), dtype=np.float32).reshape(shape)


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
def test_awaiting_brings_the_result_and_sets_no_timer(gpu, shape):
    async def main() -> None:
        fake, hold = held(gpu, shape)
        future = stage(fake, device="cpu")
        release_soon(hold)
        first = await future
        np.testing.assert_array_equal(first, values_of(shape))
        assert await future is first and future.result() is first

    run(main())


def test_many_awaiters_of_one_future(gpu):
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


def test_many_futures_at_once(gpu):
    async def main() -> None:
        pairs = [held(gpu) for _ in range(30)]
        futures = [stage(fake, device="cpu") for fake, _ in pairs]
        tasks = [asyncio.ensure_future(result(future)) for future in futures]
        await turns()
        for _, hold in reversed(pairs):
            hold.release()
        for each in await asyncio.gather(*tasks):
            np.testing.assert_array_equal(each, values_of())

    run(main())


def test_a_group(gpu):
    async def main() -> None:
        pairs = [held(gpu, shape) for shape in (SMALL, LARGE, SMALL)]
        group = stage_many([fake for fake, _ in pairs])
        task = asyncio.ensure_future(result(group))
        await turns()
        assert not task.done()
        for _, hold in pairs:
            hold.release()
        results = await task
        assert results is await group
        np.testing.assert_array_equal(results[1], values_of(LARGE))

    run(main())


@SHAPES
def test_cancelling_the_task_does_not_cancel_the_copy(gpu, shape):
    async def main() -> None:
        fake, hold = held(gpu, shape)
        out = np.zeros(shape, np.float32)
        future = stage(fake, out=out)
        task = asyncio.ensure_future(result(future))
        other = asyncio.ensure_future(result(future))
        await turns()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled() and not future.done() and not other.done()
        release_soon(hold)
        assert await other is out and await future is out
        np.testing.assert_array_equal(out, values_of(shape))

    run(main())


def test_wait_for_may_give_up(gpu):
    fake, hold = held(gpu)
    future = stage(fake, device="cpu")

    async def impatient() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(result(future), 0.02)

    asyncio.run(impatient())
    hold.release()
    np.testing.assert_array_equal(asyncio.run(result(future)), values_of())


@pytest.mark.parametrize("fails", ["device", "kernel"])
def test_a_failure_wakes_those_who_await(gpu, fails):
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


def test_awaiting_uses_no_processor(gpu):
    async def main() -> None:
        fake, hold = held(gpu, LARGE)
        future = stage(fake, device="cpu")
        release_soon(hold, 1.0)
        begin, used = time.perf_counter(), time.process_time()
        await future
        used, took = time.process_time() - used, time.perf_counter() - begin
        assert took > 0.9 and used < 0.01 * took, f"{used:.4f} s of a processor in {took:.2f} s"

    run(main())
    assert gpu.sim.spinning_waits() == 0


def test_waiting_uses_little_of_a_processor(gpu):
    fake, hold = held(gpu, LARGE)
    future = stage(fake, device="cpu")
    release_soon(hold, 1.0)
    used = time.process_time()
    future.result()
    assert time.process_time() - used < 0.01


def test_the_loop_goes_on_meanwhile(gpu):
    async def main() -> int:
        fake, hold = held(gpu)
        task = asyncio.ensure_future(result(stage(fake, device="cpu")))
        count = 0
        while not task.done():
            count += 1
            if count == 1000:
                hold.release()
            await asyncio.sleep(0)
        return count

    assert run(main()) > 1000


def test_descriptors_become_readable_and_none_stays_open(gpu):
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
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_a_loop_that_ends_while_somebody_awaits(gpu):
    fake, hold = held(gpu)
    future = stage(fake, device="cpu")

    async def main() -> None:
        task = asyncio.ensure_future(result(future))
        await turns()
        assert not task.done()

    asyncio.run(main())  # cancels the task
    hold.release()
    np.testing.assert_array_equal(future.result(10), values_of())


def test_several_loops_await_one_future(gpu):
    fake, hold = held(gpu)
    future = stage(fake, device="cpu")
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(asyncio.run(result(future)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    hold.release()
    for thread in threads:
        thread.join(10)
    assert len(results) == 4 and all(each is results[0] for each in results)

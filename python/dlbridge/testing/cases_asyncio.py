# SPDX-License-Identifier: Apache-2.0
"""Futures in an event loop: awaiting sleeps, and the loop goes on."""

from __future__ import annotations

import asyncio
import select

import numpy as np

import dlbridge

from .case import PATIENCE_SECONDS, Bench, case

LAYOUTS = ("dense", "large_transposed")


@case(layout=LAYOUTS)
async def awaited(bench: Bench, layout: str) -> None:
    """`await future` is its result, again and again."""
    x, expected = bench.on_device(layout)
    future = dlbridge.stage(x, device="cpu")
    first = await future
    bench.same(first, expected)
    assert await future is first and future.done() and future.result() is first


@case(layout=LAYOUTS)
async def loop_goes_on(bench: Bench, layout: str) -> None:
    """Other tasks run while one awaits."""
    with bench.late(layout) as (x, expected, own, hold):
        future = dlbridge.stage(x, device="cpu", stream=own)
        task = asyncio.create_task(_result(future))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not task.done(), "done while the elements were still to come"
        hold.release()
        bench.same(await asyncio.wait_for(task, PATIENCE_SECONDS), expected)


@case()
async def awaiting_sleeps(bench: Bench) -> None:
    """Awaiting a Future does not poll: what it waits for is done only when the copy is."""
    with bench.late("large") as (x, expected, own, hold):
        waiting = dlbridge.stage(x, device="cpu", stream=own).__await__()
        woken = next(waiting)
        await asyncio.sleep(0.02)
        assert not woken.done(), "woken while nothing happened"
        hold.release()
        await asyncio.wait_for(woken, PATIENCE_SECONDS)
        bench.same(bench.raised(StopIteration, lambda: next(waiting)).value, expected)


@case(count=(2, 16))
async def gathered(bench: Bench, count: int) -> None:
    """Many at once, from streams of their own."""
    pairs, futures = [], []
    for _ in range(count):
        own = bench.provider.new_stream()
        pairs.append(bench.on_device("transposed", stream=own))
        futures.append(dlbridge.stage(pairs[-1][0], device="cpu", stream=own))
    for got, (_, expected) in zip(await asyncio.gather(*map(_result, futures)), pairs, strict=True):
        bench.same(got, expected)


@case()
async def group(bench: Bench) -> None:
    """`await stage_many(...)` is the list of its results."""
    pairs = [bench.on_device(layout) for layout in LAYOUTS]
    for got, (_, expected) in zip(await dlbridge.stage_many([x for x, _ in pairs]), pairs, strict=True):
        bench.same(got, expected)


@case()
async def cancelled(bench: Bench) -> None:
    """Cancelling the task that awaits does not cancel the copy."""
    with bench.late("large") as (x, expected, own, hold):
        future = dlbridge.stage(x, device="cpu", stream=own)
        task = asyncio.create_task(_result(future))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled() and not future.done()
        hold.release()
        bench.same(await asyncio.wait_for(_result(future), PATIENCE_SECONDS), expected)


@case()
def waited_for_too_short(bench: Bench) -> None:
    """asyncio.wait_for may give up, and the Future can be awaited again, in another loop too."""
    with bench.late("large") as (x, expected, own, hold):
        future = dlbridge.stage(x, device="cpu", stream=own)
        bench.raised(asyncio.TimeoutError, lambda: asyncio.run(asyncio.wait_for(_result(future), 0.02)))
        hold.release()
        bench.same(asyncio.run(_result(future)), expected)


@case()
def descriptor(bench: Bench) -> None:
    """fileno() becomes readable when the result is there, and not before."""
    with bench.late("large") as (x, expected, own, hold):
        future = dlbridge.stage(x, device="cpu", stream=own)
        assert select.select([future], [], [], 0.02)[0] == []
        hold.release()
        assert select.select([future.fileno()], [], [], PATIENCE_SECONDS)[0] != []
        assert future.done()
        bench.same(future.result(), expected)


@case()
async def to_device(bench: Bench) -> None:
    """The other direction is awaited likewise."""
    host = bench.elements("float32", 4096).copy()
    tensor = await dlbridge.stage(host, device=bench.provider.device, to="dlpack")
    bench.same(np.asarray(await dlbridge.stage(tensor, device="cpu")), host)


async def _result(future: dlbridge.Future) -> object:
    return await future

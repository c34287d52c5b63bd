# SPDX-License-Identifier: Apache-2.0
"""What waits for what. Streams are held up, so that every order that is not enforced shows."""

from __future__ import annotations

import functools
import gc
import time
from typing import Any

import numpy as np

import dlbridge

from .case import PATIENCE_SECONDS, Bench, case, wait_for

SIZES = ("dense", "transposed", "large", "large_transposed")
FLAT = ("dense", "large")
MOMENT_SECONDS = 0.02


def spoilt(array: np.ndarray[Any, Any], byte: int) -> np.ndarray[Any, Any]:
    """Such an array with every byte set to `byte`."""
    made: np.ndarray[Any, Any] = np.full(array.nbytes, byte, np.uint8).view(array.dtype).reshape(array.shape)
    return made


@case(layout=SIZES, stream=("object", "number"))
def producer_first(bench: Bench, layout: str, stream: str) -> None:
    """What the stream was given before the call is in the result."""
    with bench.late(layout) as (x, expected, own, hold):
        future = dlbridge.stage(x, device="cpu", stream=own if stream == "object" else bench.provider.number(own))
        time.sleep(MOMENT_SECONDS)  # for what does not wait to end
        assert not future.done(), "done while the elements were still to come"
        hold.release()
        bench.same(future.result(PATIENCE_SECONDS), expected)
        assert future.done()


@case(layout=SIZES)
def current_stream(bench: Bench, layout: str) -> None:
    """Without stream= it is the framework's current one."""
    own = bench.provider.new_stream()
    with bench.provider.current(own), bench.held(own) as hold:
        x, expected = bench.on_device(layout, stream=own)
        future = dlbridge.stage(x, device="cpu")
        time.sleep(MOMENT_SECONDS)  # for what does not wait to end
        assert not future.done(), "done while the elements were still to come"
        hold.release()
        bench.same(future.result(PATIENCE_SECONDS), expected)


@case(layout=SIZES, number=(1, 2))
def default_streams(bench: Bench, layout: str, number: int) -> None:
    """1 is the legacy stream, 2 the thread's own; both come after work that is over."""
    x, expected = bench.on_device(layout)
    bench.provider.synchronize()
    bench.same(dlbridge.stage(x, device="cpu", stream=number).result(PATIENCE_SECONDS), expected)


@case(layout=SIZES)
def no_sync(bench: Bench, layout: str) -> None:
    """stream=-1: the caller has waited."""
    x, expected = bench.on_device(layout)
    bench.provider.synchronize()
    bench.same(dlbridge.stage(x, device="cpu", stream=-1).result(PATIENCE_SECONDS), expected)


@case(layout=SIZES)
def snapshot(bench: Bench, layout: str) -> None:
    """What the stream is given after the call does not change the result."""
    with bench.late(layout) as (x, expected, own, hold):
        future = dlbridge.stage(x, device="cpu", stream=own)
        bench.provider.overwrite(x, 0xEE, own)
        hold.release()
        bench.same(future.result(PATIENCE_SECONDS), expected)
    bench.provider.synchronize()
    bench.same(bench.provider.read(x), spoilt(expected, 0xEE))


@case(layout=SIZES)
def without_snapshot(bench: Bench, layout: str) -> None:
    """snapshot=False: written after the result is there, the source changes nothing."""
    own = bench.provider.new_stream()
    x, expected = bench.on_device(layout, stream=own)
    future = dlbridge.stage(x, device="cpu", stream=own, snapshot=False)
    got = future.result(PATIENCE_SECONDS)
    bench.provider.overwrite(x, 0xEE, own)
    bench.provider.synchronize()
    bench.same(got, expected)


@case(layout=SIZES)
def other_streams_go_on(bench: Bench, layout: str) -> None:
    """A stream that is held up delays no copy from another one."""
    slow, quick = bench.provider.new_stream(), bench.provider.new_stream()
    with bench.held(slow) as hold:
        late, expected_late = bench.on_device(layout, stream=slow)
        waiting = dlbridge.stage(late, device="cpu", stream=slow)
        x, expected = bench.on_device(layout, stream=quick)
        bench.same(dlbridge.stage(x, device="cpu", stream=quick).result(PATIENCE_SECONDS), expected)
        assert not waiting.done()
        hold.release()
        bench.same(waiting.result(PATIENCE_SECONDS), expected_late)


@case(layout=FLAT)
def other_arrays_go_on(bench: Bench, layout: str) -> None:
    """The same without stream=, in both directions."""
    slow, quick = bench.provider.new_stream(), bench.provider.new_stream()
    _, before = bench.on_device(layout)
    earlier = [dlbridge.from_dlpack(before, device=bench.provider.device) for _ in range(3)]
    with bench.held(slow) as hold:
        with bench.provider.current(slow):
            late, expected_late = bench.on_device(layout, stream=slow)
            waiting = dlbridge.stage(late, device="cpu")
        with bench.provider.current(quick):
            for _ in range(3):
                x, expected = bench.on_device(layout, stream=quick)
                bench.same(dlbridge.stage(x, device="cpu").result(PATIENCE_SECONDS), expected)
                there = dlbridge.stage(expected, device=bench.provider.device, to="dlpack")
                back = dlbridge.stage(there.result(PATIENCE_SECONDS), device="cpu")
                bench.same(back.result(PATIENCE_SECONDS), expected)
        for tensor in earlier:
            bench.same(dlbridge.stage(tensor, device="cpu").result(PATIENCE_SECONDS), before)
        assert not waiting.done()
        hold.release()
        bench.same(waiting.result(PATIENCE_SECONDS), expected_late)


@case(layout=SIZES)
def source_is_held(bench: Bench, layout: str) -> None:
    """The source may be dropped at once."""
    with bench.late(layout) as (x, expected, own, hold):
        future = dlbridge.stage(x, device="cpu", stream=own)
        del x
        gc.collect()
        others = [bench.on_device(layout, stream=own) for _ in range(3)]
        for other, _ in others:
            bench.provider.overwrite(other, 0x55, own)
        hold.release()
        bench.same(future.result(PATIENCE_SECONDS), expected)


@case(layout=SIZES)
def dropped_future(bench: Bench, layout: str) -> None:
    """Dropping a Future neither waits nor cancels."""
    with bench.late(layout) as (x, expected, own, hold):
        array = np.zeros(expected.shape, expected.dtype)
        future = dlbridge.stage(x, out=array, stream=own)
        del future
        assert not array.any(), "dropping the Future waited for the copy"
        hold.release()
        bench.provider.synchronize()
        wait_for("the copy", lambda: np.array_equal(array.view(np.uint8), expected.copy().view(np.uint8)))


@case(layout=SIZES)
def timeouts(bench: Bench, layout: str) -> None:
    """result() and synchronize() give up after timeout=, and work again later."""
    with bench.late(layout) as (x, expected, own, hold):
        future = dlbridge.stage(x, device="cpu", stream=own)
        for wait in (future.result, future.synchronize):
            bench.raised(TimeoutError, functools.partial(wait, timeout=0.02))
        hold.release()
        future.synchronize(timeout=PATIENCE_SECONDS)
        bench.same(future.result(), expected)


@case()
def one_result(bench: Bench) -> None:
    """result() gives the same object again."""
    x, expected = bench.on_device()
    future = dlbridge.stage(x, device="cpu")
    first = future.result()
    assert future.result() is first and future.result(timeout=0) is first
    bench.same(first, expected)


@case(layout=FLAT)
def pageable_source_is_read(bench: Bench, layout: str) -> None:
    """Host to device: an ordinary array may be written when the call has returned."""
    kept = bench.on_host(layout)
    host = kept.copy()
    future = dlbridge.stage(host, device=bench.provider.device, to="dlpack")
    host.view(np.uint8)[...] = 0x33
    bench.same_taken(future.result(PATIENCE_SECONDS), kept)


@case(layout=FLAT)
def borrowed_source(bench: Bench, layout: str) -> None:
    """borrow=True: the array is read until the Future is done, and held until then."""
    kept = bench.on_host(layout)
    future = dlbridge.stage(kept.copy(), device=bench.provider.device, to="dlpack", borrow=True)
    bench.same_taken(future.result(PATIENCE_SECONDS), kept)


@case(layout=FLAT)
def pinned_source(bench: Bench, layout: str) -> None:
    """Pinned memory is read until the Future is done; until then it is not reused."""
    values = bench.on_host(layout)
    own = bench.provider.new_stream()
    target, _ = bench.on_device(layout, stream=own)
    pinned = dlbridge.pinned_empty(values.shape, values.dtype)
    pinned[...] = values
    with bench.held(own) as hold:
        future = dlbridge.stage(pinned, out=bench.target(target), stream=own)
        del pinned
        others = [dlbridge.pinned_empty(values.shape, values.dtype) for _ in range(3)]
        for other in others:
            other.view(np.uint8)[...] = 0x44
        hold.release()
        future.synchronize(PATIENCE_SECONDS)
    bench.same(bench.provider.read(target), values)


@case(layout=SIZES)
def consumer_before(bench: Bench, layout: str) -> None:
    """Host to device: what the stream was given before the call does not come after the copy."""
    own = bench.provider.new_stream()
    target, before = bench.on_device(layout, stream=own)
    host = bench.elements("float32", before.size).reshape(before.shape)
    out = bench.target(target)
    with bench.held(own) as hold:
        bench.provider.overwrite(target, 0x11, own)
        future = dlbridge.stage(host, out=out, stream=own, borrow=True)  # a full ring would wait for the hold
        hold.release()
        future.synchronize(PATIENCE_SECONDS)
    bench.same(bench.provider.read(target), host)


@case(layout=FLAT)
def consumer_after(bench: Bench, layout: str) -> None:
    """Host to device: what the stream is given after the call comes after the copy."""
    own = bench.provider.new_stream()
    target, before = bench.on_device(layout, stream=own)
    host = bench.elements("float32", before.size).reshape(before.shape)
    future = dlbridge.stage(host, out=bench.target(target), stream=own)
    bench.provider.overwrite(target, 0xEE, own)
    future.synchronize(PATIENCE_SECONDS)
    bench.same(bench.provider.read(target), spoilt(host, 0xEE))


@case(size=(1000, 50_000))
def own_tensors_on_another_stream(bench: Bench, size: int) -> None:
    """A dlbridge.Tensor that is still on its way may be named together with any stream."""
    own = bench.provider.new_stream()
    pinned = dlbridge.pinned_empty(size, np.float32)
    pinned[...] = bench.elements("uint32", size).view(np.float32)
    hosts = [bench.elements("float32", size) for _ in range(6)]
    sources = [dlbridge.from_dlpack(host, device=bench.provider.device) for host in hosts]
    coming = [dlbridge.stage(source, device="cpu", stream=own) for source in sources]
    for future, host in zip(coming, hosts, strict=True):
        bench.same(future.result(PATIENCE_SECONDS), host)
    targets = [dlbridge.from_dlpack(host, device=bench.provider.device) for host in hosts]
    going = [dlbridge.stage(pinned, out=target, stream=own) for target in targets]
    for future, target in zip(going, targets, strict=True):
        future.synchronize(PATIENCE_SECONDS)
        bench.same_taken(target, pinned)


@case()
def batch(bench: Bench) -> None:
    """stage_many is ordered as stage is."""
    own = bench.provider.new_stream()
    with bench.held(own) as hold:
        pairs = [bench.on_device(layout, stream=own) for layout in SIZES]
        group = dlbridge.stage_many([x for x, _ in pairs], device="cpu", stream=own)
        for x, _ in pairs:
            bench.provider.overwrite(x, 0xEE, own)
        assert not group.done()
        hold.release()
        for got, (_, expected) in zip(group.result(PATIENCE_SECONDS), pairs, strict=True):
            bench.same(got, expected)


@case(layout=SIZES)
def capture(bench: Bench, layout: str) -> None:
    """A stream that is being captured is refused, and the capture stays valid."""
    own, other = bench.provider.new_stream(), bench.provider.new_stream()
    x, expected = bench.on_device(layout, stream=own)
    of_other, expected_of_other = bench.on_device(layout, stream=other)
    bench.provider.synchronize()
    with bench.provider.capture(own):
        error = bench.refusal("stream_capturing", lambda: dlbridge.stage(x, device="cpu", stream=own))
        assert "captur" in str(error), error
    bench.same(dlbridge.stage(x, device="cpu", stream=own).result(PATIENCE_SECONDS), expected)
    with bench.provider.capture(own):  # of another stream
        got = dlbridge.stage(of_other, device="cpu", stream=other).result(PATIENCE_SECONDS)
    bench.same(got, expected_of_other)

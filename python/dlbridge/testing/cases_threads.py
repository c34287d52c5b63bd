# SPDX-License-Identifier: Apache-2.0
"""Many threads: each with a stream of its own, and several at one Future."""

from __future__ import annotations

import threading
from collections.abc import Callable

import dlbridge

from .case import PATIENCE_SECONDS, Bench, case

THREADS = 4
ROUNDS = 8


def at_once(count: int, work: Callable[[int], None]) -> None:
    """Runs `work` in so many threads, and raises what the first of them raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            start.wait()
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE_SECONDS)
        assert not thread.is_alive(), "a thread did not end"
    if errors:
        raise errors[0]


@case(layout=("dense", "transposed", "large"))
def own_streams(bench: Bench, layout: str) -> None:
    """Each thread stages its own arrays."""
    streams = [bench.provider.new_stream() for _ in range(THREADS)]

    def work(number: int) -> None:
        mine = Bench(bench.provider, bench.spec, seed=1000 * number)
        for _ in range(ROUNDS):
            x, expected = mine.on_device(layout, stream=streams[number])
            mine.same(dlbridge.stage(x, device="cpu", stream=streams[number]).result(PATIENCE_SECONDS), expected)

    at_once(THREADS, work)


@case(layout=("dense", "large"))
def both_directions(bench: Bench, layout: str) -> None:
    """Half of them to the host, half of them to the device."""

    def work(number: int) -> None:
        mine = Bench(bench.provider, bench.spec, seed=1000 * number)
        for _ in range(ROUNDS):
            if number % 2:
                x, expected = mine.on_device(layout)
                mine.same(dlbridge.to_numpy(x, device="cpu"), expected)
            else:
                host = mine.elements("float32", 5000).copy()
                tensor = dlbridge.from_dlpack(host, device=bench.provider.device)
                mine.same(dlbridge.to_numpy(tensor, device="cpu"), host)

    at_once(THREADS, work)


@case(layout=("dense", "large"))
def one_future(bench: Bench, layout: str) -> None:
    """All callers get the same object."""
    with bench.late(layout) as (x, expected, own, hold):
        future = dlbridge.stage(x, device="cpu", stream=own)
        results: list[object] = []
        timer = threading.Timer(0.05, hold.release)
        timer.start()
        at_once(THREADS, lambda _: results.append(future.result(PATIENCE_SECONDS)))
        timer.join()
    assert len(results) == THREADS and all(result is results[0] for result in results)
    bench.same(results[0], expected)


@case()
def thread_that_ends(bench: Bench) -> None:
    """A Future outlives the thread that made it."""
    made: list[tuple[dlbridge.Future, object]] = []

    def work(_: int) -> None:
        x, expected = bench.on_device("large")
        made.append((dlbridge.stage(x, device="cpu", stream=2), expected))

    at_once(1, work)
    future, expected = made[0]
    bench.same(future.result(PATIENCE_SECONDS), expected)  # type: ignore[arg-type]


@case()
def waiting_lets_others_run(bench: Bench) -> None:
    """A thread that waits for a result lets other threads run."""
    with bench.late("large") as (x, expected, own, hold):
        future = dlbridge.stage(x, device="cpu", stream=own)
        waiting = threading.Event()
        results: list[object] = []

        def wait() -> None:
            waiting.set()
            results.append(future.result(PATIENCE_SECONDS))

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        waiting.wait()
        assert sum(range(100_000)) > 0 and not results
        hold.release()
        thread.join(PATIENCE_SECONDS)
    bench.same(results[0], expected)

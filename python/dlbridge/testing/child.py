# SPDX-License-Identifier: Apache-2.0
"""The other processes of cases_process.py.  python -m dlbridge.testing.child PROVIDER SCENARIO"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import traceback
import warnings
from typing import Any

import dlbridge

from .case import PATIENCE_SECONDS, Bench
from .choice import make_provider

_kept: list[Any] = []  # alive until the interpreter takes its modules apart


def ends_with_copies_in_flight(bench: Bench) -> None:
    """The process ends before the copies do."""
    for _ in range(20):
        x, _ = bench.on_device("large")
        dlbridge.stage(x, device="cpu")
        _kept.append(dlbridge.stage(x, device="cpu"))


def ends_with_results_held(bench: Bench) -> None:
    """Results and tensors are released at the end of the interpreter."""
    for _ in range(5):
        x, expected = bench.on_device("large")
        result = dlbridge.to_numpy(x, device="cpu")
        bench.same(result, expected)
        _kept.extend([result, dlbridge.pinned_empty((100,))])
        _kept.append(dlbridge.from_dlpack(expected, device=bench.provider.device))


def ends_while_awaiting(bench: Bench) -> None:
    """The loop is closed with a task that awaits."""

    async def main() -> None:
        x, _ = bench.on_device("large")
        future = dlbridge.stage(x, device="cpu")
        _kept.append(future)

        async def wait() -> object:
            return await future

        _kept.append(asyncio.create_task(wait()))
        await asyncio.sleep(0)

    asyncio.run(main())


def forks(bench: Bench) -> None:
    """The child is refused, reads earlier results, and releases them."""
    x, expected = bench.on_device("large")
    own = dlbridge.from_dlpack(expected, device=bench.provider.device)
    result = dlbridge.to_numpy(x, device="cpu")
    pending = dlbridge.stage(x, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of threads: they are what is tested
        child = os.fork()
    if child == 0:
        status = 1
        try:
            _in_the_fork(bench, own, result, expected)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    deadline = time.monotonic() + 2 * PATIENCE_SECONDS
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            raise AssertionError("the child hangs")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 0, f"the child ended with {ended[1]}"
    bench.same(pending.result(PATIENCE_SECONDS), expected)  # the parent goes on
    bench.same(dlbridge.to_numpy(x, device="cpu"), expected)


def _in_the_fork(bench: Bench, own: Any, result: Any, expected: Any) -> None:
    bench.same(result, expected)
    bench.refusal("after_fork", lambda: dlbridge.to_numpy(own, device="cpu"))
    bench.refusal("after_fork", lambda: dlbridge.from_dlpack(expected, device=bench.provider.device))


def main() -> int:
    """Runs one scenario; says so at its end."""
    spec, scenario = sys.argv[1:]
    provider = make_provider(spec)
    if (why_not := provider.why_not()) is not None:
        print(why_not)
        return 1
    provider.open()
    globals()[scenario](Bench(provider, spec))
    print("all is well", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

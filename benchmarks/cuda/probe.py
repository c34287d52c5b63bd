# SPDX-License-Identifier: Apache-2.0
"""Asks a machine's frameworks what dlbridge relies on, beside probe.cpp and in the same form: a line of JSON for each
answer, and one at the end of each case.

    PYTHONPATH=build/gpu/package python3 benchmarks/cuda/probe.py [--list] [CASE...]
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial

import numpy as np


def first_stage(say):
    """Whether anything works at all, and what the first calls take."""
    import dlbridge

    begin = time.perf_counter()
    there = dlbridge.from_dlpack(np.arange(1000), device="cuda:0")
    say("to the device", f"{(time.perf_counter() - begin) * 1e3:.1f} ms")
    begin = time.perf_counter()
    back = dlbridge.to_numpy(there, device="cpu")
    say("to the host", f"{(time.perf_counter() - begin) * 1e3:.1f} ms")
    say("content", "right" if np.array_equal(back, np.arange(1000)) else "WRONG")
    say("pool_stats", str(dlbridge.pool_stats()))


def numba_default_stream(say):
    """Whether a copy waits for a kernel on Numba's default stream, of which arrays say stream None."""
    from numba import cuda

    import dlbridge

    @cuda.jit
    def late(target, naps):
        for _ in range(naps):
            cuda.nanosleep(500000)
        target[0] = 1

    array = cuda.to_device(np.zeros(4, np.int32))
    late[1, 1](array, 0)
    dlbridge.to_numpy(array, device="cpu")  # warms up
    say("stream of __cuda_array_interface__", str(array.__cuda_array_interface__.get("stream")))
    array.copy_to_device(np.zeros(4, np.int32))
    cuda.synchronize()
    begin = time.perf_counter()
    late[1, 1](array, 600)
    got = dlbridge.to_numpy(array, device="cpu")
    seconds = time.perf_counter() - begin
    say("a kernel of 300 ms, then to_numpy", f"{'right' if got[0] == 1 else 'STALE'} after {seconds * 1e3:.0f} ms")


def cupy_capture(say):
    """What a stream that CuPy captures answers, and whether its capture stays valid."""
    import cupy

    import dlbridge

    x = cupy.arange(1000, dtype=cupy.float32)
    y = cupy.empty_like(x)
    cupy.add(x, 1, out=y)
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        cupy.add(x, 1, out=y)
        for name, given in (("current stream", {}), ("stream named", {"stream": stream.ptr})):
            try:
                dlbridge.to_numpy(y, device="cpu", **given)
                say(name, "nothing was refused")
            except Exception as error:
                say(name, f"{type(error).__name__} {getattr(error, 'code', '')}: {str(error)[:200]}")
        try:
            stream.end_capture()
            say("the capture", "stays valid")
        except Exception as error:
            say("the capture", f"is INVALID: {str(error)[:200]}")


CASES = {"first stage": first_stage, "numba default stream": numba_default_stream, "cupy capture": cupy_capture}


def main(arguments: list[str]) -> int:
    """See the module's text."""
    if arguments == ["--list"]:
        print("\n".join(CASES))
        return 0
    for name in arguments or CASES:
        if name not in CASES:
            print(f"no case is called {name!r}: --list names them", file=sys.stderr)
            return 2
        answer = partial(lambda name, fact, value: print_line(case=name, fact=fact, value=value), name)
        ended = ""
        try:
            CASES[name](answer)
        except Exception as error:
            ended = f"{type(error).__name__}: {str(error)[:300]}"
        print_line(case=name, ended=ended)
    return 0


def print_line(**line: str) -> None:
    """JSON, flushed."""
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

# SPDX-License-Identifier: Apache-2.0
"""What is refused, before anything moves, and what the refusal says."""

from __future__ import annotations

import functools

import numpy as np

import dlbridge

from .case import Bench, case


@case()
def device_not_named(bench: Bench) -> None:
    """Without device= nothing leaves the GPU; the refusal says how many bytes and which call does it."""
    x, expected = bench.on_device()
    error = bench.refusal("device_not_named", lambda: dlbridge.to_numpy(x))
    assert 'device="cpu"' in str(error), error
    with_copy = bench.refusal("device_not_named", lambda: dlbridge.to_numpy(x, copy=True))
    assert isinstance(with_copy, BufferError)
    assert dlbridge.explain(x, "numpy").verdict == "refuse"
    bench.same(dlbridge.to_numpy(x, device="cpu"), expected)


@case()
def copies_forbidden(bench: Bench) -> None:
    """copy=False with a device that is another one."""
    x, _ = bench.on_device()
    bench.refusal("copy_forbidden", lambda: dlbridge.to_numpy(x, device="cpu", copy=False))


@case(stream=(0, -2, -100))
def stream_that_is_none(bench: Bench, stream: int) -> None:
    """Numbers that DLPack forbids."""
    x, _ = bench.on_device()
    bench.refusal("stream_invalid", lambda: dlbridge.stage(x, device="cpu", stream=stream))


@case()
def stream_of_a_wrong_kind(bench: Bench) -> None:
    """An object that is no stream."""
    x, _ = bench.on_device()
    for wrong in ("1", 1.5, object()):
        bench.raised(TypeError, functools.partial(dlbridge.stage, x, device="cpu", stream=wrong))


@case(device=("cuda:999", "gpu", "cuda:-1", "tpu:0"))
def device_that_is_none(bench: Bench, device: str) -> None:
    """Devices that are not there."""
    bench.raised(dlbridge.ExchangeError, lambda: dlbridge.from_dlpack(np.zeros(3), device=device))


@case()
def out_of_another_shape(bench: Bench) -> None:
    """out= has to fit."""
    x, expected = bench.on_device("dense")
    bench.refusal("shape_mismatch", lambda: dlbridge.stage(x, out=np.zeros((7, 7), expected.dtype)))


@case()
def read_only_out(bench: Bench) -> None:
    """out= has to be writable."""
    x, expected = bench.on_device("dense")
    locked = np.zeros(expected.shape, expected.dtype)
    locked.flags.writeable = False
    bench.refusal("read_only", lambda: dlbridge.stage(x, out=locked))
    assert not locked.any()


@case()
def nothing_to_stage(bench: Bench) -> None:
    """An object that is no array."""
    for wrong in (object(), "text", 3):
        bench.raised(TypeError, functools.partial(dlbridge.stage, wrong, device="cpu"))

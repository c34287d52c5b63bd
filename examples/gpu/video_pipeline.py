# SPDX-License-Identifier: Apache-2.0
"""Frames through a GPU: up, filtered, down, all at the same time, in reused memory.

    python examples/gpu/video_pipeline.py [--frames 120] [--height 1080] [--width 1920]

There are two pinned buffers for each direction. While the GPU filters one frame, the next one is copied up and the last
one down. The host waits only before it fills a buffer that is still read. dlbridge keeps the order on the GPU: the
filter runs after the frame has arrived, and the next frame does not overwrite one that is still filtered.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import machine
import numpy as np

import dlbridge

BUFFERS = 2


@dataclass
class Gpu:
    """All that depends on the framework."""

    stream: Any  # as dlbridge.stage takes it
    inputs: list[Any]  # BUFFERS arrays on the GPU, as large as a frame
    run: Callable[[Any], Any]  # from one of them to a filtered array on the GPU, on the stream, without waiting


def filtered(frames: Iterable[np.ndarray], gpu: Gpu, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yields the filtered frames in order. A frame is valid until the next one is requested."""
    up = [dlbridge.pinned_empty(shape, np.uint8) for _ in range(BUFFERS)]
    down = [dlbridge.pinned_empty(shape, np.uint8) for _ in range(BUFFERS)]
    rising: list[Any] = [None] * BUFFERS
    falling: list[Any] = [None] * BUFFERS
    count = 0
    for count, frame in enumerate(frames, start=1):
        slot = (count - 1) % BUFFERS
        if rising[slot] is not None:
            rising[slot].synchronize()  # until then the GPU reads the pinned buffer
        up[slot][...] = frame
        if falling[slot] is not None:
            falling[slot].synchronize()
            yield down[slot]
        rising[slot] = dlbridge.stage(up[slot], out=gpu.inputs[slot], stream=gpu.stream)
        falling[slot] = dlbridge.stage(gpu.run(gpu.inputs[slot]), out=down[slot], stream=gpu.stream)
    for number in range(max(count - BUFFERS, 0), count):
        falling[number % BUFFERS].synchronize()
        yield down[number % BUFFERS]


def camera(frames: int, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """A gradient that moves."""
    height, width, channels = shape
    still = np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)
    for number in range(frames):
        yield np.repeat((still + np.uint8(number))[..., None], channels, axis=2)


def torch_gpu(shape: tuple[int, ...]) -> Gpu:
    """Inverts every frame, by torch on a side stream."""
    import torch

    stream = torch.cuda.Stream()

    def run(frame: Any) -> Any:
        with torch.cuda.stream(stream):
            return 255 - frame

    with torch.cuda.stream(stream):
        inputs = [torch.empty(shape, dtype=torch.uint8, device="cuda") for _ in range(BUFFERS)]
    return Gpu(stream, inputs, run)


def main() -> int:
    """Filters, and checks every frame."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--width", type=int, default=1920)
    options = parser.parse_args()
    if (reason := machine.reason()) is not None:
        print(reason)
        return 0
    shape = (options.height, options.width, 3)
    wrong, begin = 0, time.perf_counter()
    expected = camera(options.frames, shape)
    for got, frame in zip(filtered(camera(options.frames, shape), torch_gpu(shape), shape), expected, strict=True):
        wrong += not np.array_equal(got, 255 - frame)
    seconds = time.perf_counter() - begin
    print(f"{options.frames} frames of {options.width} x {options.height} in {seconds:.2f} s, {wrong} of them wrong")
    print(f"pinned memory: {dlbridge.pool_stats()}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

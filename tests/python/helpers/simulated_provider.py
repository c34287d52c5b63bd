# SPDX-License-Identifier: Apache-2.0
"""The simulated GPU as a framework of dlbridge.testing's, whose cases run on it where there is no GPU.

PYTHONPATH=tests/python python -m dlbridge.testing gpu --provider simulated_provider:SimulatedProvider
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import simulated_gpu
from capsules import consume
from dtypes import DTYPES, numpy_dtype
from simulated_gpu import LEGACY, SimulatedGpu, StreamObject

from dlbridge.testing import Hold, Layout, Provider, Unsupported

HOLD_SECONDS = 20.0


class Taken:
    """Memory of a foreign capsule."""

    def __init__(self, capsule: Any) -> None:
        managed, self._give_back = consume(capsule)
        tensor = managed.dl_tensor
        name = {code_and_bits: name for name, code_and_bits in DTYPES.items()}[tensor.code, tensor.bits]
        self.dtype = numpy_dtype(name)
        self.shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
        self.strides = tuple(tensor.strides[i] for i in range(tensor.ndim))
        self.data_ptr = (tensor.data or 0) + tensor.byte_offset

    def __del__(self) -> None:
        self._give_back()


class TimedHold:
    """A hold that ends by itself after a while."""

    def __init__(self, gpu: SimulatedGpu, stream: int) -> None:
        self._hold = gpu.hold(stream)
        self._timer = threading.Timer(HOLD_SECONDS, self._hold.release)
        self._timer.daemon = True
        self._timer.start()

    def release(self) -> None:
        self._timer.cancel()
        self._hold.release()


class SimulatedProvider(Provider):
    """FakeArrays, whose bytes arrive late, on a lazy scheduler: nothing runs before it is waited for."""

    name = "simulator"
    scheduler = "lazy"

    def __init__(self) -> None:
        self._gpu: Any = None
        self._current = threading.local()

    def why_not(self) -> str | None:
        return simulated_gpu.why_not()

    def open(self) -> None:
        self._gpu = SimulatedGpu(self.scheduler)
        self._gpu.sim.set_device_memory_limit(1 << 32)  # a case asks for more than there is

    def check(self) -> None:
        """No case may leave a report."""
        complaint = self._gpu.sim.complaint()
        self._gpu.sim.clear_reports()
        assert complaint == "", complaint

    def close(self) -> None:
        self._gpu.close()

    def array(self, buffer: np.ndarray, layout: Layout, stream: Any) -> Any:
        return self._gpu.array(layout.of(buffer), stream=self.number(stream), late=True)

    def read(self, x: Any) -> np.ndarray:
        self._gpu.sim.finish()
        return self._gpu.read(x).copy()

    def synchronize(self) -> None:
        self._gpu.sim.finish()

    def take(self, tensor: Any, stream: Any) -> Taken:
        return Taken(tensor.__dlpack__(stream=self.number(stream), max_version=(1, 0)))

    def new_stream(self) -> StreamObject:
        return StreamObject(self._gpu.stream(), "cuda_stream")

    def number(self, stream: Any) -> int:
        if stream is None:
            stream = getattr(self._current, "stream", None)
        return LEGACY if stream is None else stream.cuda_stream

    @contextlib.contextmanager
    def current(self, stream: Any) -> Iterator[None]:
        before = getattr(self._current, "stream", None)
        self._current.stream = stream
        try:
            yield
        finally:
            self._current.stream = before

    def overwrite(self, x: Any, byte: int, stream: Any) -> None:
        if x.nbytes == 0:
            raise Unsupported("there is nothing to write")
        self._gpu.overwrite(x, byte, self.number(stream))

    def hold(self, stream: Any) -> Hold:
        return TimedHold(self._gpu, self.number(stream))

    def capture(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        return self._gpu.capture(self.number(stream))


class EagerProvider(SimulatedProvider):
    """Everything runs as soon as it may."""

    name = "eager simulator"
    scheduler = "eager"


class RandomProvider(SimulatedProvider):
    """Some of what may run does so at each call."""

    name = "random simulator"
    scheduler = "random"

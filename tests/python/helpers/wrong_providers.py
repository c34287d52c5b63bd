# SPDX-License-Identifier: Apache-2.0
"""Providers with a mistake each, which cases of dlbridge.testing have to find; for testing/test_suite.py.

The simulator's own reports are left out, so that what is found is found by the cases, as on a real GPU.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from simulated_provider import SimulatedProvider

from dlbridge.testing import Layout, Provider


class Named(SimulatedProvider):
    """Named after its class."""

    def __init_subclass__(cls) -> None:
        cls.name = cls.__name__


class Unreported(Named):
    """No mistake, but the simulator's reports are not read."""

    def check(self) -> None:
        self._gpu.sim.clear_reports()

    def close(self) -> None:
        self._gpu.sim.clear_reports()
        self._gpu.close(check=False)


class IgnoresStream(Unreported):
    """Arrays come into being on a stream that is not named."""

    def array(self, buffer: np.ndarray, layout: Layout, stream: Any) -> Any:
        made = self._gpu.array(layout.of(buffer), stream=self._gpu.stream(), late=True)
        made.stream = self.number(stream)
        return made


class IgnoresOffset(Unreported):
    """Views begin at the buffer's first element."""

    def array(self, buffer: np.ndarray, layout: Layout, stream: Any) -> Any:
        return super().array(buffer, replace(layout, offset=0) if layout.strides[:1] > (0,) else layout, stream)


class WritesEarly(Unreported):
    """Work that is enqueued later is done at once."""

    def overwrite(self, x: Any, byte: int, stream: Any) -> None:
        self._gpu.sim.poke(x.memory, bytes([byte]) * x.span)


class NeverWrites(Unreported):
    """Work that is enqueued is lost."""

    def overwrite(self, x: Any, byte: int, stream: Any) -> None:
        pass


class ReadsOtherBits(Unreported):
    """Reads one bit wrong."""

    def read(self, x: Any) -> np.ndarray:
        found = super().read(x)
        if found.nbytes:
            found = np.ascontiguousarray(found).reshape(found.shape)
            found.reshape(-1)[:1].view(np.uint8)[0] ^= 1
        return found


class NeverWaits(Unreported):
    """Streams are not held up."""

    def hold(self, stream: Any) -> Any:
        self._gpu.sim.finish()
        return super().hold(self._gpu_stream())

    def _gpu_stream(self) -> Any:
        return self.new_stream()

    def array(self, buffer: np.ndarray, layout: Layout, stream: Any) -> Any:
        return self._gpu.array(layout.of(buffer), stream=self.number(stream))


class BreaksCaptures(Unreported):
    """A capture ends badly."""

    def capture(self, stream: Any) -> Any:
        raise RuntimeError("the capture was broken")


class Complains(Named):
    """check() finds something after every case."""

    def check(self) -> None:
        raise AssertionError("something was seen")


class FailsToOpen(Named):
    """open() raises."""

    def open(self) -> None:
        raise RuntimeError("no")


class FailsToClose(Named):
    """close() raises."""

    def close(self) -> None:
        super().close()
        raise AssertionError("something was not given back")


class Hangs(Named):
    """Reading never ends."""

    def read(self, x: Any) -> np.ndarray:
        while True:
            time.sleep(0.01)


class NoGpu(Provider):
    """Has nothing to run on."""

    name = "nothing"

    def why_not(self) -> str | None:
        return "there is no such GPU"


class NoProvider:
    """Of another kind."""

# SPDX-License-Identifier: Apache-2.0
"""What a framework has to tell the tests about itself.

A framework of your own is a class like this:

    class MyProvider(dlbridge.testing.Provider):
        name = "mine"
        def why_not(self): return None
        def array(self, buffer, layout, stream): return mine.from_numpy(buffer)[...]
        def read(self, x): mine.synchronize(); return mine.to_numpy(x)

and is tested by `python -m dlbridge.testing gpu --provider my_module:MyProvider`. With `device = "cpu"` it is one of
arrays in host memory, which have no streams (`stream` is None), and is tested by `python -m dlbridge.testing cpu`. Each
further method that it has makes more cases run; without it they are skipped, and the reason is printed. A provider is
used by one thread at a time, but for array(), read() and synchronize(), which cases about threads call from several.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from .layouts import Layout

Array = np.ndarray[Any, Any]


class Unsupported(Exception):
    """What this framework cannot do: a sentence. The case is skipped with it."""


class Hold(Protocol):
    """Keeps what a stream was given after it from running."""

    def release(self) -> None:
        """Lets it run. The second call does nothing."""


class Provider:
    """A framework with arrays on a GPU, or in host memory."""

    #: Stands in the names of the cases.
    name: str
    #: What `device=` names its device; "cpu" for host memory.
    device = "cuda:0"

    # ---- Must be there

    def why_not(self) -> str | None:
        """Why nothing of it can be tested here, as a sentence; None where it can. Called first."""
        raise NotImplementedError

    def array(self, buffer: Array, layout: Layout, stream: Any) -> Any:
        """A new array of the framework on its device, that sees `buffer` (one dimension, host memory) as `layout` says.

        The elements have to get there by work that is enqueued on `stream`, without waiting for it; `buffer` is not
        changed and may be kept. `stream` is what new_stream() gave, or None for the current one. Raises Unsupported for
        a dtype or layout that the framework does not have.
        """
        raise NotImplementedError

    def read(self, x: Any) -> Array:
        """The elements of one of its arrays, by the framework's own means and after all work of the device."""
        raise NotImplementedError

    # ---- May be there

    def open(self) -> None:
        """Called once before the first case, and only where why_not() gave None."""

    def check(self) -> None:
        """Called after every case. Raises where something was seen that the case cannot see: it fails then."""

    def close(self) -> None:
        """Called once after the last case. May raise as check() may."""

    def synchronize(self) -> None:
        """Waits for all work of the device."""
        raise Unsupported(f"{self.name} cannot wait for a device")

    def take(self, tensor: Any, stream: Any) -> Any:
        """An array of the framework over the memory of a dlbridge.Tensor, to be used on `stream`."""
        raise Unsupported(f"{self.name} takes no tensors of others")

    def address(self, x: Any) -> int:
        """Where the first element of one of its arrays lies in host memory, by the framework's own means."""
        raise Unsupported(f"{self.name} does not say where an array lies")

    def lock(self, x: Any) -> Any:
        """An array of the framework over the same host memory that must not be written."""
        raise Unsupported(f"{self.name} has no read-only arrays")

    def to_device(self, host: Array) -> Any:
        """An array of the framework by the call of dlbridge that makes such a one, where there is a special one."""
        raise Unsupported(f"dlbridge has no call of its own that makes arrays of {self.name}")

    def new_stream(self) -> Any:
        """A stream that waits for no other one, as an object that dlbridge takes as `stream=`."""
        raise Unsupported(f"{self.name} has no streams that can be chosen")

    def number(self, stream: Any) -> int:
        """The stream's number as DLPack counts: 1 is the legacy default stream."""
        raise Unsupported(f"streams of {self.name} have no numbers")

    def current(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        """Makes it the framework's current stream, on this thread."""
        raise Unsupported(f"{self.name} has no current stream")

    def overwrite(self, x: Any, byte: int, stream: Any) -> None:
        """Enqueues work on `stream` that sets every byte of the buffer (on the host: of the elements) to `byte`."""
        raise Unsupported(f"arrays of {self.name} cannot be written")

    def hold(self, stream: Any) -> Hold:
        """Keeps what `stream` is given from now on from running; nothing else waits. Ends by itself after a while."""
        raise Unsupported(f"streams of {self.name} cannot be held up")

    def capture(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        """Captures what the stream is given into a graph that is thrown away. Raises where the capture was broken."""
        raise Unsupported(f"{self.name} does not capture streams")

# SPDX-License-Identifier: Apache-2.0
"""A framework of the host without a mistake, and some with one each, which cases of dlbridge.testing have to find."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import dlbridge
from dlbridge.testing import Layout, Provider


class HostArray:
    """Over an array of NumPy, which does the work."""

    def __init__(self, array: np.ndarray, locked: bool = False) -> None:
        self.array = array
        self.locked = locked

    def view(self) -> np.ndarray:
        view = self.array.view()
        view.flags.writeable = not self.locked and self.array.flags.writeable
        return view

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __dlpack__(self, *, copy: Any = None, dl_device: Any = None, **keywords: Any) -> Any:
        if dl_device not in (None, (1, 0)):
            raise BufferError("there is no such device")
        return dlbridge.from_dlpack(self.view(), copy=copy is True or "named").__dlpack__(max_version=(1, 3))


class Right(Provider):
    """No mistake."""

    device = "cpu"
    Array = HostArray

    def __init_subclass__(cls) -> None:
        cls.name = cls.__name__

    def why_not(self) -> None:
        return None

    def array(self, buffer: np.ndarray, layout: Layout, stream: Any) -> Any:
        assert stream is None
        return self.Array(layout.of(buffer.copy()))

    def read(self, x: Any) -> np.ndarray:
        return x.array.copy()

    def take(self, tensor: Any, stream: Any) -> Any:
        return self.Array(np.asarray(tensor.numpy()), tensor.read_only)

    def address(self, x: Any) -> int:
        return x.array.ctypes.data

    def lock(self, x: Any) -> Any:
        return self.Array(x.array, locked=True)

    def overwrite(self, x: Any, byte: int, stream: Any) -> None:
        if x.locked:
            raise ValueError("the array is locked")
        x.array[...] = np.full(x.array.itemsize, byte, np.uint8).view(x.array.dtype)[0]


Right.name = "Right"


class IgnoresOffset(Right):
    """Views begin at the buffer's first element."""

    def array(self, buffer: np.ndarray, layout: Layout, stream: Any) -> Any:
        made = super().array(buffer, layout, stream)
        made.view = lambda: replace(layout, offset=0).of(buffer.copy())
        return made


class ExportsCopies(Right):
    """An export is a copy of the array."""

    class Array(HostArray):
        def view(self) -> np.ndarray:
            return super().view().copy()


class NamesGpu(Right):
    """__dlpack_device__ says that host memory is a GPU's."""

    def array(self, *arguments: Any) -> Any:
        made = super().array(*arguments)
        type(made).__dlpack_device__ = lambda self: (2, 0)
        return made

    class Array(HostArray):
        pass


class ReadsOtherBits(Right):
    """What was taken is read one bit wrong."""

    def read(self, x: Any) -> np.ndarray:
        found = super().read(x)
        found.reshape(-1)[:1].view(np.uint8)[0] ^= 1
        return found


class TakesCopies(Right):
    """Copies what it takes."""

    def take(self, tensor: Any, stream: Any) -> Any:
        return self.Array(tensor.numpy().copy())


class ExportsReadOnly(Right):
    """Says of all arrays that they must not be written."""

    class Array(HostArray):
        def view(self) -> np.ndarray:
            view = super().view()
            view.flags.writeable = False
            return view


class HidesReadOnly(Right):
    """Says of all arrays that they may be written."""

    class Array(HostArray):
        def view(self) -> np.ndarray:
            return self.array


class WritesReadOnly(Right):
    """Writes into memory that it was told not to write."""

    def take(self, tensor: Any, stream: Any) -> Any:
        array = tensor.numpy()
        writable = dlbridge.from_dlpack(array)
        return self.Array(WritesReadOnly.over(writable.data_ptr, array))

    @staticmethod
    def over(address: int, array: np.ndarray) -> np.ndarray:
        interface = {**array.__array_interface__, "data": (address, False)}
        return np.asarray(type("Memory", (), {"__array_interface__": interface, "kept": array})())


class IgnoresCopy(Right):
    """__dlpack__(copy=True) shares."""

    class Array(HostArray):
        def __dlpack__(self, **keywords: Any) -> Any:
            return super().__dlpack__(**{**keywords, "copy": None})


class AlwaysCopies(Right):
    """__dlpack__(copy=False) copies."""

    class Array(HostArray):
        def __dlpack__(self, **keywords: Any) -> Any:
            return super().__dlpack__(**{**keywords, "copy": True})


class FreesEarly(Right):
    """The memory ends with the array, whatever was exported."""

    class Array(HostArray):
        def __del__(self) -> None:
            if self.array.flags.writeable:
                self.array[...] = 0


class LeaksExports(Right):
    """An export keeps its array for ever."""

    class Array(HostArray):
        kept: list[Any] = []

        def __dlpack__(self, **keywords: Any) -> Any:
            self.kept.append(self)
            return super().__dlpack__(**keywords)


class ZeroesExports(Right):
    """An export changes the array."""

    class Array(HostArray):
        def __dlpack__(self, **keywords: Any) -> Any:
            self.array[...] = 0
            return super().__dlpack__(**keywords)


class KeepsTaken(Right):
    """What was taken is kept for ever."""

    kept: list[Any] = []

    def take(self, tensor: Any, stream: Any) -> Any:
        self.kept.append(tensor)
        return super().take(tensor, stream)


class IgnoresDevice(Right):
    """__dlpack__(dl_device=) is not looked at."""

    class Array(HostArray):
        def __dlpack__(self, **keywords: Any) -> Any:
            return super().__dlpack__(**{**keywords, "dl_device": None})


class RefusesNewer(Right):
    """A consumer of a later DLPack gets nothing."""

    class Array(HostArray):
        def __dlpack__(self, *, max_version: Any = None, **keywords: Any) -> Any:
            if max_version is not None and max_version > (1, 3):
                raise BufferError("unknown version")
            return super().__dlpack__(max_version=max_version, **keywords)


class KeepsRefused(Right):
    """Refuses 8-bit floats and keeps them."""

    kept: list[Any] = []

    def take(self, tensor: Any, stream: Any) -> Any:
        if "float8" in tensor.dtype:
            self.kept.append(tensor)
            raise TypeError("no such type")
        return super().take(tensor, stream)

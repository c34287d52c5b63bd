# SPDX-License-Identifier: Apache-2.0
"""The CUDA driver by way of ctypes, as far as the tests need it: memory, streams, and streams that are held up.

Uses the primary context of one device, which is what every framework and dlbridge use. Thread: any.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from .providers import Unsupported

LIBRARY = "libcuda.so.1"
#: How long a stream is held up at most, so that a test that fails does not hang.
LONGEST_HOLD_SECONDS = 20.0
#: The pinned memory of a Driver. It is there before a stream is held: pinning may wait for the device.
_ARENA_BYTES = 64 << 20
_ALIGNMENT = 256
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_HOST_MAPPED = 2  # CU_MEMHOSTALLOC_DEVICEMAP
_WAIT_EQUAL = 1  # CU_STREAM_WAIT_VALUE_EQ
_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED


Bytes = np.ndarray[Any, Any]


class DriverError(RuntimeError):
    """A call of the driver that failed."""


def why_not(library: str = LIBRARY) -> str | None:
    """Why there is no device to use; None where there is one."""
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return "no CUDA driver"
    count = ctypes.c_int()
    error = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if error != 0:
        return f"no GPU to use: the CUDA driver answers {error}"
    return None if count.value > 0 else "no GPU to use: the CUDA driver counts none"


class Driver:
    """Calls on one device. Owns: a reference to its primary context, pinned memory. While a stream is held nothing is
    pinned or freed, which may wait for the device."""

    def __init__(self, device: int = 0, library: Any = None) -> None:
        self._library = ctypes.CDLL(LIBRARY) if library is None else library
        self._call("cuInit", 0)
        handle, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(handle), device)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), handle)
        self._lock = threading.RLock()  # garbage collection may free() in any of these functions
        self._holds: list[DriverHold] = []
        self._dropped: list[int] = []  # device memory to be freed
        self._arena = self._pin(_ARENA_BYTES)
        self._used = 0

    def _call(self, name: str, *arguments: Any) -> None:
        error = getattr(self._library, name)(*arguments)
        if error != 0:
            raise DriverError(f"{name} answers {error}")

    def _inside(self, name: str, *arguments: Any) -> None:
        """Calls with the device's context."""
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            self._call(name, *arguments)
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    # ---- Memory

    def allocate(self, size: int) -> int:
        """Device memory; its address."""
        address = ctypes.c_uint64()
        self._inside("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return address.value

    def free(self, address: int) -> None:
        """Frees it, after the streams that are held. Waits for the device."""
        with self._lock:
            self._dropped.append(address)
            dropped, self._dropped = ([], self._dropped) if self._is_held() else (self._dropped, [])
        for each in dropped:
            self._inside("cuMemFree_v2", ctypes.c_uint64(each))

    def pinned(self, size: int) -> Bytes:
        """Host memory that the device reaches, good for the work that is enqueued next: it is used again when the
        device has done all its work."""
        with self._lock:
            begin = -(-self._used // _ALIGNMENT) * _ALIGNMENT
            if begin + size > _ARENA_BYTES:
                if size > _ARENA_BYTES or self._is_held():
                    return self._pin(size)
                self.synchronize()
                begin = 0
            self._used = begin + size
            return self._arena[begin : begin + size]

    def _pin(self, size: int) -> Bytes:
        """Pinned memory for the rest of the process."""
        address = ctypes.c_void_p()
        self._inside("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), _HOST_MAPPED)
        assert address.value is not None
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address.value))

    def to_device(self, address: int, pinned: Bytes, stream: int) -> None:
        """Enqueues a copy out of pinned()."""
        source = ctypes.c_void_p(pinned.ctypes.data)
        self._inside("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), source, ctypes.c_size_t(pinned.size), _h(stream))

    def to_host(self, address: int, size: int) -> Bytes:
        """A copy, after all work of the device."""
        target = np.empty(size, np.uint8)
        self.synchronize()
        if size > 0:
            where = ctypes.c_void_p(target.ctypes.data)
            self._inside("cuMemcpyDtoH_v2", where, ctypes.c_uint64(address), ctypes.c_size_t(size))
        return target

    def fill(self, address: int, byte: int, size: int, stream: int) -> None:
        """Enqueues the setting of bytes."""
        self._inside(
            "cuMemsetD8Async", ctypes.c_uint64(address), ctypes.c_ubyte(byte), ctypes.c_size_t(size), _h(stream)
        )

    # ---- Streams

    def synchronize(self) -> None:
        """Waits for all work of the device."""
        self._inside("cuCtxSynchronize")

    def new_stream(self) -> int:
        """The handle of a stream that waits for no other one. Never destroyed: frameworks may keep the handle."""
        stream = ctypes.c_void_p()
        self._inside("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        return int(stream.value or 0)

    def _is_held(self) -> bool:
        self._holds = [hold for hold in self._holds if not hold.released]
        return bool(self._holds)

    def hold(self, stream: int) -> DriverHold:
        """Keeps what the stream is given from now on from running."""
        word = self.pinned(4).view(np.uint32)
        word[0] = 0
        waiting = ctypes.c_uint64(word.ctypes.data)  # pinned memory has one address for host and device
        try:
            self._inside("cuStreamWaitValue32_v2", _h(stream), waiting, ctypes.c_uint32(1), _WAIT_EQUAL)
        except (DriverError, AttributeError) as error:
            raise Unsupported(f"this driver holds no stream up: {error}") from error
        hold = DriverHold(word)
        with self._lock:
            self._holds.append(hold)
        return hold

    @contextlib.contextmanager
    def capture(self, stream: int) -> Iterator[None]:
        """Captures the stream into a graph, which is thrown away."""
        graph = ctypes.c_void_p()
        self._inside("cuStreamBeginCapture_v2", _h(stream), _RELAXED)
        try:
            yield
        finally:
            self._inside("cuStreamEndCapture", _h(stream), ctypes.byref(graph))
            if graph.value:
                self._inside("cuGraphDestroy", graph)


class DriverHold:
    """A word of host memory that a stream waits for."""

    def __init__(self, word: Bytes, seconds: float = LONGEST_HOLD_SECONDS) -> None:
        self._word = word
        self.released = False
        self._timer = threading.Timer(seconds, self.release)
        self._timer.daemon = True
        self._timer.start()

    def release(self) -> None:
        """Lets the stream go on."""
        if not self.released:  # another hold may use the word by then
            self._word[0] = 1
            self.released = True
        self._timer.cancel()


def _h(stream: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(stream)

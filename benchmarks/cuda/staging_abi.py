# SPDX-License-Identifier: Apache-2.0
"""The C ABI of the CUDA module (cuda/include/dlbridge/cuda/c_api.h) by way of ctypes, as far as benchmarks need it.

library = Library("build/gpu/lib/libdlbridge_cuda.so")
with library.to_host(Descriptor.of(address, (1024,), INT32, CUDA, 0), stream=1) as result: result.array()
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CPU, CUDA = 1, 2
INT32 = (0, 32)  # DLPack's code and bits


class DLDevice(ctypes.Structure):
    """DLPack's struct of this name; so are those below."""

    _fields_ = [("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32)]


class DLDataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class DLManagedTensorVersioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("dl_tensor", DLTensor),
    ]


class DlbError(ctypes.Structure):
    """c_api.h's dlb_error."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("status", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("code", ctypes.c_char_p),
        ("field", ctypes.c_char_p),
        ("message", ctypes.c_char_p),
    ]


class DlbCudaInfo(ctypes.Structure):
    """dlbridge/cuda/c_api.h's dlb_cuda_info."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("message", ctypes.c_char_p),
        ("message_capacity", ctypes.c_size_t),
        ("message_length", ctypes.c_size_t),
        ("reason", ctypes.c_char_p),
        ("usable", ctypes.c_int32),
        ("driver_version", ctypes.c_int32),
        ("runtime_version", ctypes.c_int32),
        ("device_count", ctypes.c_int32),
    ]


class DlbPinnedStats(ctypes.Structure):
    """dlbridge/cuda/c_api.h's dlb_pinned_stats."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        *[
            (name, ctypes.c_size_t)
            for name in ("registered", "limit", "free", "owned", "in_flight", "quarantined", "leaked")
        ],
        *[(name, ctypes.c_uint64) for name in ("hits", "misses", "grows", "refused", "register_failed")],
    ]


class StagingError(RuntimeError):
    """What dlb_last_error says."""


@dataclass
class Descriptor:
    """A descriptor and the arrays that it points to. Borrows the memory."""

    managed: DLManagedTensorVersioned
    extents: ctypes.Array[ctypes.c_int64]

    @classmethod
    def of(cls, address: int, size: int, dtype: tuple[int, int], device_type: int, device_id: int) -> Descriptor:
        """One dimension, dense."""
        extents = (ctypes.c_int64 * 2)(size, 1)
        managed = DLManagedTensorVersioned(major=1, minor=0)
        tensor = managed.dl_tensor
        tensor.data = address
        tensor.device = DLDevice(device_type, device_id)
        tensor.ndim = 1
        tensor.dtype = DLDataType(dtype[0], dtype[1], 1)
        tensor.shape = ctypes.cast(extents, ctypes.POINTER(ctypes.c_int64))
        tensor.strides = ctypes.cast(ctypes.byref(extents, 8), ctypes.POINTER(ctypes.c_int64))
        return cls(managed, extents)

    @classmethod
    def of_array(cls, array: np.ndarray) -> Descriptor:
        """A NumPy array of 32-bit integers with one dimension."""
        return cls.of(array.ctypes.data, array.size, INT32, CPU, 0)


class Library:
    """Functions of one loaded library. Streams are numbers, as in the header."""

    def __init__(self, path: Path | str) -> None:
        self._library = ctypes.CDLL(str(path))
        handle, status, descriptor = ctypes.c_void_p, ctypes.c_int32, ctypes.POINTER(DLManagedTensorVersioned)
        self._to_host = self._function(
            "dlb_cuda_stage_to_host", descriptor, ctypes.c_ssize_t, handle, ctypes.POINTER(handle)
        )
        self._to_device = self._function("dlb_cuda_stage_to_device", descriptor, descriptor, ctypes.c_ssize_t, handle)
        self._many_to_host = self._function(
            "dlb_cuda_stage_many_to_host", handle, ctypes.c_size_t, ctypes.c_ssize_t, handle, handle
        )
        self._borrow = self._function("dlb_tensor_borrow", handle, ctypes.POINTER(descriptor))
        self._release = self._function("dlb_tensor_release", handle)
        self._trim = self._function("dlb_cuda_trim_pinned", ctypes.c_size_t, handle)
        self._stats = self._function("dlb_cuda_pinned_stats", ctypes.POINTER(DlbPinnedStats))
        self._availability = self._function("dlb_cuda_availability", ctypes.POINTER(DlbCudaInfo))
        self._last_error = self._library.dlb_last_error
        self._last_error.restype = status
        self._last_error.argtypes = [ctypes.POINTER(DlbError)]

    def _function(self, name: str, *arguments: type) -> ctypes._FuncPointer:  # type: ignore[name-defined]
        function = getattr(self._library, name)
        function.restype = ctypes.c_int32
        function.argtypes = list(arguments)
        function.errcheck = self._check
        return function

    def _check(self, status: int, function: object, arguments: object) -> int:
        if status != 0:
            error = DlbError(struct_size=ctypes.sizeof(DlbError))
            self._last_error(ctypes.byref(error))
            raise StagingError(f"{error.code.decode()}: {error.message.decode()}")
        return status

    def availability(self) -> tuple[bool, str, str]:
        """Whether there is a GPU to use; otherwise which reason, and a sentence about it."""
        text = ctypes.create_string_buffer(1024)
        info = DlbCudaInfo(
            struct_size=ctypes.sizeof(DlbCudaInfo), message=ctypes.addressof(text), message_capacity=len(text)
        )
        self._availability(ctypes.byref(info))
        return bool(info.usable), info.reason.decode(), text.value.decode()

    def to_host(self, source: Descriptor, stream: int) -> Result:
        """Fresh host memory."""
        handle = ctypes.c_void_p()
        self._to_host(ctypes.byref(source.managed), stream, None, ctypes.byref(handle))
        return Result(self, handle)

    def to_device(self, source: Descriptor, target: Descriptor, stream: int) -> None:
        """Returns once the source was read."""
        self._to_device(ctypes.byref(source.managed), ctypes.byref(target.managed), stream, None)

    def many_to_host(self, sources: Sources, stream: int) -> list[Result]:
        """One operation for all."""
        handles = (ctypes.c_void_p * sources.count)()
        self._many_to_host(sources.pointers, sources.count, stream, None, handles)
        return [Result(self, ctypes.c_void_p(handle)) for handle in handles]

    def trim(self) -> None:
        """Gives all free pinned memory back."""
        self._trim(0, None)

    def pinned_limit(self) -> int:
        """Bytes that the pool may register."""
        stats = DlbPinnedStats(struct_size=ctypes.sizeof(DlbPinnedStats))
        self._stats(ctypes.byref(stats))
        return int(stats.limit)


class Sources:
    """Descriptors of many tensors, ready for many_to_host."""

    def __init__(self, descriptors: Sequence[Descriptor]) -> None:
        self.descriptors = descriptors  # keeps what the pointers name
        self.count = len(descriptors)
        self.pointers = (ctypes.c_void_p * self.count)(*(ctypes.addressof(one.managed) for one in descriptors))


class Result:
    """Host memory that was staged. Owns: one share, until release()."""

    def __init__(self, library: Library, handle: ctypes.c_void_p) -> None:
        self._library = library
        self._handle = handle

    def array(self) -> np.ndarray:
        """The elements, 32-bit integers, as an array that borrows them."""
        managed = ctypes.POINTER(DLManagedTensorVersioned)()
        self._library._borrow(self._handle, ctypes.byref(managed))
        tensor = managed.contents.dl_tensor
        size = tensor.shape[0]
        memory = (ctypes.c_int32 * size).from_address(tensor.data)
        return np.frombuffer(memory, np.int32)

    def release(self) -> None:
        """Gives the share back."""
        handle, self._handle = self._handle, ctypes.c_void_p()
        self._library._release(handle)

# SPDX-License-Identifier: Apache-2.0
"""DLPack capsules made by hand: descriptors of any content, with a deleter that counts its calls."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

LEGACY, VERSIONED = b"dltensor", b"dltensor_versioned"
USED_LEGACY, USED_VERSIONED = b"used_dltensor", b"used_dltensor_versioned"

READ_ONLY, IS_COPIED, PADDED = 1, 2, 4  # flags of versioned descriptors

_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_DESTRUCTOR = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class DLManagedTensor(ctypes.Structure):
    _fields_ = [("dl_tensor", DLTensor), ("manager_ctx", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class DLManagedTensorVersioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("dl_tensor", DLTensor),
    ]


assert ctypes.sizeof(DLTensor) == 48
assert ctypes.sizeof(DLManagedTensor) == 64
assert ctypes.sizeof(DLManagedTensorVersioned) == 80


def _capi(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(ctypes.pythonapi, name)
    # A prototype of our own: others may have set other types on the shared function object.
    address = ctypes.cast(function, ctypes.c_void_p).value
    return ctypes.PYFUNCTYPE(result, *arguments)(address)


_new = _capi("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
_is_valid = _capi("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_get_pointer = _capi("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_get_name = _capi("PyCapsule_GetName", ctypes.c_char_p, ctypes.py_object)
_set_name = _capi("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_name_address = _capi("PyCapsule_GetName", ctypes.c_void_p, ctypes.py_object)
_error_occurred = _capi("PyErr_Occurred", ctypes.c_void_p)
_pointer_of = _capi("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)


def name_of(capsule: Any) -> str:
    """The capsule's name; empty where it has none."""
    return (_get_name(capsule) or b"").decode(errors="replace")


def versioned_of(capsule: Any) -> DLManagedTensorVersioned:
    """A borrowed look into a capsule."""
    pointer = _pointer_of(capsule, _get_name(capsule))
    return DLManagedTensorVersioned.from_address(pointer)


def legacy_of(capsule: Any) -> DLManagedTensor:
    """A borrowed look into a legacy capsule."""
    return DLManagedTensor.from_address(_pointer_of(capsule, _get_name(capsule)))


def name_address(capsule: Any) -> int | None:
    """Where the capsule's name stands."""
    return _name_address(capsule)


def consume(capsule: Any) -> tuple[Any, Callable[[], None]]:
    """Takes a capsule as the standard says: what was in it, and the call that gives it back.

    That call holds the GIL, and raises what the deleter leaves behind as a pending exception.
    """
    versioned = name_of(capsule) == VERSIONED.decode()
    managed = versioned_of(capsule) if versioned else legacy_of(capsule)
    assert _set_name(capsule, USED_VERSIONED if versioned else USED_LEGACY) == 0
    deleter = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(managed.deleter)
    return managed, lambda: deleter(ctypes.addressof(managed))


def exception_pending() -> bool:
    """Whether an exception is under way on this thread, below the Python code that asks."""
    try:
        return _error_occurred() is not None
    except BaseException:  # ctypes raises what it finds pending
        return True


def _destroy(capsule: int) -> None:
    for name, kind in ((LEGACY, DLManagedTensor), (VERSIONED, DLManagedTensorVersioned)):
        if _is_valid(capsule, name):
            pointer = _get_pointer(capsule, name)
            deleter = kind.from_address(pointer).deleter
            if deleter:
                _DELETER(deleter)(pointer)


_destroy_callback = _DESTRUCTOR(_destroy)
_kept: list[Any] = []  # C code may call these until the process ends


@dataclass
class Crafted:
    """A descriptor of any content over memory of its own: by default 24 floats from 0 to 23."""

    shape: tuple[int, ...] | None = (2, 3)
    strides: tuple[int, ...] | None = (3, 1)
    ndim: int | None = None
    code: int = 2
    bits: int = 32
    lanes: int = 1
    device: tuple[int, int] = (1, 0)
    byte_offset: int = 0
    data: int | None = -1  # -1: the memory
    version: tuple[int, int] = (1, 3)
    flags: int = 0
    versioned: bool = True
    manager_ctx: int | None = None
    deleter: bool = True
    name: bytes | None = None
    unnamed: bool = False  # a capsule whose name is NULL
    calls: int = 0
    memory: Any = field(default_factory=lambda: (ctypes.c_float * 24)(*range(24)))

    def address(self) -> int:
        return ctypes.addressof(self.memory)

    def managed(self) -> DLManagedTensor | DLManagedTensorVersioned:
        """A new descriptor, not in a capsule; it keeps nothing alive but what C needs."""
        managed = DLManagedTensorVersioned() if self.versioned else DLManagedTensor()
        if self.versioned:
            managed.major, managed.minor = self.version
            managed.flags = self.flags
        managed.manager_ctx = self.manager_ctx
        self._describe(managed.dl_tensor)
        if self.deleter:
            callback = _DELETER(self._count)
            _kept.append(callback)
            managed.deleter = ctypes.cast(callback, ctypes.c_void_p).value
        _kept.append((managed, self))
        return managed

    def capsule(self) -> Any:
        """A new descriptor in a capsule."""
        return self.capsule_at(ctypes.addressof(self.managed()))

    def capsule_at(self, managed: int) -> Any:
        """A capsule of the descriptor at an address."""
        kept_name = ctypes.create_string_buffer(self.name or (VERSIONED if self.versioned else LEGACY))
        _kept.append(kept_name)
        return _new(
            managed,
            None if self.unnamed else ctypes.addressof(kept_name),
            ctypes.cast(_destroy_callback, ctypes.c_void_p),
        )

    def _count(self, _: int) -> None:
        self.calls += 1

    def _describe(self, tensor: DLTensor) -> None:
        tensor.data = self.address() if self.data == -1 else self.data
        tensor.device_type, tensor.device_id = self.device
        tensor.code, tensor.bits, tensor.lanes = self.code, self.bits, self.lanes
        tensor.byte_offset = self.byte_offset
        tensor.ndim = self.ndim if self.ndim is not None else len(self.shape or ())
        for member in ("shape", "strides"):
            values = getattr(self, member)
            if values is not None:
                array = (ctypes.c_int64 * max(len(values), 1))(*values)
                _kept.append(array)
                setattr(tensor, member, array)


class Asks(Crafted):
    """Its deleter notes whether an exception is pending."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.pending: list[bool] = []

    def _count(self, pointer: int) -> None:
        self.pending.append(exception_pending())
        super()._count(pointer)


class Producer:
    """An object whose __dlpack__ is any function."""

    def __init__(self, dlpack: Callable[..., Any], device: tuple[int, int] = (1, 0)) -> None:
        self.dlpack = dlpack
        self.device = device
        self.calls: list[dict[str, Any]] = []

    def __dlpack__(self, **keywords: Any) -> Any:
        self.calls.append(keywords)
        return self.dlpack(**keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

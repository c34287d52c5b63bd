# SPDX-License-Identifier: Apache-2.0
"""DLPack exchange tables: dlbridge's own, and foreign ones of any content."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from capsules import Crafted, DLManagedTensorVersioned, DLTensor, _kept, _new, _pointer_of

import dlbridge

ADDRESS = ctypes.c_void_p
SET_ERROR = ctypes.CFUNCTYPE(None, ADDRESS, ctypes.c_char_p, ctypes.c_char_p)
ALLOCATE = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.POINTER(DLTensor), ctypes.POINTER(ADDRESS), ADDRESS, SET_ERROR)
FROM_OBJECT = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(ADDRESS))
TO_OBJECT = ctypes.PYFUNCTYPE(ctypes.c_int, ADDRESS, ctypes.POINTER(ADDRESS))
BORROW = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(DLTensor))
STREAM = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int32, ctypes.POINTER(ADDRESS))
DELETER = ctypes.CFUNCTYPE(None, ADDRESS)


class Table(ctypes.Structure):
    """DLPackExchangeAPI; the header is its first three fields."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("prev_api", ADDRESS),
        ("allocate", ADDRESS),
        ("from_object", ADDRESS),
        ("to_object", ADDRESS),
        ("borrow", ADDRESS),
        ("stream", ADDRESS),
    ]


assert ctypes.sizeof(Table) == 56


def address_of(callback: Any) -> int:
    """The address of a C callback, which from now on lives until the process ends."""
    _kept.append(callback)
    return ctypes.cast(callback, ADDRESS).value


def capsule_of(table: Table, name: bytes | None = b"dlpack_exchange_api") -> Any:
    """A capsule of a table, as the types that have one hold it; an unnamed one where `name` is None."""
    kept_name = ctypes.create_string_buffer(name) if name is not None else None
    _kept.extend([table, kept_name])
    return _new(ctypes.addressof(table), None if kept_name is None else ctypes.addressof(kept_name), None)


def foreign(attribute: Any, **members: Any) -> Any:
    """An instance of a new type with this attribute in the place of a table's capsule."""
    return type("Foreign", (), {"__dlpack_c_exchange_api__": attribute, **members})()


def with_table(produce: Callable[[Any, Any], int], **members: Any) -> Any:
    """An instance of a new type that has a table of its own, and no __dlpack__ unless given in members."""
    made = Table(major=1, minor=3, from_object=address_of(FROM_OBJECT(produce)))
    return foreign(capsule_of(made), **members)


def hands_out(crafted: Crafted) -> Callable[[Any, Any], int]:
    """What stands in from_object: it hands out a new descriptor each time."""

    def produce(_: Any, out: Any) -> int:
        out[0] = ctypes.addressof(crafted.managed())
        return 0

    return produce


def table() -> Table:
    """A look into the table of dlbridge.Tensor."""
    capsule = dlbridge.Tensor.__dlpack_c_exchange_api__
    return Table.from_address(_pointer_of(capsule, b"dlpack_exchange_api"))


def managed_at(pointer: Any) -> DLManagedTensorVersioned:
    """A look at what a slot handed out."""
    return DLManagedTensorVersioned.from_address(pointer.value)


def give_back(pointer: Any) -> None:
    """Calls the deleter of what a slot handed out."""
    DELETER(managed_at(pointer).deleter)(pointer.value)

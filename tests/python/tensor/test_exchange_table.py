# SPDX-License-Identifier: Apache-2.0
"""The exchange table that dlbridge.Tensor offers. What is taken from tables of other types, and what tensors go into
this one, is in documents/test_validation.py."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import numpy as np
import pytest
from capsules import Crafted, DLTensor
from exchange_tables import (
    ADDRESS,
    ALLOCATE,
    BORROW,
    FROM_OBJECT,
    SET_ERROR,
    STREAM,
    give_back,
    managed_at,
    table,
)

import dlbridge
from support import watched


@pytest.mark.rule(88, 89)
def test_table_stays_on_the_type() -> None:
    address = ctypes.addressof(table())
    dlbridge.from_dlpack(np.zeros(3))
    gc.collect()
    assert ctypes.addressof(table()) == address
    found = table()
    assert (found.major, found.minor) == (1, 3)
    assert found.prev_api is None
    assert all((found.allocate, found.from_object, found.to_object, found.borrow, found.stream))


@pytest.mark.rule(108)
@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.arange(12)[::-2], np.full((), 3.0)])
def test_owning_tensor_outlives_its_handle(array: np.ndarray) -> None:
    handle = dlbridge.from_dlpack(array)
    out = ADDRESS()
    assert FROM_OBJECT(table().from_object)(handle, out) == 0
    del handle
    managed = managed_at(out)
    tensor = managed.dl_tensor
    assert (managed.major, managed.minor, managed.flags) == (1, 3, 0)
    assert tensor.data == array.ctypes.data
    assert tuple(tensor.shape[: tensor.ndim]) == array.shape
    assert tuple(tensor.strides[: tensor.ndim]) == tuple(s // array.itemsize for s in array.strides)
    give_back(out)


def test_owning_tensor_holds_source() -> None:
    array, alive = watched(np.zeros(4))
    handle = dlbridge.from_dlpack(array)
    out = ADDRESS()
    assert FROM_OBJECT(table().from_object)(handle, out) == 0
    del array, handle
    gc.collect()
    assert alive() is not None
    give_back(out)
    gc.collect()
    assert alive() is None


@pytest.mark.rule(108)
def test_flags_and_offsets_survive_tables() -> None:
    array = np.arange(10.0)
    array.flags.writeable = False
    handle = dlbridge.from_dlpack(array[3:])
    out = ADDRESS()
    assert FROM_OBJECT(table().from_object)(handle, out) == 0
    assert managed_at(out).flags & 1
    assert managed_at(out).dl_tensor.data + managed_at(out).dl_tensor.byte_offset == array[3:].ctypes.data
    give_back(out)
    padded = dlbridge.from_dlpack(Crafted(shape=(4,), strides=(1,), code=15, bits=6, flags=4).capsule())
    assert FROM_OBJECT(table().from_object)(padded, out) == 0
    assert managed_at(out).flags & 4
    give_back(out)


def test_borrowed_description() -> None:
    array = np.arange(6, dtype=np.int16).reshape(2, 3).T
    handle = dlbridge.from_dlpack(array)
    tensor = DLTensor()
    assert BORROW(table().borrow)(handle, tensor) == 0
    assert tensor.data == array.ctypes.data
    assert (tensor.device_type, tensor.device_id, tensor.ndim) == (1, 0, 2)
    assert (tensor.code, tensor.bits, tensor.lanes) == (0, 16, 1)
    assert tuple(tensor.shape[:2]) == (3, 2)
    assert tuple(tensor.strides[:2]) == (1, 3)


def test_borrowing_refuses_padding() -> None:
    handle = dlbridge.from_dlpack(Crafted(shape=(4,), strides=(1,), code=0, bits=4, flags=4).capsule())
    with pytest.raises(dlbridge.ExchangeError, match="int4, padded to whole bytes"):
        BORROW(table().borrow)(handle, DLTensor())


@pytest.mark.rule(109)
@pytest.mark.parametrize("slot", ["from_object", "borrow"])
def test_other_types_are_type_errors(slot: str) -> None:
    out: Any = ADDRESS() if slot == "from_object" else DLTensor()
    call = FROM_OBJECT if slot == "from_object" else BORROW
    with pytest.raises(TypeError, match=r"x is numpy\.ndarray; expected a dlbridge\.Tensor"):
        call(getattr(table(), slot))(np.zeros(3), out)


def allocate(prototype: DLTensor) -> tuple[int, Any, list[tuple[str, str]]]:
    errors: list[tuple[str, str]] = []
    callback = SET_ERROR(lambda _, kind, message: errors.append((kind.decode(), message.decode())))
    out = ADDRESS()
    return ALLOCATE(table().allocate)(prototype, out, None, callback), out, errors


def prototype(shape: tuple[int, ...], **fields: Any) -> DLTensor:
    tensor = DLTensor(device_type=1, ndim=len(shape), code=2, bits=32, lanes=1)
    tensor.shape = (ctypes.c_int64 * max(len(shape), 1))(*shape)
    for name, value in fields.items():
        setattr(tensor, name, value)
    return tensor


def test_allocator_reads_only_prototype() -> None:
    lying = prototype((2, 5), data=1, byte_offset=2**64 - 1)
    lying.strides = (ctypes.c_int64 * 2)(-(2**63), 2**63 - 1)
    status, out, errors = allocate(lying)
    assert (status, errors) == (0, [])
    tensor = managed_at(out).dl_tensor
    assert tuple(tensor.shape[:2]) == (2, 5)
    assert tuple(tensor.strides[:2]) == (5, 1)
    assert managed_at(out).flags == 0
    ctypes.memset(tensor.data, 7, 40)  # the memory is there
    give_back(out)


@pytest.mark.rule(110)
@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (prototype((2, -1)), "shape in dimension 1 is -1"),
        (prototype((2**40, 2**40)), "more elements than 64 bits"),
        (prototype((2,), ndim=-1), "ndim is -1"),
        (prototype((2,), code=99), "dtype"),
        (prototype((2,), device_type=99), "device"),
        (prototype((2,), device_type=2), "cuda:0"),
    ],
)
def test_allocator_reports_errors(asked: DLTensor, says: str) -> None:
    status, out, errors = allocate(asked)
    assert status == -1
    assert out.value is None
    assert len(errors) == 1
    assert errors[0][0] == "BufferError"
    assert says in errors[0][1]


@pytest.mark.rule(110)
def test_cpu_stream_is_null() -> None:
    out = ADDRESS(1)
    assert STREAM(table().stream)(1, 0, out) == 0
    assert out.value is None

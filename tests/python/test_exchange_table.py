"""The exchange table: dlbridge.Tensor offers one, and takes from any type that has its own."""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from capsules import Crafted, DLManagedTensorVersioned, DLTensor, _capi, _kept

import dlbridge

_ADDRESS = ctypes.c_void_p
_SET_ERROR = ctypes.CFUNCTYPE(None, _ADDRESS, ctypes.c_char_p, ctypes.c_char_p)
_ALLOCATE = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.POINTER(DLTensor), ctypes.POINTER(_ADDRESS), _ADDRESS, _SET_ERROR)
_FROM_OBJECT = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(_ADDRESS))
_TO_OBJECT = ctypes.PYFUNCTYPE(ctypes.c_int, _ADDRESS, ctypes.POINTER(_ADDRESS))
_BORROW = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(DLTensor))
_STREAM = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int32, ctypes.POINTER(_ADDRESS))
_DELETER = ctypes.CFUNCTYPE(None, _ADDRESS)

_new_capsule = _capi("PyCapsule_New", ctypes.py_object, _ADDRESS, _ADDRESS, _ADDRESS)
_capsule_pointer = _capi("PyCapsule_GetPointer", _ADDRESS, ctypes.py_object, ctypes.c_char_p)
_capsule_name = ctypes.create_string_buffer(b"dlpack_exchange_api")


class Table(ctypes.Structure):
    """DLPackExchangeAPI; the header is its first three fields."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("prev_api", _ADDRESS),
        ("allocate", _ADDRESS),
        ("from_object", _ADDRESS),
        ("to_object", _ADDRESS),
        ("borrow", _ADDRESS),
        ("stream", _ADDRESS),
    ]


assert ctypes.sizeof(Table) == 56


def table() -> Table:
    capsule = dlbridge.Tensor.__dlpack_c_exchange_api__
    return Table.from_address(_capsule_pointer(capsule, b"dlpack_exchange_api"))


def managed_at(pointer: Any) -> DLManagedTensorVersioned:
    return DLManagedTensorVersioned.from_address(pointer.value)


def give_back(pointer: Any) -> None:
    _DELETER(managed_at(pointer).deleter)(pointer.value)


# ---- offering ----


def test_the_table_is_on_the_type_and_stays_where_it_is() -> None:
    address = ctypes.addressof(table())
    dlbridge.from_dlpack(np.zeros(3))
    gc.collect()
    assert ctypes.addressof(table()) == address
    found = table()
    assert (found.major, found.minor) == (1, 3)
    assert found.prev_api is None
    assert all((found.allocate, found.from_object, found.to_object, found.borrow, found.stream))


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.arange(12)[::-2], np.full((), 3.0)])
def test_an_owning_tensor_is_the_memory_and_outlives_its_handle(array: np.ndarray) -> None:
    handle = dlbridge.from_dlpack(array)
    out = _ADDRESS()
    assert _FROM_OBJECT(table().from_object)(handle, out) == 0
    del handle
    managed = managed_at(out)
    tensor = managed.dl_tensor
    assert (managed.major, managed.minor, managed.flags) == (1, 3, 0)
    assert tensor.data == array.ctypes.data
    assert tuple(tensor.shape[: tensor.ndim]) == array.shape
    assert tuple(tensor.strides[: tensor.ndim]) == tuple(s // array.itemsize for s in array.strides)
    give_back(out)


def test_the_source_lives_as_long_as_the_owning_tensor() -> None:
    class Watched(np.ndarray):
        pass

    gone: list[int] = []
    array = np.zeros(4).view(Watched)
    weakref.finalize(array, gone.append, 1)
    handle = dlbridge.from_dlpack(array)
    out = _ADDRESS()
    assert _FROM_OBJECT(table().from_object)(handle, out) == 0
    del array, handle
    gc.collect()
    assert gone == []
    give_back(out)
    gc.collect()
    assert gone == [1]


def test_read_only_padding_and_offsets_survive() -> None:
    array = np.arange(10.0)
    array.flags.writeable = False
    handle = dlbridge.from_dlpack(array[3:])
    out = _ADDRESS()
    assert _FROM_OBJECT(table().from_object)(handle, out) == 0
    assert managed_at(out).flags & 1
    assert managed_at(out).dl_tensor.data + managed_at(out).dl_tensor.byte_offset == array[3:].ctypes.data
    give_back(out)
    padded = dlbridge.from_dlpack(Crafted(shape=(4,), strides=(1,), code=15, bits=6, flags=4).capsule())
    assert _FROM_OBJECT(table().from_object)(padded, out) == 0
    assert managed_at(out).flags & 4
    give_back(out)


def test_a_borrowed_description_needs_no_owner() -> None:
    array = np.arange(6, dtype=np.int16).reshape(2, 3).T
    handle = dlbridge.from_dlpack(array)
    tensor = DLTensor()
    assert _BORROW(table().borrow)(handle, tensor) == 0
    assert tensor.data == array.ctypes.data
    assert (tensor.device_type, tensor.device_id, tensor.ndim) == (1, 0, 2)
    assert (tensor.code, tensor.bits, tensor.lanes) == (0, 16, 1)
    assert tuple(tensor.shape[:2]) == (3, 2)
    assert tuple(tensor.strides[:2]) == (1, 3)


@pytest.mark.parametrize("slot", ["from_object", "borrow"])
def test_another_type_is_a_type_error(slot: str) -> None:
    out: Any = _ADDRESS() if slot == "from_object" else DLTensor()
    call = _FROM_OBJECT if slot == "from_object" else _BORROW
    with pytest.raises(TypeError, match=r"x is numpy\.ndarray; expected a dlbridge\.Tensor"):
        call(getattr(table(), slot))(np.zeros(3), out)


def test_a_tensor_that_comes_in_is_wrapped_and_released_once() -> None:
    crafted = Crafted()
    managed = crafted.managed()
    out = _ADDRESS()
    assert _TO_OBJECT(table().to_object)(ctypes.addressof(managed), out) == 0
    handle = ctypes.cast(out, ctypes.py_object).value
    ctypes.pythonapi.Py_DecRef(ctypes.py_object(handle))
    assert isinstance(handle, dlbridge.Tensor)
    assert handle.data_ptr == crafted.address()
    assert handle.shape == (2, 3)
    assert crafted.calls == 0
    del handle
    assert crafted.calls == 1


def test_a_hostile_tensor_that_comes_in_is_refused_and_released_once() -> None:
    crafted = Crafted(ndim=-1)
    managed = crafted.managed()
    with pytest.raises(dlbridge.ExchangeError) as refusal:
        _TO_OBJECT(table().to_object)(ctypes.addressof(managed), _ADDRESS())
    assert refusal.value.code == "invalid_ndim"
    assert crafted.calls == 1


def allocate(prototype: DLTensor) -> tuple[int, Any, list[tuple[str, str]]]:
    errors: list[tuple[str, str]] = []
    callback = _SET_ERROR(lambda _, kind, message: errors.append((kind.decode(), message.decode())))
    out = _ADDRESS()
    return _ALLOCATE(table().allocate)(prototype, out, None, callback), out, errors


def prototype(shape: tuple[int, ...], **fields: Any) -> DLTensor:
    tensor = DLTensor(device_type=1, ndim=len(shape), code=2, bits=32, lanes=1)
    tensor.shape = (ctypes.c_int64 * max(len(shape), 1))(*shape)
    for name, value in fields.items():
        setattr(tensor, name, value)
    return tensor


def test_the_allocator_looks_only_at_what_a_prototype_says() -> None:
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
def test_the_allocator_reports_through_its_callback(asked: DLTensor, says: str) -> None:
    status, out, errors = allocate(asked)
    assert status == -1
    assert out.value is None
    assert len(errors) == 1
    assert errors[0][0] == "BufferError"
    assert says in errors[0][1]


def test_the_stream_of_the_cpu_is_null() -> None:
    out = _ADDRESS(1)
    assert _STREAM(table().stream)(1, 0, out) == 0
    assert out.value is None


# ---- taking ----


def with_table(
    produce: Callable[[Any, Any], int], *, version: tuple[int, int] = (1, 3), older: Table | None = None, **slots: Any
) -> Any:
    """An instance of a new type that has a table of its own, and no __dlpack__ unless given in slots."""
    callback = _FROM_OBJECT(produce)
    made = Table(major=version[0], minor=version[1], from_object=ctypes.cast(callback, _ADDRESS).value)
    if slots.pop("no_slot", False):
        made.from_object = None
    if older is not None:
        made.prev_api = ctypes.addressof(older)
    _kept.extend([callback, made, older])
    capsule = _new_capsule(ctypes.addressof(made), ctypes.addressof(_capsule_name), None)
    return type("Foreign", (), {"__dlpack_c_exchange_api__": capsule, **slots})()


def hands_out(crafted: Crafted) -> Callable[[Any, Any], int]:
    def produce(_: Any, out: Any) -> int:
        out[0] = ctypes.addressof(crafted.managed())
        return 0

    return produce


@pytest.mark.parametrize("convert", [dlbridge.to_torch, dlbridge.to_numpy, dlbridge.from_dlpack])
def test_a_foreign_table_is_taken_and_released_once(convert: Callable[[Any], Any]) -> None:
    crafted = Crafted()
    result = convert(with_table(hands_out(crafted)))
    assert tuple(result.shape) == (2, 3)
    assert dlbridge.from_dlpack(result).data_ptr == crafted.address()
    assert crafted.calls == 0
    del result
    gc.collect()
    assert crafted.calls == 1


def test_the_table_comes_before_the_method() -> None:
    def never(self: Any, **_: Any) -> None:
        raise AssertionError("__dlpack__ was called")

    crafted = Crafted()
    dlbridge.from_dlpack(with_table(hands_out(crafted), __dlpack__=never))
    assert crafted.calls == 1


@pytest.mark.parametrize(
    ("crafted", "code"),
    [
        (Crafted(ndim=-1), "invalid_ndim"),
        (Crafted(version=(2, 0)), "unsupported_version"),
        (Crafted(shape=None, ndim=2), "null_shape"),
        (Crafted(strides=(-3, 1), byte_offset=12), "negative_stride"),
        (Crafted(flags=1), "read_only"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_table_hands_out_is_validated_and_given_back_once(crafted: Crafted, code: str) -> None:
    with pytest.raises(dlbridge.ExchangeError) as refusal:
        dlbridge.to_torch(with_table(hands_out(crafted)))
    assert refusal.value.code == code
    assert crafted.calls == 1


def test_explain_gives_back_what_it_looked_at() -> None:
    crafted = Crafted(flags=1)
    assert dlbridge.explain(with_table(hands_out(crafted)), to="torch").reasons == ["read_only"]
    assert crafted.calls == 1


def test_a_null_tensor_is_refused() -> None:
    with pytest.raises(dlbridge.ExchangeError) as refusal:
        dlbridge.from_dlpack(with_table(lambda _, out: 0))
    assert refusal.value.code == "null_descriptor"


def test_a_failure_without_a_word_becomes_an_error() -> None:
    with pytest.raises(dlbridge.ExchangeError, match="without saying why") as refusal:
        dlbridge.from_dlpack(with_table(lambda _, out: -1))
    assert refusal.value.code == "framework_error"


def test_a_producers_own_exception_passes_through() -> None:
    ours = dlbridge.Tensor.__dlpack_c_exchange_api__  # its slots say TypeError to any other type
    foreign = type("Foreign", (), {"__dlpack_c_exchange_api__": ours})()
    with pytest.raises(TypeError, match=r"x is Foreign; expected a dlbridge\.Tensor"):
        dlbridge.from_dlpack(foreign)


def test_an_older_table_along_the_chain_is_found() -> None:
    crafted = Crafted()
    callback = _FROM_OBJECT(hands_out(crafted))
    older = Table(major=1, minor=3, from_object=ctypes.cast(callback, _ADDRESS).value)
    _kept.append(callback)
    younger = with_table(lambda _, out: -1, version=(2, 0), older=older)
    assert dlbridge.from_dlpack(younger).shape == (2, 3)


def via_method(crafted: Crafted) -> Callable[..., Any]:
    return lambda self, **_: crafted.capsule()


def test_a_chain_that_does_not_end_is_left_for_the_method() -> None:
    crafted = Crafted()
    endless = Table(major=2)
    endless.prev_api = ctypes.addressof(endless)
    foreign = with_table(lambda _, out: -1, version=(2, 0), older=endless, __dlpack__=via_method(crafted))
    assert dlbridge.from_dlpack(foreign).shape == (2, 3)


def test_a_table_without_the_slot_is_left_for_the_method() -> None:
    crafted = Crafted()
    foreign = with_table(lambda _, out: -1, no_slot=True, __dlpack__=via_method(crafted))
    assert dlbridge.from_dlpack(foreign).shape == (2, 3)


@pytest.mark.parametrize("attribute", [12345, None, "dlpack_exchange_api"])
def test_an_attribute_that_is_no_table_is_left_for_the_method(attribute: object) -> None:
    crafted = Crafted()
    kind = type("Foreign", (), {"__dlpack_c_exchange_api__": attribute, "__dlpack__": via_method(crafted)})
    assert dlbridge.from_dlpack(kind()).shape == (2, 3)


def test_a_subclass_is_asked_itself() -> None:
    crafted = Crafted()
    base = type(with_table(lambda _, out: -1))
    subclass = type("Sub", (base,), {"__dlpack__": via_method(crafted)})
    assert dlbridge.from_dlpack(subclass()).shape == (2, 3)

# SPDX-License-Identifier: Apache-2.0
"""What the exchange tier calls of torch beside the exchange table. Used by src/torch/exchange.cpp alone.

DLPack does not say whether a tensor is conjugated, sparse, fake or copy-on-write; functions of `torch._C` do. Importing
this module raises AttributeError where torch lacks one of them.
"""

import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import _C as _torch_c

_C: Any = _torch_c  # its stubs leave much out

tensor_type = torch.Tensor
parameter_type = torch.nn.Parameter

# ---- asked for every tensor ----

dispatch_keys = _C._dispatch_keys
raw_repr = _C.DispatchKeySet.raw_repr
is_copy_on_write = _C._is_cow_tensor
is_grad_enabled = _C.is_grad_enabled
untyped_storage = _C.TensorBase.untyped_storage
storage_nbytes = _C.StorageBase.nbytes
storage_offset = _C.TensorBase.storage_offset
dtype = _C.TensorBase.dtype
requires_grad = _C.TensorBase.requires_grad

to_capsule = _C._to_dlpack
from_capsule = _C._from_dlpack

# Functions that answer 0 or None while no mode or transform is active on this thread.
dispatch_stack_length = _C._len_torch_dispatch_stack
functorch_level = _C._functorch.maybe_current_level

_shape = _C.TensorBase.shape
_strides = _C.TensorBase.stride
_device = _C.TensorBase.device
_address = _C.TensorBase.data_ptr
_address_of_storage = _C._data_address
_element_size = _C.TensorBase.element_size

# Private, and not in every torch: without it read-only memory is not shared.
set_guard = getattr(_C, "_set_throw_on_mutable_data_ptr", None)
_GUARD = "_dlbridge_guarded"


def _plain_state() -> tuple[Any, Any]:
    """The dispatch keys that a thread includes and excludes on which nothing is active: those of a new one."""
    state: list[Any] = []

    def look() -> None:
        state.extend((_C._dispatch_tls_local_include_set(), _C._dispatch_tls_local_exclude_set()))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return state[0], state[1]


_PLAIN_STATE = _plain_state()


def key_bits(name: str) -> int:
    """The bits of the key set of one dispatch key; 0 where this torch has no such key."""
    try:
        key = _C._dispatch_key_parse(name)
    except RuntimeError:
        return 0
    return int(_C.DispatchKeySet(key).raw_repr())


@contextlib.contextmanager
def _plain_dispatch() -> Iterator[None]:
    """While it lasts, operators run as if no mode, transform, subclass or tracer were there, without autograd."""
    with _C.DisableTorchFunction(), _C._ForceDispatchKeyGuard(*_PLAIN_STATE), torch.no_grad():
        yield


def look(x: torch.Tensor) -> tuple[Any, ...]:
    """Shape, strides, offset in elements, dtype, device type and index, grad wanted, copy-on-write, storage, address.

    The address is None where the storage does not let anybody have its memory. Whether `guard` marked the storage is
    last. Read past what a subclass overrides.
    """
    with _C.DisableTorchFunction():
        device = _device.__get__(x)
        copy_on_write, storage, address, guarded = False, None, None, False
        with contextlib.suppress(RuntimeError):
            storage = untyped_storage(x)
            copy_on_write = is_copy_on_write(x)
            guarded = hasattr(storage, _GUARD)
            if copy_on_write or guarded:
                address = _address_of_storage(x) + storage_offset(x) * _element_size(x)
            else:
                address = _address(x)
        return (
            tuple(_shape.__get__(x)),
            _strides(x),
            storage_offset(x),
            dtype.__get__(x),
            device.type,
            device.index or 0,
            requires_grad.__get__(x),
            copy_on_write,
            storage,
            address,
            guarded,
        )


def guard(x: torch.Tensor) -> None:
    """Lets torch refuse writes to the storage of `x`. The storage's Python object, which torch keeps, has the mark."""
    assert set_guard is not None
    set_guard(x)
    setattr(untyped_storage(x), _GUARD, True)


def lift(x: torch.Tensor) -> torch.Tensor:
    """What a fresh tensor becomes under the active modes and transforms, as in torch.from_numpy."""
    with _C.DisableTorchFunction():
        return torch.ops.aten.lift_fresh.default(x)  # type: ignore[no-any-return]


def copy_into(target: torch.Tensor, source: torch.Tensor) -> None:
    """Writes the elements of `source` into `target`, casting and resolving what its keys promise.

    Takes the real part of complex elements without torch's warning: the caller has warned.
    """
    with _plain_dispatch():
        if source.is_complex() and not target.is_complex() and target.dtype != torch.bool:
            source = source.real
        target.copy_(source)


def dtype_named(name: str) -> torch.dtype | None:
    """The dtype of this name if this torch's DLPack brings it there and back; None otherwise."""
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        return None
    with warnings.catch_warnings(), _plain_dispatch():
        warnings.simplefilter("ignore")  # some types are announced as experimental
        try:
            back = from_capsule(to_capsule(torch.empty((1,), dtype=found, device="cpu")))
        except (RuntimeError, BufferError, NotImplementedError):
            return None
        return found if back.dtype == found else None

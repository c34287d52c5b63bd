# SPDX-License-Identifier: Apache-2.0
"""torch tensors in Ray's object store, shared with every process that reads them.

Importing this imports torch; `import dlbridge` does not.
"""

from __future__ import annotations

import functools
import pickle
from typing import Any, Literal

import torch

from . import _core

__all__ = ["register", "register_transport"]

_OnWrite = Literal["raise", "copy"]


def register(on_write: _OnWrite = "copy", device: str | None = None) -> None:
    """Let Ray send the torch tensors of this process so that their readers share the object store's memory.

    Call it after ``ray.init()`` in each process that sends tensors: in the driver, and in workers by
    ``ray.init(runtime_env={"worker_process_setup_hook": dlbridge.ray.register})``. Readers need no call.

    A tensor arrives as a plain ``torch.Tensor`` over the read-only memory of the object store. The first write to it
    copies the tensor (``on_write="copy"``) or raises an ``ExchangeError`` (``"raise"``), as with
    ``to_torch(on_write=)``. Tensors on a GPU are staged through the pinned pool and arrive on the same device, or on
    ``device``. Sparse, quantised and conjugated tensors, and those with hooks or attributes, are sent by torch's own
    pickle.

    Raises ``ExchangeError`` where this torch cannot share read-only memory (``build_info()["on_write"]``), and
    ``ImportError`` without Ray.

    .. versionadded:: 0.1.0
    """
    from ray.util import register_serializer

    _core.to_torch(bytes(1), on_write=on_write)
    device = _core._device_named(device)
    register_serializer(
        torch.Tensor, serializer=functools.partial(_reduce, on_write=on_write, device=device), deserializer=_rebuild
    )


def register_transport() -> None:
    """Make ``"dlbridge"`` a tensor transport of Ray: ``@ray.method(tensor_transport="dlbridge")``.

    What such a method returns stays with its actor, on the GPU or in host memory, until a reader asks for it. It is
    then staged through the pinned pool and read from the object store, as with ``register(on_write="copy")``. Call it
    once, before the actors are made, which need ``@ray.remote(enable_tensor_transport=True)``.

    Raises ``ImportError`` where Ray has no ``register_tensor_transport``, and ``ValueError`` when it is
    called twice.

    .. versionadded:: 0.1.0
    """
    from . import _ray_transport

    _ray_transport.register()


def _is_dense(t: torch.Tensor) -> bool:
    return (
        t.layout is torch.strided
        and t.device.type in ("cpu", "cuda")
        and not (t.is_quantized or t.is_conj() or t.is_neg() or t._backward_hooks or t.__dict__)
    )


def _reduce(t: torch.Tensor, on_write: _OnWrite, device: str | None) -> Any:
    if not _is_dense(t):
        return torch.Tensor.__reduce_ex__(t, pickle.HIGHEST_PROTOCOL)  # type: ignore[no-untyped-call]
    handle = _core.from_dlpack(t.detach(), device="cpu" if t.is_cuda else None)
    return handle, device or str(t.device), t.requires_grad, on_write


def _rebuild(reduced: Any) -> torch.Tensor:
    first, *rest = reduced
    if not isinstance(first, _core.Tensor):
        result: torch.Tensor = first(*rest[0])
        return result
    device, requires_grad, on_write = rest
    if device == "cpu":
        return _core.to_torch(first, on_write=on_write).requires_grad_(requires_grad)
    return _core.to_torch(first, device=device).requires_grad_(requires_grad)

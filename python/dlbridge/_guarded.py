# SPDX-License-Identifier: Apache-2.0
"""Pickling of torch tensors over read-only memory (`to_torch(on_write=)`), imported when the first one is made.

Torch asks for a writable pointer to pickle, to save and to send a tensor, which such a storage refuses or answers with
a copy. The reducers here give torch a tensor over the same memory without the guard.
"""

import copy
import copyreg
import weakref
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.multiprocessing import reductions

from . import _core

_ALIAS = "_dlbridge_alias"


def _is_guarded(t: torch.Tensor) -> bool:
    if t.layout is not torch.strided or t.device.type != "cpu" or t.is_quantized:
        return False
    return "read_only" in _core.explain(t.detach(), "torch").reasons


def _alias_of(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    """A storage without a guard over the memory of `storage`, the same while it lives: pickles keep what is shared."""
    known = getattr(storage, _ALIAS, None)
    alias: torch.UntypedStorage | None = known() if known else None
    if alias is None:
        memory = torch.empty(0, dtype=torch.uint8).set_(storage)
        alias = torch.utils.dlpack.from_dlpack(_core.from_dlpack(memory)).untyped_storage()
        setattr(storage, _ALIAS, weakref.ref(alias))
    return alias


def _like(plain: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """`plain` with what else `t` has."""
    if isinstance(t, torch.nn.Parameter):
        return torch.nn.Parameter(plain, t.requires_grad)
    plain.__dict__.update(t.__dict__)
    return plain.requires_grad_(t.requires_grad)


@torch.no_grad()
def _reduce(t: torch.Tensor) -> Any:
    """Pickles a tensor without a guard over the same memory."""
    if _is_guarded(t):
        layout = (_alias_of(t.untyped_storage()), t.storage_offset(), t.size(), t.stride())
        plain = torch.empty(0, dtype=t.dtype).set_(*layout)
        plain = torch._neg_view(plain) if t.is_neg() else plain
        t = _like(torch._conj(plain) if t.is_conj() else plain, t)
    return t.__reduce_ex__(2)  # type: ignore[no-untyped-call]


@torch.no_grad()
def _send(t: torch.Tensor) -> Any:
    """Sends a copy of its elements in shared memory, which the receiver may write."""
    if _is_guarded(t):
        storage = torch.UntypedStorage._new_shared(max(t.nbytes, 1))  # type: ignore[no-untyped-call]
        t = _like(torch.empty(0, dtype=t.dtype).set_(storage, 0, t.size()).copy_(t), t)  # type: ignore[call-overload]
        popen = get_spawning_popen()
        if popen is not None:  # the child inherits the descriptor, which has to be open until then
            popen.__dict__.setdefault("_dlbridge_sent", []).append(storage)
    return reductions.reduce_tensor(t)  # type: ignore[no-untyped-call]


def _copy(t: torch.Tensor) -> torch.Tensor:
    """copy.copy(), which asks copyreg, too: another tensor over the same storage, guarded as that is."""
    rebuild, arguments = t.__reduce_ex__(2)  # type: ignore[no-untyped-call]
    result: torch.Tensor = rebuild(*arguments)
    return result


copyreg.pickle(torch.Tensor, _reduce)
copy._copy_dispatch[torch.Tensor] = _copy  # type: ignore[attr-defined]
for _type in (torch.Tensor, torch.nn.Parameter):
    ForkingPickler.register(_type, _send)

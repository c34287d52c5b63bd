# SPDX-License-Identifier: Apache-2.0
"""What dlbridge adds to torch's own packages. Importing this imports torch; `import dlbridge` does not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch.distributed.checkpoint.staging import AsyncStager
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from . import _core
from ._offload import memory_key

__all__ = ["DcpStager"]

_ALIGNMENT = 64  # of tensors in one block

_Build = Callable[[list[torch.Tensor]], Any]  # a leaf of the result from the staged tensors


def _is_plain(x: torch.Tensor) -> bool:
    """Whether the elements are at their strides in the memory of `x`."""
    return x.layout is torch.strided and not x.is_quantized and not x.is_meta


class _Tensors:
    """The distinct tensors of a state dict."""

    def __init__(self) -> None:
        self.all: list[torch.Tensor] = []
        self._seen: dict[Any, int] = {}

    def leaf(self, x: Any, memo: dict[int, Any] | None = None) -> _Build:
        """Returns what makes the staged form of `x`. The same elements of the same memory are one tensor."""
        if not isinstance(x, torch.Tensor):
            kept = x if memo is None else copy.deepcopy(x, memo)
            return lambda staged: kept
        if is_traceable_wrapper_subclass(x):  # such as a DTensor, which holds its local tensor
            names, context = x.__tensor_flatten__()
            inner = [(name, self.leaf(getattr(x, name))) for name in names]
            make, size, stride = type(x).__tensor_unflatten__, x.size(), x.stride()
            return lambda staged: make({name: build(staged) for name, build in inner}, context, size, stride)
        x = x.detach()
        key: Any = id(x)
        contiguous = _is_plain(x) and x.is_contiguous()
        if _is_plain(x):
            x = x.resolve_conj().resolve_neg()
            key = (x.device, memory_key(x), x.dtype, x.numel() if contiguous else (x.size(), x.stride()))
        number = self._seen.setdefault(key, len(self.all))
        if number == len(self.all):
            self.all.append(x)
        size = x.size()
        return (lambda staged: staged[number].view(size)) if contiguous else (lambda staged: staged[number])


class DcpStager(AsyncStager):
    """Copies a state dict to the host for torch.distributed.checkpoint.async_save, with dlbridge.stage_many.

        stager = dlbridge.torch.DcpStager()
        response = torch.distributed.checkpoint.async_save(state_dict, checkpoint_id=path, async_stager=stager)
        optimizer.step()  # at once

    CUDA tensors are copied behind the work that the caller's current stream holds, into dlbridge's pinned pool. Later
    work on that stream may write to them at once. With ``snapshot=False`` later kernels run beside the copy: wait for
    ``response.staging_completion`` before a weight is written. CPU tensors are copied before stage() returns, into
    memory that later calls reuse once no tensor of the earlier result is left.

    Only the elements of a view are copied, and tied tensors once. Of a DTensor the local tensor is copied.
    ``share_memory=True`` puts the results into one block of torch's shared memory, which
    ``AsyncCheckpointerType.PROCESS`` does not copy; CUDA tensors are then copied once more on the host.

    >>> stager = dlbridge.torch.DcpStager()
    >>> stager.stage({"w": torch.ones(2), "step": 3}).result()
    {'w': tensor([1., 1.]), 'step': 3}

    .. versionadded:: 0.1.0
    """

    _synchronize_after_execute = False

    def __init__(self, *, share_memory: bool = False, snapshot: bool = True) -> None:
        self._share_memory = share_memory
        self._snapshot = snapshot
        self._blocks: list[torch.Tensor] = []
        self._thread: ThreadPoolExecutor | None = None

    def stage(self, state_dict: dict[str, Any]) -> Future[dict[str, Any]]:
        """Start the copies and return a Future of the copied state dict."""
        memo: dict[int, Any] = {}
        tensors = _Tensors()
        leaves, structure = pytree.tree_flatten(state_dict)
        builds = [tensors.leaf(leaf, memo) for leaf in leaves]
        on_device = [n for n, x in enumerate(tensors.all) if x.is_cuda and _is_plain(x)]
        copied = _core.stage_many([tensors.all[n] for n in on_device], snapshot=self._snapshot) if on_device else None
        staged = self._staged_on_host(tensors.all)

        def finish() -> dict[str, Any]:
            for n, array in zip(on_device, copied.result() if copied else (), strict=True):
                arrived = _core.to_torch(array)
                if staged[n] is None:
                    staged[n] = arrived
                else:
                    staged[n].copy_(arrived)
            result: dict[str, Any] = pytree.tree_unflatten([build(staged) for build in builds], structure)
            return result

        if copied is not None:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, "dlbridge-checkpoint")
            return self._thread.submit(finish)
        done: Future[dict[str, Any]] = Future()
        done.set_result(finish())
        return done

    def _staged_on_host(self, tensors: list[torch.Tensor]) -> list[Any]:
        """The copies of all tensors but the CUDA ones: room for those in shared memory, None in the pinned pool."""
        places: list[tuple[int, int]] = []
        end = 0
        for n, x in enumerate(tensors):
            if _is_plain(x) and x.numel() and (x.device.type == "cpu" or (x.is_cuda and self._share_memory)):
                places.append((n, end))
                end += -(-x.nbytes // _ALIGNMENT) * _ALIGNMENT
        block = self._block(end)
        staged: list[Any] = [None] * len(tensors)
        for n, start in places:
            x = tensors[n]
            memory = block[start : start + x.nbytes]
            if not self._share_memory:  # with a storage of its own, which torch's writer does not copy once more
                memory = torch.from_numpy(memory.numpy())
            strides = torch.empty_like(x, device="meta").stride()
            staged[n] = memory.view(x.dtype).as_strided(x.size(), strides)
            if not x.is_cuda:
                staged[n].copy_(x)
        for n, x in enumerate(tensors):
            if staged[n] is None and not (x.is_cuda and _is_plain(x)):
                staged[n] = x if x.is_meta else x.to("cpu", copy=True)
        return staged

    def _block(self, size: int) -> torch.Tensor:
        """Host memory of this size: that of an earlier call if its results are gone, else new."""
        self._blocks = [block for block in self._blocks if block.numel() == size or _uses(block) > _UNUSED]
        for block in self._blocks:
            if block.numel() == size and _uses(block) == _UNUSED:
                return block
        if self._share_memory:
            block = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(size))  # type: ignore[no-untyped-call]
        else:
            block = torch.empty(size, dtype=torch.uint8)
        self._blocks.append(block)
        return block

    def synchronize_staging(self) -> None:
        """Do nothing: wait for the Future of stage(), or for ``response.staging_completion``."""

    def close(self) -> None:
        """Wait for the copies that run, and drop the memory that is kept for later calls."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
        self._blocks.clear()


def _uses(block: torch.Tensor) -> int:
    """How many tensors and storage objects hold the memory of `block`."""
    return int(torch._C._storage_Use_Count(block.untyped_storage()._cdata))


_UNUSED = _uses(torch.empty(1))  # `block` itself and what asks

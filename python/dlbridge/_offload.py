# SPDX-License-Identifier: Apache-2.0
"""offload(): the weights of a module in host memory while they are not needed on the GPU."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from . import _core
from ._errors import ExchangeError

if TYPE_CHECKING:
    import torch


def memory_key(x: torch.Tensor) -> int:
    """The address of the first element, 0 where there is none. To guarded memory x.data_ptr() would be a write."""
    import torch

    storage: int = torch._C._data_address(x)  # type: ignore[attr-defined]
    return storage + int(x.storage_offset()) * x.element_size() if x.numel() else 0


class Offload:
    """A module whose weights move between a GPU and host memory: what offload() returns.

    >>> weights = dlbridge.offload(torch.nn.Linear(2, 2), device="cuda:0")
    >>> weights.device
    device(type='cuda', index=0)

    .. versionadded:: 0.1.0
    """

    def __init__(self, module: torch.nn.Module, device: Any, frozen: bool) -> None:
        import torch

        if not isinstance(module, torch.nn.Module):
            raise TypeError(
                f"module is {type(module).__name__}, expected a torch.nn.Module: call "
                'dlbridge.to_numpy(x, device="cpu") for a tensor'
            )
        groups: dict[Any, list[torch.Tensor]] = {}
        named = _core._device_named(device)
        devices = set() if named is None else {torch.device(named)}
        for name, x in [*module.named_parameters(), *module.named_buffers()]:
            if (
                type(x.data) is not torch.Tensor
                or x.layout is not torch.strided
                or x.device.type not in ("cpu", "cuda")
            ):
                raise ExchangeError(
                    f"{name} is a {type(x.data).__name__} ({x.layout}) on {x.device}, expected a dense torch.Tensor "
                    "on the CPU or a CUDA device: offload the submodules without it",
                    "unsupported_type",
                    "type",
                )
            groups.setdefault((x.device, memory_key(x) or id(x), x.dtype, x.size(), x.stride()), []).append(x)
            if x.is_cuda:
                devices.add(x.device)
        if len(devices) > 1:
            raise ExchangeError(
                f"device is {' and '.join(sorted(map(str, devices)))}, expected one: offload the submodules of each "
                "device",
                "invalid_device",
                "device",
            )
        self.device = devices.pop() if devices else None
        """Where onload() moves the weights; None where they are on the CPU and no device= was given."""
        self._tied = list(groups.values())
        self._host: dict[int, torch.Tensor] = {}  # memory of weights that are on the device
        self._frozen = frozen
        if self.device is None or self.device.type != "cuda":
            self.device = None
            warnings.warn(
                f"dlbridge.offload: the weights of {type(module).__name__} are on the CPU, and device= names no CUDA "
                "device: nothing is moved",
                stacklevel=3,
            )
        self.offload()

    def offload(self) -> int:
        """Move the weights to the host, and return the bytes copied: 0 for frozen weights that came from there."""
        moving = {n: tied[0].detach() for n, tied in enumerate(self._tied) if tied[0].is_cuda}
        written = [] if self._frozen else [n for n in moving if n in self._host]
        fresh = [n for n in moving if n not in self._host]
        futures = [_core.stage(moving[n], out=_core.from_dlpack(self._host[n])) for n in written]
        if fresh:
            arrays = _core.stage_many([moving[n] for n in fresh]).result()
            self._host.update(zip(fresh, map(_core.to_torch, arrays), strict=True))
        for future in futures:
            future.synchronize()
        for n in moving:
            self._place(n, self._host.pop(n))
        return sum(moving[n].nbytes for n in fresh + written)

    def onload(self) -> int:
        """Move the weights to the device, and return the bytes copied. Their memory on the host is kept."""
        if self.device is None:
            return 0
        moving = {n: tied[0].detach() for n, tied in enumerate(self._tied) if not tied[0].is_cuda}
        arrived = _core.stage_many(moving, device=str(self.device)).result()
        for n, x in arrived.items():
            self._place(n, x)
            self._host[n] = moving[n]
        return sum(x.nbytes for x in moving.values())

    def _place(self, n: int, memory: torch.Tensor) -> None:
        for x in self._tied[n]:
            x.data = memory


def offload(module: torch.nn.Module, *, device: Any = None, frozen: bool = False) -> Offload:
    """Move the parameters and buffers of a module to pinned host memory. ``.onload()`` of the result moves them back.

    Parameters stay the same objects, so optimisers keep them; gradients do not move. Tied weights are copied once. The
    memory on the host is kept and used again. ``frozen=True`` says that nothing writes to the weights on the GPU:
    ``.offload()`` then copies nothing back, and what was written is lost. ``device`` names the GPU for a module on the
    CPU, such as one over a mapped checkpoint, whose frozen weights stay mapped; without it a module on the CPU is left
    as it is, with a warning.

    Raises ExchangeError for weights that are not dense tensors of the CPU or of one CUDA device.

    >>> model = torch.nn.Linear(2, 2)  # or one on a GPU, whose memory is free afterwards
    >>> weights = dlbridge.offload(model, device="cuda:0")
    >>> weights.offload()  # returns the bytes that moved to the host; weights.onload() moves them back
    0

    .. versionadded:: 0.1.0
    """
    return Offload(module, device, frozen)

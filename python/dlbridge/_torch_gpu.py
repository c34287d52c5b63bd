# SPDX-License-Identifier: Apache-2.0
"""Torch's streams and allocator on a GPU, in both tiers. Used by src/torch/device_slots.cpp alone. Imports torch."""

from collections.abc import Callable
from typing import Any

import torch

from ._errors import ExchangeError

_C: Any = torch._C  # stubs leave much of them out
_cuda: Any = torch.cuda

LEGACY_STREAM = 1  # DLPack's number for what torch calls stream 0


def has_cuda() -> bool:
    """Returns whether this torch can allocate on a GPU here."""
    return bool(torch.cuda.is_available())


def current_stream(device: int) -> int:
    """The stream that torch enqueues on before it has initialised CUDA, or where it has none: no other can be."""
    return LEGACY_STREAM


def raw_stream_function() -> Callable[[int], int] | None:
    """torch's function from a device to the handle of its current stream, once it has initialised CUDA."""
    return _C._cuda_getCurrentRawStream if _cuda.is_initialized() else None


def empty(shape: tuple[int, ...], strides: tuple[int, ...], dtype: str, device: int) -> torch.Tensor:
    """An uninitialised tensor on `device`, from torch's own allocator."""
    if not has_cuda():
        raise ExchangeError(
            f"device is cuda:{device}, and torch {torch.__version__} cannot allocate there (torch.cuda.is_available() "
            "is False): install a CUDA build of torch, or pass device= to dlbridge.from_dlpack",
            "unsupported_device",
            "device",
        )
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype):
        raise ExchangeError(
            f"dtype is {dtype}, which torch {torch.__version__} does not have: pass a dtype= that it has",
            "unsupported_dtype",
            "dtype",
        )
    return torch.empty_strided(shape, strides, dtype=found, device=f"cuda:{device}")


def piece(
    memory: torch.Tensor, offset: int, dtype: str, shape: tuple[int, ...], strides: tuple[int, ...]
) -> torch.Tensor:
    """A tensor over a part of `memory`, which are bytes."""
    whole = memory.view(getattr(torch, dtype))
    return whole.as_strided(shape, strides, offset // whole.element_size())


def record_stream(tensor: torch.Tensor, device: int, stream: int) -> None:
    """Records with the allocator that `stream` uses the memory. torch counts its own streams itself."""
    if not has_cuda():
        return
    if stream == LEGACY_STREAM:
        tensor.record_stream(_cuda.default_stream(device))
    elif stream > 2:
        tensor.record_stream(_cuda.ExternalStream(stream, device=device))


def materialized(x: torch.Tensor) -> torch.Tensor:
    """The same elements, in memory that holds them as they are."""
    with torch.no_grad():
        if x._is_zerotensor():
            return torch.zeros(x.shape, dtype=x.dtype, device=x.device)
        plain = x.detach().resolve_conj().resolve_neg()
        return plain.clone() if _C._is_cow_tensor(plain) else plain

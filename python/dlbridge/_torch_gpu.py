"""What only torch knows of its tensors on a GPU. Used by src/torch_gpu.cpp alone, in every tier.

Importing this module imports torch, which whoever has a torch tensor has done before.
"""

import torch

from ._errors import ExchangeError

LEGACY_STREAM = 1  # DLPack's number for what torch calls stream 0

# Where this torch has CUDA. Before CUDA is initialised no stream but the legacy one can be current.
_raw_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)
_is_initialized = torch.cuda.is_initialized


def has_cuda() -> bool:
    """Whether this torch can allocate on a GPU here."""
    return bool(torch.cuda.is_available())


def current_stream(device: int) -> int:
    """The handle of the stream that torch enqueues on now; the legacy stream's where this torch has no CUDA."""
    if _raw_stream is None or not _is_initialized():
        return LEGACY_STREAM
    return int(_raw_stream(device)) or LEGACY_STREAM


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


def record_stream(tensor: torch.Tensor, device: int, stream: int) -> None:
    """Tells the allocator that `stream` uses the memory. Streams that torch itself counts need no telling."""
    if not has_cuda():
        return
    if stream == LEGACY_STREAM:
        tensor.record_stream(torch.cuda.default_stream(device))
    elif stream > 2:
        tensor.record_stream(torch.cuda.ExternalStream(stream, device=device))


def materialized(x: torch.Tensor) -> torch.Tensor:
    """The same elements, in memory that holds them as they are."""
    with torch.no_grad():
        if torch._C._is_zerotensor(x) if hasattr(torch._C, "_is_zerotensor") else x._is_zerotensor():
            return torch.zeros(x.shape, dtype=x.dtype, device=x.device)
        return x.detach().resolve_conj().resolve_neg()

# SPDX-License-Identifier: Apache-2.0
"""Pickling of dlbridge.Tensor. `rebuild_tensor` stands in pickles by its name: it stays where it is."""

import pickle
from collections.abc import Callable
from typing import Any, SupportsIndex

import numpy

from . import _core

_State = tuple[Any, str, tuple[int, ...], list[int], int]


def reduce_tensor(tensor: _core.Tensor, protocol: SupportsIndex) -> tuple[Callable[..., _core.Tensor], _State]:
    """What Tensor.__reduce_ex__ answers.

    The state is the memory, dtype, shape, strides in elements and DLPack's flag word. Raises ExchangeError for device
    memory.
    """
    memory, strides, flags = _core._dense_bytes(tensor)
    data: Any
    if int(protocol) >= 5:
        data = pickle.PickleBuffer(memory)
    else:
        data = bytes(memory) if memory.read_only else bytearray(memory)
    return rebuild_tensor, (data, tensor.dtype, tensor.shape, strides, flags)


def rebuild_tensor(data: Any, dtype: str, shape: tuple[int, ...], strides: list[int], flags: int) -> _core.Tensor:
    """A Tensor over `data`, any contiguous buffer: shared, and read-only where the buffer or the flags say so."""
    memory = _core.from_dlpack(numpy.frombuffer(data, numpy.uint8))
    return _core._tensor_over(memory, dtype, shape, strides, flags)

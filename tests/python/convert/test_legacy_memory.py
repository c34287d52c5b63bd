# SPDX-License-Identifier: Apache-2.0
"""Memory of legacy capsules, which cannot say whether it may be written: assume_writable=True, and producers whose
memory is known to be immutable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dlbridge import explain, from_dlpack, to_numpy, to_torch
from support import copies_on_write, read_only, refusal


class Legacy:
    """A producer of legacy capsules over an array."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **_: Any) -> Any:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class Buffer(bytearray):
    """The same with a buffer of its own."""

    __dlpack__ = Legacy.__dlpack__
    __dlpack_device__ = Legacy.__dlpack_device__


class ReadOnlyBuffer(bytes):
    """The same with a read-only buffer of its own."""

    __dlpack__ = Legacy.__dlpack__
    __dlpack_device__ = Legacy.__dlpack_device__


def producer(kind: type) -> Any:
    x = kind(4) if issubclass(kind, (bytes, bytearray)) else kind(None)
    x.array = np.zeros(4, np.float32)
    return x


LEGACY: dict[str, Callable[[], Any]] = {
    "capsule": lambda: np.zeros(4, np.float32).__dlpack__(),
    "producer": lambda: producer(Legacy),
    "buffer": lambda: producer(Buffer),
    "handle": lambda: from_dlpack(np.zeros(4, np.float32).__dlpack__()),
}


@pytest.mark.parametrize("make", LEGACY.values(), ids=LEGACY)
def test_the_caller_may_say_that_it_is_writable(make: Callable[[], Any]) -> None:
    assert not to_numpy(make()).flags.writeable
    assert "assume_writable=True" in explain(make(), "numpy").message
    assert "assume_writable" not in explain(make(), "numpy", assume_writable=True).message
    assert to_numpy(make(), assume_writable=True).flags.writeable
    assert to_numpy([make()], assume_writable=True)[0].flags.writeable
    to_torch(make(), on_write="raise", assume_writable=True)[0] = 1
    assert to_torch(make(), assume_writable=True).add_(1)[0] == 1


def test_memory_that_is_known_to_be_read_only_stays_so() -> None:
    array = read_only(np.zeros(4, np.float32))
    assert not to_numpy(array, assume_writable=True).flags.writeable
    assert refusal(lambda: to_torch(array, assume_writable=True)).code == "read_only"
    with pytest.raises(TypeError, match="assume_writable is 1; expected True or False"):
        to_numpy(array, assume_writable=1)  # type: ignore[call-overload]


def of_tensorflow() -> Any:
    """What the tensors of TensorFlow are to dlbridge: a legacy producer of that module."""
    return producer(type("EagerTensor", (Legacy,), {"__module__": "tensorflow.python.framework.ops"}))


@pytest.mark.parametrize("make", [of_tensorflow, lambda: producer(ReadOnlyBuffer)], ids=["tensorflow", "buffer"])
def test_legacy_memory_of_immutable_producers_is_read_only(make: Callable[[], Any]) -> None:
    assert from_dlpack(make()).read_only
    assert refusal(lambda: to_torch(make(), assume_writable=True)).code == "read_only"
    assert not to_numpy(make(), assume_writable=True).flags.writeable


@copies_on_write
def test_legacy_memory_is_guarded() -> None:
    t = to_torch(np.zeros(4, np.float32).__dlpack__(), on_write="copy")
    before = torch._C._data_address(t)
    t.add_(1)
    assert torch._C._data_address(t) != before

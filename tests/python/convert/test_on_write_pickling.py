# SPDX-License-Identifier: Apache-2.0
"""Pickling, saving, copying and sending of tensors over read-only memory: the memory is read, not written."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing

from dlbridge import ExchangeError, from_dlpack, to_numpy, to_torch
from support import copies_on_write, read_only


def load(data: bytes) -> Any:
    return torch.load(io.BytesIO(data))


def save(x: Any) -> Any:
    file = io.BytesIO()
    torch.save(x, file)
    return load(file.getvalue())


def send(x: Any) -> Any:
    """Through a queue, in one process."""
    queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
    queue.put(x)
    return queue.get()


WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "save": save,
    "deepcopy": copy.deepcopy,
    "queue": send,
}


@pytest.mark.parametrize("mode", ["raise", pytest.param("copy", marks=copies_on_write)])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_it_arrives_as_an_ordinary_tensor(way: Callable[[Any], Any], mode: Any) -> None:
    """Twice: what the receiver writes does not come back."""
    t = to_torch(read_only(np.arange(12, dtype=np.float32).reshape(3, 4)), on_write=mode)
    address = torch._C._data_address(t)
    parameter = torch.nn.Parameter(t)
    sent = {"whole": t, "part": t[1:, ::2], "parameter": parameter}
    for _ in range(2):
        found = way(sent)
        assert torch.equal(found["whole"], t) and torch.equal(found["part"], t[1:, ::2])
        assert isinstance(found["parameter"], torch.nn.Parameter) and found["parameter"].requires_grad
        found["whole"][1, 0] = 7
        if way in (save, copy.deepcopy):  # as with ordinary tensors, which share their storage then
            assert found["part"][0, 0] == 7
    assert t[1, 0] == 4 and torch._C._data_address(t) == address


def test_complex_views_keep_their_bits() -> None:
    t = to_torch(read_only(np.array([1 + 2j, 3 - 4j])), on_write="raise")
    assert torch.equal(WAYS["pickle"](t.conj()), t.conj().clone())
    assert torch.equal(WAYS["pickle"](t.conj().imag), t.conj().imag.clone())


def test_other_tensors_pickle_as_before() -> None:
    to_torch(read_only(np.zeros(3)), on_write="raise")
    t = torch.zeros(3)
    assert torch.equal(WAYS["pickle"](t), t) and t.untyped_storage().resizable()
    assert WAYS["pickle"](torch.eye(2).to_sparse()).is_sparse


@pytest.mark.parametrize("mode", ["raise", pytest.param("copy", marks=copies_on_write)])
def test_a_shallow_copy_is_guarded(mode: Any) -> None:
    memory = bytes(16)
    t = to_torch(memory, on_write=mode)
    shallow = copy.copy(t)
    assert shallow.is_set_to(t)
    try:
        shallow.fill_(1)
    except (ExchangeError, RuntimeError):
        assert mode == "raise"
    assert memory == bytes(16)


@copies_on_write
@pytest.mark.parametrize("strategy", ["file_descriptor", "file_system"])
@pytest.mark.parametrize("mode", ["raise", "copy"])
def test_share_memory_moves_the_elements(mode: Any, strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the guard of this storage alone. What was shared before keeps the memory before."""
    monkeypatch.setattr(torch.multiprocessing, "_sharing_strategy", strategy)
    source = read_only(np.arange(12, dtype=np.float32).reshape(3, 4))
    address = source.__array_interface__["data"][0]
    t, other = to_torch(source, on_write=mode), to_torch(source, on_write=mode)
    view, exported = t[1:], to_numpy(t)
    assert t.share_memory_() is t
    shared = torch._C._data_address(t)
    assert shared != address and t.is_shared() and view.is_shared() and torch.equal(t, other)
    send(t)[1, 0] = 7
    view[0, 1] = 8
    assert t[1].tolist() == [7, 8, 6, 7] and torch._C._data_address(t.share_memory_()) == shared
    assert not from_dlpack(t).read_only
    assert exported.__array_interface__["data"][0] == address and exported[1, 0] == source[1, 0] == 4
    assert torch._C._data_address(other) == address and from_dlpack(other).read_only


@copies_on_write
def test_share_memory_releases_the_memory_before() -> None:
    source = read_only(np.zeros(4))
    released = weakref.ref(source)
    t = to_torch(source, on_write="raise")
    del source
    assert torch.equal(save([t, t[1:]])[1], t[1:])
    t.share_memory_()
    assert released() is None


@copies_on_write
def test_modules_share_their_memory() -> None:
    layer = torch.nn.Linear(4, 3)
    layer.weight = torch.nn.Parameter(to_torch(read_only(np.ones((3, 4), np.float32)), on_write="raise"))
    layer.share_memory()
    layer(torch.ones(4)).sum().backward()
    torch.optim.SGD(layer.parameters(), lr=1.0).step()
    assert layer.weight.is_shared() and layer.weight.eq(0).all()


def test_the_process_ends_well() -> None:
    code = "import dlbridge; t = dlbridge.to_torch(bytes(64), on_write='raise')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

# SPDX-License-Identifier: Apache-2.0
"""to_torch(x, on_write=): read-only memory as a torch tensor whose storage refuses writes or copies before them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import dlbridge
from dlbridge import explain, from_dlpack, to_numpy, to_torch
from support import COPIES_ON_WRITE, cdata, copies_on_write, read_only, refusal

# Torch raises an error of its own before 2.13 and in the tier exchange.
REFUSED: type[Exception] = dlbridge.ExchangeError if COPIES_ON_WRITE else RuntimeError
MODES = ["raise", pytest.param("copy", marks=copies_on_write)]


def array() -> np.ndarray:
    return read_only(np.arange(12, dtype=np.float32).reshape(3, 4))


def address_of(t: torch.Tensor) -> int:
    """The address of the memory, which torch's data_ptr() would ask to write to."""
    return torch._C._data_address(t) + t.storage_offset() * t.element_size()


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[np.ndarray]:
    """Memory that the processor itself protects: a write that is not caught ends the process."""
    np.save(tmp_path / "x.npy", np.arange(1, 65, dtype=np.float32).reshape(8, 8))
    yield np.load(tmp_path / "x.npy", mmap_mode="r")


# ---- sharing ----


SOURCES: dict[str, Callable[[], Any]] = {
    "ndarray": array,
    "broadcast": lambda: np.broadcast_to(np.ones(3, np.float32), (2, 3)),
    "strided": lambda: array()[:, ::2],
    "bytes": lambda: np.frombuffer(bytes(range(16)), np.float32),
    "handle": lambda: from_dlpack(array()),
    "jax": lambda: jnp.arange(12.0).reshape(3, 4),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_read_only_memory_is_shared(make: Callable[[], Any], mode: Any) -> None:
    x = make()
    expected = to_numpy(x)
    plan = explain(x, "torch", on_write=mode)
    assert (plan.verdict, plan.bytes) == ("share", 0)
    assert ("raises" if mode == "raise" else "first write") in plan.message
    t = to_torch(x, on_write=mode)
    assert type(t) is torch.Tensor
    assert address_of(t) == expected.__array_interface__["data"][0]
    np.testing.assert_array_equal(to_numpy(t.clone()), expected)
    assert from_dlpack(t[:1]).read_only
    assert not to_numpy(t).flags.writeable


@pytest.mark.parametrize("mode", MODES)
def test_writable_memory_is_shared_as_always(mode: Any) -> None:
    a = np.zeros(3)
    to_torch(a, on_write=mode)[0] = 1
    assert a[0] == 1


def test_the_memory_of_an_empty_tensor_is_not_guarded() -> None:
    to_torch(read_only(np.empty((0, 3))), on_write="raise").add_(1)


def test_containers_pass_it_on() -> None:
    batch = to_torch({"image": [array(), np.zeros(2)], "label": (array(),)}, on_write="raise")
    batch["image"][1].add_(1)
    for t in (batch["image"][0], batch["label"][0]):
        with pytest.raises(REFUSED):
            t.add_(1)


def test_the_memory_lives_as_long_as_the_tensor() -> None:
    t = to_torch(array(), on_write="raise")[1:]
    handle = from_dlpack(t)
    assert t.sum() == 60
    del t
    assert handle.numpy().sum() == 60


@copies_on_write
@pytest.mark.parametrize("mode", ["raise", "copy"])
def test_exports_come_back_to_the_storage(mode: Any) -> None:
    t = to_torch(array(), on_write=mode)
    for exported in (to_numpy(t), from_dlpack(t), t):
        assert cdata(to_torch(exported, on_write=mode)) == cdata(t)
        other = to_torch(exported, on_write="copy" if mode == "raise" else "raise")
        assert cdata(other) != cdata(t) and address_of(other) == address_of(t)


# ---- refusals ----


def test_it_is_refused_without_on_write() -> None:
    error = refusal(lambda: to_torch(array()))
    assert error.code == "read_only" and 'on_write="raise"' in str(error)
    error = refusal(lambda: to_torch(to_torch(array(), on_write="raise")))
    assert error.code == "read_only" and "use x itself" in str(error) and "copy=None to copy" in str(error)


def test_only_to_torch_takes_it() -> None:
    with pytest.raises(TypeError, match="on_write"):
        to_numpy(array(), on_write="raise")  # type: ignore[call-overload]


@copies_on_write
def test_a_write_to_memory_that_overlaps_itself_is_refused() -> None:
    windows = np.lib.stride_tricks.sliding_window_view(np.arange(6.0), 3)
    assert to_torch(windows, on_write="raise").sum() == 30
    assert refusal(lambda: to_torch(windows, on_write="copy")).code == "overlap"


def test_the_tier_exchange_and_older_torch_cannot_copy() -> None:
    if COPIES_ON_WRITE:
        pytest.skip("the tier direct can, since torch 2.13")
    error = refusal(lambda: to_torch(array(), on_write="copy"))
    assert (error.code, error.field) == ("on_write_unsupported", "on_write")


# ---- writing ----

ROW = torch.ones(8)
WRITES: dict[str, Callable[[torch.Tensor], Any]] = {
    "add_": lambda t: t.add_(1),
    "iadd": lambda t: t.__iadd__(1),
    "sub_": lambda t: t.sub_(1),
    "mul_": lambda t: t.mul_(2),
    "div_": lambda t: t.div_(2),
    "neg_": lambda t: t.neg_(),
    "exp_": lambda t: t.exp_(),
    "clamp_": lambda t: t.clamp_(max=1),
    "relu_": lambda t: torch.relu_(t.T),
    "zero_": lambda t: t.zero_(),
    "fill_": lambda t: t.fill_(3),
    "copy_": lambda t: t.copy_(torch.ones(8, 8)),
    "setitem": lambda t: t.__setitem__(0, 7),
    "setitem_view": lambda t: t[2:4, ::2].__setitem__(..., 7),
    "mask": lambda t: t.masked_fill_(t > 2, 0),
    "index_put_": lambda t: t.index_put_((torch.tensor([1]),), torch.zeros(8)),
    "index_add_": lambda t: t.index_add_(0, torch.tensor([1]), torch.ones(1, 8)),
    "index_fill_": lambda t: t.index_fill_(0, torch.tensor([1]), 0),
    "index_copy_": lambda t: t.index_copy_(0, torch.tensor([1]), torch.ones(1, 8)),
    "scatter_": lambda t: t.scatter_(0, torch.zeros(1, 8, dtype=torch.long), 0.0),
    "put_": lambda t: t.put_(torch.tensor([3]), torch.tensor([0.0])),
    "out": lambda t: torch.add(t, 1, out=t),
    "matmul_out": lambda t: torch.matmul(torch.ones(8, 8), torch.ones(8, 8), out=t),
    "addmm_": lambda t: t.addmm_(torch.ones(8, 8), torch.ones(8, 8)),
    "uniform_": lambda t: t.uniform_(),
    "normal_": lambda t: t.normal_(),
    "bernoulli_": lambda t: t.bernoulli_(),
    "tril_": lambda t: t.tril_(),
    "fill_diagonal_": lambda t: t.fill_diagonal_(0),
    "lerp_": lambda t: t.lerp_(torch.zeros(8, 8), 0.5),
    "foreach": lambda t: torch._foreach_add_([t], 1),
    "sort_out": lambda t: torch.sort(t.clone(), out=(t, torch.empty(0, dtype=torch.long))),
    "transposed": lambda t: t.T.add_(1),
    "flattened": lambda t: t.flatten().add_(1),
    "aten": lambda t: torch.ops.aten.add_.Tensor(t, ROW),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_raises(mapped: np.ndarray, write: Callable[[torch.Tensor], Any]) -> None:
    t = to_torch(mapped, on_write="raise")
    before = mapped.copy()
    for _ in range(2):  # it stays refused
        with pytest.raises(REFUSED) as caught:
            write(t)
    np.testing.assert_array_equal(to_numpy(t), before)
    if COPIES_ON_WRITE:
        error = caught.value
        assert (error.code, error.field) == ("read_only", "storage")  # type: ignore[attr-defined]
        assert "x.clone()" in str(error) and "to_numpy" in str(error)


@copies_on_write
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_copies_once(mapped: np.ndarray, write: Callable[[torch.Tensor], Any]) -> None:
    expected = torch.from_numpy(mapped.copy())
    torch.manual_seed(0)
    write(expected)
    t = to_torch(mapped, on_write="copy")
    view, exported, before = t[1:], to_numpy(t), mapped.copy()
    torch.manual_seed(0)
    write(t)
    copied = address_of(t)
    assert copied != mapped.__array_interface__["data"][0]
    assert torch.equal(t, expected) and torch.equal(view, expected[1:])  # views follow
    t.add_(1)
    assert address_of(t) == copied == address_of(view) - 32
    np.testing.assert_array_equal(mapped, before)
    np.testing.assert_array_equal(exported, before)  # exports do not
    writable = to_numpy(t)
    assert writable.flags.writeable and not from_dlpack(t).read_only
    assert cdata(to_torch(writable)) == cdata(t)


def test_autograd_reads_it(mapped: np.ndarray) -> None:
    layer = torch.nn.Linear(8, 8)
    layer.weight = torch.nn.Parameter(to_torch(mapped, on_write="raise"))
    layer(torch.ones(2, 8)).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.eq(2).all()
    with pytest.raises(REFUSED):
        torch.optim.SGD(layer.parameters(), lr=1.0).step()


@copies_on_write
def test_threads_that_write_first_at_once_copy_once() -> None:
    """Each of 8 threads writes its part of a fresh tensor, 200 times. A second copy would lose some of them."""
    threads, part = 8, 16 * 1024
    source = read_only(np.zeros(threads * part, np.float32))
    tensors = [to_torch(source, on_write="copy") for _ in range(200)]
    start = threading.Barrier(threads)

    def write(index: int) -> None:
        mine = [t[index * part : (index + 1) * part] for t in tensors]
        for view in mine:
            start.wait()
            view.fill_(index + 1)

    workers = [threading.Thread(target=write, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    expected = torch.arange(1.0, threads + 1).repeat_interleave(part)
    assert [torch.equal(t, expected) for t in tensors] == [True] * len(tensors)
    assert not source.any()


@copies_on_write
def test_readers_keep_the_memory_before_the_first_write() -> None:
    """A thread that reads while another writes first has the address of the memory before."""
    source = read_only(np.ones(1 << 20, np.float32))
    t = to_torch(source, on_write="copy")
    del source
    address = address_of(t)
    t[0] = 5
    assert address_of(t) != address
    assert (np.ctypeslib.as_array((np.ctypeslib.ctypes.c_float * (1 << 20)).from_address(address)) == 1).all()


@copies_on_write
def test_inductor_refuses_or_copies_once() -> None:
    """Its code takes writable pointers. An address is never built in: a further array gives its own values."""
    compiled = torch.compile(lambda t: t * 2)
    with pytest.raises(RuntimeError, match="code of torch.compile"):
        compiled(to_torch(array(), on_write="raise"))
    for source in (array(), read_only(array() + 1)):
        t = to_torch(source, on_write="copy")
        for _ in range(2):
            np.testing.assert_array_equal(compiled(t), source * 2)
        assert address_of(t) != source.__array_interface__["data"][0]
        copied = address_of(t)
        compiled(t)
        assert address_of(t) == copied

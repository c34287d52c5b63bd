# SPDX-License-Identifier: Apache-2.0
"""stage_many(): containers, ties, one copy for many small leaves, several operations in one Future, failing leaves."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import gc
import select
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import simulated_gpu
from refusals import refusal
from simulated_gpu import LARGE, SMALL, extension, values_of

import dlbridge
from dlbridge import from_dlpack, stage_many

pytestmark = pytest.mark.skipif(simulated_gpu.why_not() is not None, reason=str(simulated_gpu.why_not()))

DEVICE = "cuda:0"
TWO_DEVICES = pytest.mark.parametrize("gpu", [{"devices": 2}], indirect=True)


class Pair(NamedTuple):
    u: Any
    v: Any


@dataclasses.dataclass(frozen=True)
class Batch:
    image: Any
    label: Any = None


def copies(gpu: Any, call: Callable[[], Any]) -> tuple[Any, int]:
    """The result of a Future, and how many copies CUDA was asked for."""
    before = gpu.counts()["memcpy_async"]
    result = call().result(10)
    return result, gpu.counts()["memcpy_async"] - before


# ---- containers


@pytest.mark.parametrize(
    "build",
    [
        lambda a: [a, a],
        lambda a: {"k": a, 3: (a, [])},
        lambda a: Pair(a, {"u": a}),
        lambda a: Batch(a, [a, None]),
        lambda a: collections.OrderedDict(b=a, a=1.5),
        lambda a: [a, "text", b"bytes", 7, None, float, [1, 2], {"n": 3}],
        lambda a: a,
        lambda a: {"nothing": ["staged"]},
    ],
    ids=["list", "dict", "namedtuple", "dataclass", "OrderedDict", "other leaves", "tensor", "no tensor"],
)
@pytest.mark.parametrize("device", ["cpu", DEVICE])
def test_structure_is_kept(gpu, build, device):
    values = values_of()
    if device == "cpu":
        result = stage_many(build(gpu.array(values, late=True))).result()
    else:
        result = stage_many(stage_many(build(values), device=device).result()).result()
    assert repr(result) == repr(build(values))


@pytest.mark.parametrize("build", [iter, lambda x: dict(enumerate(x)).values()], ids=["iterator", "view"])
def test_iterables_become_lists(gpu, build):
    result = stage_many(build([gpu.array(values_of(first=n)) for n in range(3)])).result()
    assert isinstance(result, list)
    for n, array in enumerate(result):
        np.testing.assert_array_equal(array, values_of(first=n))
    with pytest.raises(TypeError):
        stage_many(7)


def test_later_changes_of_the_container_do_not_matter(gpu):
    x = {"a": [gpu.array(values_of())]}
    future = stage_many(x)
    x["a"].clear()
    x["b"] = [1]
    result = future.result()
    assert list(result) == ["a"] and future.result() is result
    np.testing.assert_array_equal(result["a"][0], values_of())


# ---- ties


def test_tied_leaves_are_staged_once(gpu):
    fake = gpu.array(values_of(LARGE))
    first, second = from_dlpack(fake), from_dlpack(fake)
    (a, b, c), count = copies(gpu, lambda: stage_many([first, second, first]))
    assert a is b is c and count == 1
    host = values_of(LARGE)
    a, b, c = stage_many([host, host[:], host.T], device=DEVICE).result()
    assert a is b and a is not c and gpu.counts()["malloc_async"] == 2
    np.testing.assert_array_equal(dlbridge.to_numpy(c, device="cpu"), host.T)


# ---- small leaves


def test_small_leaves_are_one_copy_to_the_device(gpu):
    sources = {n: values_of((n, 3), first=n).astype(("float32", "int64", "uint8")[n % 3]).T for n in range(1, 100)}
    result, count = copies(gpu, lambda: stage_many(sources, device=DEVICE))
    assert count == 1
    last = result[99]
    for n, source in sources.items():
        np.testing.assert_array_equal(gpu.read(result[n]), source, strict=True)
        assert result[n].data_ptr % 256 == 0
    del result
    gc.collect()
    np.testing.assert_array_equal(dlbridge.to_numpy(last, device="cpu"), sources[99])


def test_large_leaves_have_memory_of_their_own(gpu):
    sources = [values_of(LARGE), values_of(first=5), values_of(first=6), values_of((0, 3)), values_of(LARGE, first=9)]
    result = stage_many(sources, device=DEVICE).result()
    for got, source in zip(result, sources, strict=True):
        np.testing.assert_array_equal(dlbridge.to_numpy(got, device="cpu"), source)
    assert gpu.counts()["malloc_async"] == 3  # one for both small ones


def test_small_leaves_are_one_copy_without_room_in_the_pool(gpu):
    dlbridge.set_pool_limit(0)
    result = stage_many([values_of(first=n) for n in range(5)], device=DEVICE).result()
    for n, got in enumerate(result):
        np.testing.assert_array_equal(dlbridge.to_numpy(got, device="cpu"), values_of(first=n))


def test_small_leaves_of_torch_share_one_storage(gpu, monkeypatch):
    torch = pytest.importorskip("torch")
    from dlbridge import _torch_gpu

    own = gpu.stream()

    def empty(shape: tuple[int, ...], strides: tuple[int, ...], dtype: str, device: int) -> Any:
        return dlbridge.to_torch(gpu.array(np.zeros(shape, dtype), stream=own))

    monkeypatch.setattr(_torch_gpu, "current_stream", lambda device: own)
    monkeypatch.setattr(_torch_gpu, "empty", empty)
    monkeypatch.setattr(_torch_gpu, "has_cuda", lambda: True)
    sources = [values_of().T, np.arange(5, dtype=np.int16), np.array(True)]
    result = stage_many(sources, device=DEVICE).result()
    for tensor, source in zip(result, sources, strict=True):
        assert isinstance(tensor, torch.Tensor)
        np.testing.assert_array_equal(gpu.read(tensor, own), source, strict=True)
    assert len({tensor.untyped_storage().data_ptr() for tensor in result}) == 1
    del result, tensor
    gc.collect()


def test_stage_many_is_one_operation(gpu):
    fakes = [gpu.array(values_of(first=n)) for n in range(30)]

    def waits() -> int:
        stage_many(fakes).synchronize()
        extension().drain(10)  # the threads that complete copies make calls, too
        return gpu.counts()["event_synchronize"]

    assert -waits() + waits() < 5


# ---- several operations in one Future


@TWO_DEVICES
def test_one_future_of_several_operations(gpu):
    streams = [gpu.stream(device=n) for n in range(2)]
    holds = [gpu.hold(stream) for stream in streams]
    fakes = [gpu.array(values_of(first=n), device=n % 2, late=True, stream=streams[n % 2]) for n in range(4)]
    future = stage_many(fakes)
    holds[0].release()
    with pytest.raises(TimeoutError):
        future.result(timeout=0.02)
    assert not future.done()
    holds[1].release()
    while not future.done():
        assert select.select([future.fileno()], [], [], 10)[0]
    assert select.select([future.fileno()], [], [], 0)[0]
    for n, result in enumerate(future.result(10)):
        np.testing.assert_array_equal(result, values_of(first=n))


@TWO_DEVICES
def test_awaiting_several_operations(gpu):
    fakes = [gpu.array(values_of(first=n), device=n % 2, late=True) for n in range(4)]

    async def main() -> Any:
        future = stage_many(fakes)
        return await future, await future, await stage_many(["nothing"])

    first, second, nothing = asyncio.run(main())
    assert first is second and nothing == ["nothing"]
    for n, result in enumerate(first):
        np.testing.assert_array_equal(result, values_of(first=n))


def test_progress_is_shown(gpu, monkeypatch):
    seen: list[Any] = []

    class Bar:
        def __init__(self, total: int, unit: str) -> None:
            seen.append(total)

        def update(self, count: int) -> None:
            seen.append(count)

        def close(self) -> None:
            seen.append("closed")

    monkeypatch.setitem(sys.modules, "tqdm", types.ModuleType("tqdm"))
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=Bar))
    big = (9 << 20,)  # 36 MiB: two are more than a piece
    future = stage_many([gpu.array(np.zeros(big, np.float32)) for _ in range(3)], progress=True)
    assert seen == [3]
    future.result()
    future.result()
    assert seen == [3, 2, 1, "closed"]


def test_cycles_through_a_future_are_collected(gpu):
    class Holder:
        future: Any = None

    holder = Holder()
    watch = weakref.ref(holder)
    holder.future = stage_many([gpu.array(values_of()), holder])
    holder.future.result().append(holder.future)
    del holder
    gc.collect()
    assert watch() is None


# ---- failing leaves


def test_failing_leaves_are_named(gpu):
    fakes = [gpu.array(values_of()) for _ in range(3)]
    for x, path in (
        ({"batch": {"image": [*fakes, np.zeros(3)]}}, r"xs['batch']['image'][3]"),
        (Batch(fakes[0], gpu.array(values_of()).as_cai(stream=0)), "xs.label"),
    ):
        error = refusal(lambda x=x: stage_many(x))
        assert path in str(error), error
    gpu.sim.set_device_memory_limit(1 << 20)
    error = refusal(lambda: stage_many({"big": [values_of(), values_of((1024, 1024))]}, device=DEVICE))
    assert error.code == "out_of_memory" and "xs['big'][1]" in str(error), error
    gc.collect()
    assert all(fake.exported == fake.released for fake in fakes)


def test_nothing_is_handed_out_after_a_failure(gpu):
    """The copy of the small leaves was started already: it ends by itself, and gives everything back."""
    gpu.fail_next("malloc_async", n=2, code=simulated_gpu.OUT_OF_MEMORY)
    fakes = [gpu.array(values_of(SMALL), kind=simulated_gpu.CUDA_HOST) for _ in range(3)]
    assert refusal(lambda: stage_many([*fakes, values_of(LARGE)], device=DEVICE)).code == "out_of_memory"
    extension().drain(10)
    gc.collect()
    assert all(fake.exported == fake.released for fake in fakes)
    assert gpu.sim.async_bytes() == 0

# SPDX-License-Identifier: Apache-2.0
"""Streams: what a copy comes after, what comes after a copy, and the streams that a Tensor orders."""

from __future__ import annotations

import functools
import gc
import threading
from typing import Any

import numpy as np
import pytest
import simulated_gpu
from refusals import refusal
from simulated_gpu import (
    LARGE,
    LEGACY,
    PER_THREAD,
    SMALL,
    StreamObject,
    eventually,
    extension,
    values_of,
)

import dlbridge
from dlbridge import ExchangeError, from_dlpack, stage, to_numpy

pytestmark = pytest.mark.skipif(simulated_gpu.why_not() is not None, reason=str(simulated_gpu.why_not()))

DEVICE = "cuda:0"


# ---- stream=


@pytest.mark.parametrize("shape", [SMALL, LARGE])
@pytest.mark.parametrize("kind", ["handle", LEGACY, PER_THREAD, "cuda_stream", "ptr", "handle_attribute", "protocol"])
def test_copy_waits_for_named_stream(gpu, kind, shape):
    own = kind if isinstance(kind, int) else gpu.stream()
    names = {"handle_attribute": "handle", "protocol": "__cuda_stream__"}
    stream = own if kind in ("handle", LEGACY, PER_THREAD) else StreamObject(own, names.get(str(kind), str(kind)))
    fake = gpu.array(values_of(shape), late=True, stream=own)
    np.testing.assert_array_equal(stage(fake, device="cpu", stream=stream).result(), values_of(shape))


@pytest.mark.rule(77)
@pytest.mark.parametrize("name", ["cuda_stream", "ptr", "handle", "__cuda_stream__"])
def test_stream_object_zero_is_legacy(gpu, name):
    fake = gpu.array(values_of(), late=True)
    np.testing.assert_array_equal(stage(fake, device="cpu", stream=StreamObject(0, name)).result(), values_of())


@pytest.mark.rule(78)
@pytest.mark.parametrize("call", ["stage", "__dlpack__"])
def test_invalid_streams_are_refused(gpu, call):
    fake = gpu.array(values_of())

    def give(stream: Any) -> None:
        stage(fake, device="cpu", stream=stream) if call == "stage" else from_dlpack(fake).__dlpack__(stream=stream)

    for stream in (0, -2, -17):
        assert refusal(functools.partial(give, stream)).code == "stream_invalid"
    for stream in ("1", 1.5, object()):
        with pytest.raises(TypeError, match="stream is"):
            give(stream)
    assert fake.exported == fake.released


@pytest.mark.parametrize("gpu", [{"devices": 2}], indirect=True)
def test_foreign_device_stream_is_refused(gpu):
    fake = gpu.array(values_of())
    assert refusal(lambda: stage(fake, device="cpu", stream=gpu.stream(device=1))).code == "stream_invalid"


@pytest.mark.parametrize("gpu", [{"devices": 2}], indirect=True)
def test_the_second_device(gpu):
    fake = gpu.array(values_of(), device=1, late=True, stream=gpu.stream(device=1))
    np.testing.assert_array_equal(to_numpy(fake, device="cpu"), values_of())
    tensor = from_dlpack(values_of(), device="cuda:1")
    assert tensor.device == "cuda:1"
    np.testing.assert_array_equal(to_numpy(tensor, device="cpu"), values_of())


@pytest.mark.parametrize("gpu", [{"current": None, "devices": 2, "active": [1]}], indirect=True)
def test_queries_create_no_context(gpu):
    """The simulator reports a context that a call makes unasked; threads keep their stack of contexts."""
    fake = gpu.array(values_of(), device=1, late=True, stream=gpu.stream(device=1))
    np.testing.assert_array_equal(to_numpy(fake, device="cpu"), values_of())
    assert "2 devices" in dlbridge.build_info()["cuda"]
    np.testing.assert_array_equal(stage(fake, device="cpu").result(), values_of())
    assert dlbridge.pool_stats().registered > 0
    assert gpu.sim.context_stack() == [] and not gpu.sim.context_active(0)


def test_deferred_free_delays_no_stream(gpu):
    tensor = from_dlpack(values_of(LARGE), device=DEVICE)
    stream = gpu.stream()
    capsule = tensor.__dlpack__(stream=stream, max_version=(1, 0))
    gpu.hold(stream)
    gpu.read_later(tensor, stream)
    del capsule, tensor
    gc.collect()
    assert all(
        stage(gpu.array(values_of(first=n), stream=gpu.stream()).as_cai(), device="cpu").result(2).size
        for n in range(10)
    )
    futures = [stage(values_of(first=n), device=DEVICE, to="dlpack", borrow=True) for n in range(10)]
    for future in futures:
        future.synchronize(2)


# ---- the streams of a Tensor


@pytest.mark.rule(81)
@pytest.mark.parametrize("consumer", ["new", None, LEGACY, PER_THREAD])
@pytest.mark.parametrize("made", ["shared", "ours"])
def test_dlpack_orders_consumer_stream(gpu, made, consumer):
    values = values_of(LARGE)
    tensor = (
        from_dlpack(gpu.array(values, late=True, stream=gpu.stream()))
        if made == "shared"
        else stage(values, device=DEVICE, to="dlpack").result()
    )
    stream = gpu.stream() if consumer == "new" else consumer
    capsule = tensor.__dlpack__(stream=stream, max_version=(1, 0))
    np.testing.assert_array_equal(gpu.read(tensor, LEGACY if stream is None else stream), values)
    del capsule


@pytest.mark.rule(41)
def test_memory_outlives_consumer_stream(gpu):
    tensor = from_dlpack(values_of(LARGE), device=DEVICE)
    stream = gpu.stream()
    capsule = tensor.__dlpack__(stream=stream, max_version=(1, 0))
    hold = gpu.hold(stream)
    later = gpu.read_later(tensor, stream)
    del capsule, tensor
    gc.collect()
    hold.release()
    gpu.synchronize(stream)
    np.testing.assert_array_equal(later.array(), values_of(LARGE))


@pytest.mark.parametrize("drop", ["tensor", "capsule", "cycle", "other_thread"])
def test_memory_is_freed_without_the_gil(gpu, drop):
    """The simulator reports calls of threads that hold the GIL."""
    kept: list[Any] = [stage(values_of(LARGE), device=DEVICE, to="dlpack").result()]
    eventually(lambda: extension().drain(0))  # then the copy holds the memory no more
    if drop == "capsule":
        kept[0] = kept[0].__dlpack__(stream=-1, max_version=(1, 0))
    if drop == "cycle":
        kept.append(kept)
        del kept
        gc.collect()
    elif drop == "other_thread":
        thread = threading.Thread(target=kept.clear)
        thread.start()
        thread.join()
    else:
        kept.clear()
    assert gpu.counts()["free_async"] == 1


# ---- torch tensors over the simulated memory


def test_original_storage_is_ordered(gpu, monkeypatch):
    pytest.importorskip("torch")
    from dlbridge import _torch_gpu

    first, second = gpu.stream(), gpu.stream()
    monkeypatch.setattr(_torch_gpu, "current_stream", lambda device: first)
    tensor = dlbridge.to_torch(gpu.array(values_of(LARGE), late=True, stream=gpu.stream()))
    gpu.write(tensor, values_of(LARGE, first=5), first)
    handle = dlbridge.from_dlpack(tensor)
    monkeypatch.setattr(_torch_gpu, "current_stream", lambda device: second)
    again = dlbridge.to_torch(handle)
    assert again.data_ptr() == tensor.data_ptr()
    np.testing.assert_array_equal(gpu.read(again, second), values_of(LARGE, first=5))


def test_torch_uses_its_current_stream(gpu, monkeypatch):
    pytest.importorskip("torch")
    from dlbridge import _torch_gpu

    own = gpu.stream()
    monkeypatch.setattr(_torch_gpu, "current_stream", lambda device: own)
    fake = gpu.array(values_of(LARGE).T, late=True, stream=gpu.stream())
    tensor = dlbridge.to_torch(fake)
    assert str(tensor.device) == DEVICE and tensor.data_ptr() == fake.address
    np.testing.assert_array_equal(gpu.read(tensor, own), values_of(LARGE).T)
    gpu.write(tensor, values_of(LARGE, first=5).T, own)
    future = stage(tensor, device="cpu")
    gpu.overwrite(tensor, 0xEE, own)
    np.testing.assert_array_equal(future.result(), values_of(LARGE, first=5).T)
    del tensor, future
    eventually(lambda: fake.exported == fake.released)


def test_torch_allocates_its_results(gpu, monkeypatch):
    torch = pytest.importorskip("torch")
    from dlbridge import _torch_gpu

    own, made = gpu.stream(), []

    def empty(shape: tuple[int, ...], strides: tuple[int, ...], dtype: str, device: int) -> Any:
        like = np.lib.stride_tricks.as_strided(np.zeros(int(np.prod(shape)), dtype), shape, [4 * s for s in strides])
        made.append(gpu.array(like, stream=own))
        return dlbridge.to_torch(made[-1])

    monkeypatch.setattr(_torch_gpu, "current_stream", lambda device: own)
    monkeypatch.setattr(_torch_gpu, "empty", empty)
    monkeypatch.setattr(_torch_gpu, "has_cuda", lambda: True)
    monkeypatch.setattr(_torch_gpu, "record_stream", lambda *_: None)
    for shape in (SMALL, LARGE):
        for call in (
            lambda a: dlbridge.to_torch(a, device=DEVICE),
            lambda a: stage(a, device=DEVICE).result(),
            lambda a: stage(torch.from_numpy(a), device=DEVICE, to="torch").result(),
        ):
            tensor = call(values_of(shape))
            assert tensor.data_ptr() == made[-1].address
            np.testing.assert_array_equal(gpu.read(tensor, own), values_of(shape))
    del tensor
    gc.collect()


def test_torch_without_cuda_is_refused(gpu):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this torch can allocate on a GPU")
    with pytest.raises(ExchangeError, match="from_dlpack"):
        dlbridge.to_torch(values_of(), device=DEVICE)

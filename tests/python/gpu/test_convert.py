# SPDX-License-Identifier: Apache-2.0
"""Conversions between a GPU and the host, on the simulated one: every layout and dtype arrives bit for bit, both ways,
by every call, behind the stream that makes the elements."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import simulated_gpu
from dtypes import WHOLE_DTYPES, random_array
from refusals import refusal
from simulated_gpu import CUDA_HOST, CUDA_MANAGED, LAYOUTS, FakeArray, SimulatedGpu, eventually

import dlbridge
from dlbridge import ExchangeError, from_dlpack, stage, to_numpy
from isolated import needs_torch

pytestmark = pytest.mark.skipif(simulated_gpu.why_not() is not None, reason=str(simulated_gpu.why_not()))

DEVICE = "cuda:0"
KIB = 1024

SMALL, LARGE = (4, 5, 6), (30, 50, 200)
# Every pair of the common dtypes is in the suite, which testing/test_suite.py runs on the simulated GPU.
LAYOUTS_AND_DTYPES = [(SMALL, layout, "float32") for layout in LAYOUTS]
LAYOUTS_AND_DTYPES += [(SMALL, "permuted", dtype) for dtype in WHOLE_DTYPES if dtype != "float32"]
LARGE_LAYOUTS = [name for name in LAYOUTS if name not in ("scalar", "one_element", "empty")]


def same(got: Any, expected: np.ndarray) -> None:
    """Shape, dtype and bits."""
    assert isinstance(got, np.ndarray)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    assert got.tobytes() == expected.tobytes()


def consumed(gpu: SimulatedGpu, tensor: Any) -> np.ndarray:
    """The elements of a tensor on the device, as a consumer reads them that says which stream it works on."""
    stream = gpu.stream()
    capsule = tensor.__dlpack__(stream=stream, max_version=(1, 0))
    found = gpu.read(tensor, stream)
    del capsule
    return found


def late(gpu: SimulatedGpu, values: np.ndarray, **options: Any) -> FakeArray:
    """On the device by work on a new stream, which other streams do not wait for."""
    return gpu.array(values, late=True, stream=gpu.stream(), **options)


# ---- to the host


@pytest.mark.rule(82)
@pytest.mark.parametrize(
    ("shape", "layout", "dtype"),
    LAYOUTS_AND_DTYPES
    + [(LARGE, name, dtype) for name in LARGE_LAYOUTS for dtype in ("uint8", "float32", "complex128")],
)
def test_layouts_and_dtypes_to_host(gpu, shape, layout, dtype):
    values = np.asarray(LAYOUTS[layout](random_array(dtype, shape)))
    fake = late(gpu, values, byte_offset=128, read_only=True)
    sources = [fake] if dtype.startswith(("bfloat", "float8")) else [fake, fake.as_cai()]
    for source in sources:
        got = to_numpy(source, device="cpu")
        same(got, values)
        assert got.flags.writeable
        same(stage(source, device="cpu").result(), values)
    tensor = from_dlpack(fake, device="cpu")
    assert tensor.is_copied or values.size == 0
    same(tensor.numpy(), values)
    out, staged = (np.zeros(values.shape[::-1], values.dtype).T for _ in range(2))
    assert to_numpy(fake, out=out, device="cpu") is out
    same(out, values)
    assert stage(fake, out=staged).result() is staged
    same(staged, values)


OUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "dense": lambda a: np.zeros(a.shape, a.dtype),
    "transposed": lambda a: np.zeros(a.shape[::-1], a.dtype).T,
    "stepped": lambda a: np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)[..., ::2],
    "backwards": lambda a: np.zeros(a.shape, a.dtype)[::-1, ::-1],
    "pinned": lambda a: dlbridge.pinned_empty(a.shape, a.dtype),
    "pinned_columns": lambda a: dlbridge.pinned_empty((a.shape[0], a.shape[1] + 3), a.dtype)[:, 1:-2],
}


@pytest.mark.parametrize("rows", [4, 1200])
@pytest.mark.parametrize("layout", OUTS)
def test_out_of_any_layout(gpu, layout, rows):
    values = random_array("int32", (rows, 70)).T
    fake = late(gpu, values)
    for into in (lambda out: to_numpy(fake, out=out, device="cpu"), lambda out: stage(fake, out=out).result()):
        out = OUTS[layout](values)
        base = out if out.base is None or not isinstance(out.base, np.ndarray) else out.base
        base[...] = 0
        assert into(out) is out
        same(np.ascontiguousarray(out), np.ascontiguousarray(values))
        assert np.count_nonzero(base) == np.count_nonzero(values)


@pytest.mark.rule(26, 75)
def test_managed_and_pinned_memory(gpu):
    values = random_array("float32", (4, 6))
    pinned = gpu.array(values, kind=CUDA_HOST)
    shared = to_numpy(pinned)
    assert shared.__array_interface__["data"][0] == pinned.address
    managed = gpu.array(values, kind=CUDA_MANAGED, stream=gpu.stream())
    same(to_numpy(managed, device="cpu"), values)
    gpu.write(managed, values + 1, managed.stream)
    shared = to_numpy(managed)
    assert shared.__array_interface__["data"][0] == managed.address
    same(shared, values + 1)


PINNED_WAYS: dict[str, Callable[[FakeArray], Any]] = {
    "to_numpy": to_numpy,
    "to_torch": lambda x: dlbridge.to_torch(x).numpy(),
    "handle": lambda x: from_dlpack(x).numpy(),
    "buffer": lambda x: np.asarray(memoryview(from_dlpack(x))),
    "copy": lambda x: to_numpy(x, copy=True),
    "out": lambda x: to_numpy(x, out=np.empty(x.shape, x.dtype)),
    "capsule": lambda x: to_numpy(x.capsule()),
}


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[needs_torch] if "torch" in way else []) for way in PINNED_WAYS]
)
def test_foreign_pinned_memory_is_awaited(gpu, way):
    """A producer may export it before the copy into it is done; the host waits for that copy."""
    values = random_array("int32", (4, 6))
    pinned = gpu.array(values, kind=CUDA_HOST)
    gpu.write(pinned, values + 1)
    got = PINNED_WAYS[way](pinned)
    same(got, values + 1)
    assert (got.__array_interface__["data"][0] == pinned.address) == (way not in ("copy", "out"))


@pytest.mark.parametrize("gpu", [{"devices": 2}], indirect=True)
def test_pinned_memory_is_awaited_on_its_device(gpu):
    """The one that its pages are registered with; DLPack's descriptor says 0."""
    values = random_array("int32", (4, 6))
    gpu.sim.use_device(1)
    pinned = gpu.array(values, kind=CUDA_HOST)
    gpu.sim.use_device(0)
    gpu.write(pinned, values + 1, gpu.stream(device=1, blocking=True))
    same(to_numpy(pinned), values + 1)


@pytest.mark.parametrize("versioned", [True, False])
def test_capsules_use_legacy_stream(gpu, versioned):
    values = random_array("float32", (4, 6))
    fake = gpu.array(values, late=True)
    capsule = fake.capsule(versioned=versioned)
    same(to_numpy(capsule, device="cpu"), values)
    del capsule
    gc.collect()
    assert (fake.exported, fake.released) == (1, 1)


def test_capsule_without_strides(gpu):
    values = random_array("float32", (4, 6))
    same(to_numpy(late(gpu, values, with_strides=False), device="cpu"), values)


def test_casting_on_the_way(gpu):
    values = random_array("int16", (4, 6))
    same(to_numpy(late(gpu, values.T), device="cpu", dtype="float64"), values.T.astype(np.float64))
    out = np.empty((6, 4), np.float32)
    same(to_numpy(late(gpu, values.T), device="cpu", out=out), values.T.astype(np.float32))
    there = from_dlpack(values.T, device=DEVICE)
    same(dlbridge.to_numpy(there, device="cpu", dtype="float32"), values.T.astype(np.float32))


@pytest.mark.rule(76)
def test_producer_is_given_a_stream(gpu):
    fake = late(gpu, random_array("float32", (4, 6)))
    to_numpy(fake, device="cpu")
    (request,) = fake.requests
    assert request["stream"] in gpu.copy_streams() and request["stream"] > 2
    assert request["max_version"] == (1, 3) and not request["copy"]


# ---- to the device


@pytest.mark.parametrize("pinned", [False, True], ids=["pageable", "pinned"])
@pytest.mark.parametrize(
    ("shape", "layout", "dtype"), LAYOUTS_AND_DTYPES + [(LARGE, name, "float32") for name in LARGE_LAYOUTS]
)
def test_layouts_and_dtypes_to_device(gpu, shape, layout, dtype, pinned):
    whole = random_array(dtype, shape)
    if pinned:
        whole = dlbridge.pinned_empty(shape, whole.dtype)
        whole[...] = random_array(dtype, shape)
    values = np.asarray(LAYOUTS[layout](whole))
    tensor = from_dlpack(values, device=DEVICE)
    assert (tensor.device, tensor.shape, tensor.dtype) == (DEVICE, values.shape, dtype)
    same(consumed(gpu, tensor), values)
    same(to_numpy(tensor, device="cpu"), values)
    staged = stage(values, device=DEVICE, to="dlpack")
    same(consumed(gpu, staged.result()), values)
    same(stage(tensor, device="cpu").result(), values)


def test_device_memory_is_freed(gpu):
    tensor = from_dlpack(random_array("float32", (64, 64)), device=DEVICE)
    assert gpu.sim.async_bytes() >= 64 * 64 * 4
    del tensor
    eventually(lambda: gpu.sim.async_bytes() == 0)


# ---- between tensors on the device


def test_sharing_on_device(gpu):
    fake = late(gpu, random_array("float32", (6, 4)).T)
    tensor = from_dlpack(fake)
    assert (tensor.data_ptr, tensor.strides, tensor.device) == (fake.address, fake.strides, DEVICE)
    assert not tensor.is_copied
    same(consumed(gpu, tensor), fake.read())
    del tensor
    assert (fake.exported, fake.released) == (1, 1)


def test_copy_on_device(gpu):
    values = random_array("float32", (6, 4)).T
    fake = late(gpu, values)
    copied = from_dlpack(fake, copy=True)
    assert copied.data_ptr != fake.address and copied.device == DEVICE and copied.is_copied
    gpu.overwrite(fake, 7, fake.requests[-1]["stream"])
    same(consumed(gpu, copied), values)


# ---- what is refused


def test_missing_device_is_refused(gpu):
    for call in (lambda: from_dlpack(np.zeros(3), device="cuda:1"), lambda: stage(np.zeros(3), device="cuda:1")):
        error = refusal(call)
        assert error.code == "no_staging" and "1 device" in str(error)


def test_unfit_out_on_gpu_is_refused(gpu):
    fake = late(gpu, random_array("float32", (4, 6)))
    assert refusal(lambda: stage(fake, out=np.empty((6, 4), np.float32))).code == "shape_mismatch"
    assert refusal(lambda: stage(fake, out=np.empty((4, 6), np.int32))).code == "unsupported_dtype"
    for out, code in ((np.empty((4, 6), ">f4"), "byte_order"), (np.ma.ones((4, 6), np.float32), "masked_array")):
        error = refusal(lambda out=out: stage(fake, out=out))
        assert (error.code, error.field) == (code, "out")
    with pytest.raises(TypeError, match="out is list"):
        stage(fake, out=[1, 2])
    assert fake.exported == fake.released


def test_host_to_host_is_refused(gpu):
    with pytest.raises(ExchangeError, match="already"):
        stage(np.zeros(3), device="cpu")


def test_wrong_device_claim_is_refused(gpu):
    fake = gpu.array(random_array("float32", (4, 6)))
    host = np.zeros(4, np.float32)
    fake.memory = host.ctypes.data  # says device memory, names host memory
    lie = fake.capsule()
    assert refusal(lambda: to_numpy(lie, device="cpu")).code == "invalid_device"


# ---- __cuda_array_interface__


def test_cuda_array_interface_stream(gpu):
    values = random_array("float32", (4, 6))
    fake = late(gpu, values)
    same(to_numpy(fake.as_cai(stream=fake.stream), device="cpu"), values)
    fake = gpu.array(values, late=True)
    same(to_numpy(fake.as_cai(stream=1), device="cpu"), values)
    fake = gpu.array(values, late=True, stream=2)
    same(to_numpy(fake.as_cai(stream=2), device="cpu"), values)


@pytest.mark.parametrize("entries", [{"stream": None}, {"version": 2}])
def test_no_stream_is_the_legacy_stream(gpu, entries):
    """Numba exports None for every array that was made on the default stream."""
    fake = gpu.array(random_array("float32", (4, 6)), late=True)
    same(to_numpy(fake.as_cai(**entries), device="cpu"), random_array("float32", (4, 6)))


@pytest.mark.parametrize("entries", [{"stream": None}, {"version": 2}])
def test_cuda_array_interface_without_stream(gpu, entries):
    values = random_array("float32", (4, 6))
    fake = late(gpu, values)
    gpu.synchronize(fake.stream)
    hold = gpu.hold(fake.stream)
    gpu.read_later(fake, fake.stream)
    same(to_numpy(fake.as_cai(**entries), device="cpu"), values)
    hold.release()


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ({"stream": 0}, "stream_invalid"),
        ({"mask": np.zeros(3)}, "masked_array"),
        ({"typestr": ">f4"}, "invalid_argument"),
        ({"typestr": "<M8[s]"}, "unsupported_dtype"),
        ({"strides": (5, 4)}, "invalid_argument"),
        ({"strides": (4,)}, "invalid_argument"),
        ({"shape": [4, 6]}, "invalid_argument"),
        ({"version": 1}, "invalid_argument"),
        ({"version": "3"}, "invalid_argument"),
        ({"data": None}, "invalid_argument"),
    ],
)
def test_invalid_interfaces_are_refused(gpu, entries, code):
    fake = gpu.array(random_array("float32", (4, 6)))
    assert refusal(lambda: to_numpy(fake.as_cai(**entries), device="cpu")).code == code


@pytest.mark.rule(57)
def test_source_is_held_until_done(gpu):
    values = random_array("float32", (4, 6))
    fake = late(gpu, values)
    hold = gpu.hold(fake.stream)
    array = fake.as_cai()
    alive = weakref.ref(array)
    future = stage(array, device="cpu")
    del array
    gc.collect()
    assert alive() is not None
    hold.release()
    same(future.result(), values)
    eventually(lambda: alive() is None)


@pytest.mark.rule(77)
def test_tensor_offers_interface(gpu):
    values = random_array("float32", (6, 4)).T
    tensor = from_dlpack(late(gpu, values))
    interface = tensor.__cuda_array_interface__
    assert (interface["shape"], interface["typestr"], interface["version"]) == (values.shape, "<f4", 3)
    assert interface["data"] == (tensor.data_ptr, False)
    assert interface["stream"] not in (None, 0)
    same(gpu.read(tensor, interface["stream"]), values)
    assert not hasattr(from_dlpack(values), "__cuda_array_interface__")
    assert not hasattr(from_dlpack(late(gpu, random_array("bfloat16", (3, 4)))), "__cuda_array_interface__")

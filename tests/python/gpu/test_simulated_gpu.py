"""The simulated GPU that tests of the package stand on: each of its promises, and that each of its checks can fail.

The library is driven through its C functions, so that nothing here depends on the package's own staging.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import simulated_gpu
from capsules import consume, legacy_of, versioned_of
from simulated_gpu import CUDA_HOST, CUDA_MANAGED, DTYPES, FakeArray, StreamObject, extension, numpy_dtype

pytestmark = pytest.mark.skipif(simulated_gpu.why_not() is not None, reason=str(simulated_gpu.why_not()))


class Library:
    """As much of dlbridge/cuda/c_api.h as is needed here."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(extension().library_path())

    def to_host(self, fake: FakeArray, stream: int) -> np.ndarray:
        """A copy of the elements that dlb_cuda_stage_to_host has brought, row-major."""
        capsule = fake.capsule()
        result = ctypes.c_void_p()
        managed = ctypes.byref(versioned_of(capsule))
        self._call("dlb_cuda_stage_to_host", managed, ctypes.c_ssize_t(stream), None, ctypes.byref(result))
        view = ctypes.POINTER(type(versioned_of(capsule)))()
        self._call("dlb_tensor_borrow", result, ctypes.byref(view))
        array = np.empty(fake.shape, fake.dtype)
        tensor = view.contents.dl_tensor
        assert [tensor.shape[i] for i in range(tensor.ndim)] == list(fake.shape)
        strides = [tensor.strides[i] * fake.dtype.itemsize for i in range(tensor.ndim)]
        memory = np.ndarray(
            fake.shape, fake.dtype, (ctypes.c_char * max(fake.nbytes, 1)).from_address(tensor.data), 0, strides
        )
        array[...] = memory
        self._call("dlb_tensor_release", result)
        return array

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"{name} answers {status}")


def floats(*shape: int) -> np.ndarray:
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


# ---- memory and layouts

LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "dense": lambda a: a,
    "transposed": lambda a: a.T,
    "permuted": lambda a: a.reshape(4, 3, 2).transpose(1, 2, 0),
    "stepped": lambda a: a[::2, 1::2],
    "backwards": lambda a: a[::-1, ::-2],
    "broadcast": lambda a: np.broadcast_to(a[0], (3, *a[0].shape)),
    "scalar": lambda a: a[1, 2],
    "empty": lambda a: a[:0],
    "one_row": lambda a: a[2:3],
}


def values_of(dtype: str) -> np.ndarray:
    """Two dozen elements, 4 by 6, of which no two neighbours are alike."""
    size = numpy_dtype(dtype).itemsize
    content = (np.arange(24 * size) * 37 + 11).astype(np.uint8)
    return (content % 2 if dtype == "bool" else content).view(numpy_dtype(dtype)).reshape(4, 6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_keep_values(gpu, layout, dtype):
    values = np.asarray(LAYOUTS[layout](values_of(dtype)))
    for late, byte_offset in ((False, 0), (True, 64)):
        fake = gpu.array(values, late=late, byte_offset=byte_offset)
        found = fake.read()
        assert found.dtype == values.dtype and found.strides == values.strides
        assert found.tobytes() == values.tobytes()


def test_host_cannot_touch_device_memory(gpu):
    fake = gpu.array(floats(4))
    ends = os.pipe()
    with pytest.raises(OSError, match="Bad address"):
        os.write(ends[1], (ctypes.c_char * 4).from_address(fake.address))
    for end in ends:
        os.close(end)


def test_host_touches_managed_memory(gpu):
    for kind in (CUDA_MANAGED, CUDA_HOST):
        fake = gpu.array(floats(4), kind=kind)
        assert ctypes.string_at(fake.address, 16) == floats(4).tobytes()
        assert fake.__dlpack_device__() == (kind, 0)
    assert gpu.sim.registered_bytes() == 4096


def test_library_is_loaded_once(gpu):
    with open("/proc/self/maps") as maps:
        files = {line.split()[-1] for line in maps if "libdlbridge_cuda" in line}
    assert files == {extension().library_path()}


# ---- streams and order


def test_late_writes_are_staged(gpu):
    fake = gpu.array(floats(6, 4).T, late=True, stream=gpu.stream())
    staged = Library().to_host(fake, fake.stream)
    np.testing.assert_array_equal(staged, floats(6, 4).T)


def test_missing_waits_are_reported(gpu):
    fake = gpu.array(floats(100), late=True, stream=gpu.stream())
    staged = Library().to_host(fake, gpu.stream())  # nobody has told that stream to wait
    assert set(gpu.take_reports()) == {"race"}
    assert np.all(staged.view(np.uint8) == simulated_gpu.POISON)


@pytest.mark.parametrize(
    ("own", "consumer", "waits"),
    [("new", "new", True), ("new", None, True), ("new", -1, False), ("legacy", "new", True), ("new", 2, True)],
)
def test_fake_dlpack_orders_streams(gpu, own, consumer, waits):
    stream = gpu.stream() if own == "new" else 1
    consumer = gpu.stream() if consumer == "new" else consumer
    fake = gpu.array(floats(8), late=True, stream=stream)
    capsule = fake.__dlpack__(stream=consumer, max_version=(1, 0))
    found = gpu.read(fake, 1 if consumer in (None, -1) else consumer)
    del capsule
    if waits:
        np.testing.assert_array_equal(found, floats(8))
    else:
        assert set(gpu.take_reports()) == {"race"}
        assert np.all(found.view(np.uint8) == simulated_gpu.POISON)
    assert fake.requests == [{"stream": consumer, "max_version": (1, 0), "dl_device": None, "copy": None}]


def test_stream_0_is_refused(gpu):
    with pytest.raises(ValueError, match="stream=0"):
        gpu.array(floats(8)).__dlpack__(stream=0)


def test_holds_block_only_dependents(gpu):
    held, other = gpu.stream(), gpu.stream()
    hold = gpu.hold(held)
    late, free = (gpu.array(floats(8), late=True, stream=stream) for stream in (held, other))
    later = gpu.read_later(late, held)
    np.testing.assert_array_equal(free.read(), floats(8))
    assert later.array() is None
    waiting = threading.Thread(target=gpu.synchronize, args=(held,))
    waiting.start()
    assert gpu.sim.wait_until_blocked(1)
    waiting.join(0.05)
    assert waiting.is_alive()
    hold.release()
    waiting.join(10)
    assert not waiting.is_alive()
    np.testing.assert_array_equal(later.array(), floats(8))
    hold.release()


def test_overwrites_are_stream_ordered(gpu):
    fake = gpu.array(floats(8), late=True)
    before = gpu.read_later(fake)
    gpu.overwrite(fake, 7)
    assert np.all(fake.read().view(np.uint8) == 7)
    np.testing.assert_array_equal(before.array(), floats(8))


@pytest.mark.parametrize("gpu", [{"scheduler": s, "seed": 3} for s in ("eager", "lazy", "random")], indirect=True)
def test_every_scheduler_finds_the_race(gpu):
    stream = gpu.stream()
    fake = gpu.array(floats(8), late=True, stream=stream)
    gpu.overwrite(fake, 7, gpu.stream())
    assert gpu.take_reports() == ["race"]


def test_broken_captures_are_reported(gpu):
    stream = gpu.stream()
    with gpu.capture(stream):
        gpu.read_later(gpu.array(floats(2)), stream)
    assert gpu.sim.captured_operations() == 1
    with (
        pytest.raises(AssertionError, match="the capture was broken"),
        gpu.capture(stream),
        pytest.raises(RuntimeError, match="905"),
    ):
        gpu.order(gpu.stream(), stream)
    assert gpu.take_reports() == ["capture_broken"]


def test_an_order_joins_a_capture(gpu):
    origin, other = gpu.stream(), gpu.stream()
    fake = gpu.array(floats(2))
    with gpu.capture(origin):
        gpu.order(origin, other)
        later = gpu.read_later(fake, other)
        gpu.order(other, origin)
    gpu.sim.finish()
    assert later.array() is None and gpu.sim.captured_operations() > 1


# ---- capsules


def test_capsules_are_counted(gpu):
    fake = gpu.array(floats(4, 6)[::2, ::-1], byte_offset=128, read_only=True)
    managed, give_back = consume(fake.__dlpack__(max_version=(1, 1)))
    tensor = managed.dl_tensor
    assert (tensor.device_type, tensor.device_id, tensor.code, tensor.bits, tensor.lanes) == (2, 0, 2, 32, 1)
    assert (tensor.byte_offset, tensor.data + tensor.byte_offset) == (128, fake.address)
    assert tuple(tensor.shape[:2]) == (2, 6) and tuple(tensor.strides[:2]) == (12, -1)
    assert managed.flags == simulated_gpu.READ_ONLY
    dropped = fake.__dlpack__(max_version=(1, 1))
    assert (fake.lent, fake.released) == (2, 0)
    del dropped
    assert (fake.lent, fake.released) == (2, 1)
    give_back()
    assert (fake.lent, fake.released) == (2, 2)
    legacy = fake.__dlpack__()
    assert legacy_of(legacy).dl_tensor.ndim == 2


def test_a_release_can_call_python(gpu):
    fake = gpu.array(floats(2))
    seen = []
    fake.ledger.call_on_release(lambda: seen.append(1))
    fake.capsule()
    assert seen == [1]


def test_as_cai_offers_nothing_else(gpu):
    fake = gpu.array(floats(4, 6).T, stream=gpu.stream())
    array = fake.as_cai()
    assert not hasattr(array, "__dlpack__")
    interface = array.__cuda_array_interface__
    assert interface["stream"] == fake.stream and interface["data"] == (fake.address, False)
    assert (interface["shape"], interface["strides"], interface["typestr"]) == ((6, 4), (4, 24), "<f4")
    assert "stream" not in fake.as_cai(version=2).interface
    assert fake.as_cai(stream=None).interface["stream"] is None


def test_stream_objects():
    assert StreamObject(7, "cuda_stream").cuda_stream == 7
    assert StreamObject(7, "__cuda_stream__").__cuda_stream__() == (0, 7)


# ---- what the end of a simulated GPU finds


def test_end_fails_on_report():
    with pytest.raises(AssertionError, match="race"), simulated_gpu.simulated_gpu() as gpu:
        gpu.overwrite(gpu.array(floats(8), late=True, stream=gpu.stream()), 7, gpu.stream())


def test_end_fails_on_unreleased_capsule():
    kept = []
    with pytest.raises(AssertionError, match="lent"), simulated_gpu.simulated_gpu() as gpu:
        kept.append(consume(gpu.array(floats(8)).capsule()))
    kept[0][1]()


def test_end_fails_on_registration():
    memory = ctypes.create_string_buffer(8192)
    address = -(-ctypes.addressof(memory) // 4096) * 4096
    with pytest.raises(AssertionError, match="registrations"), simulated_gpu.simulated_gpu() as gpu:
        gpu.sim.register_host(address, 4096)


def test_end_fails_on_current_device():
    with pytest.raises(AssertionError, match="contexts"), simulated_gpu.simulated_gpu(devices=2) as gpu:
        gpu.sim.use_device(1)


def test_end_passes_exceptions_on():
    with pytest.raises(ZeroDivisionError), simulated_gpu.simulated_gpu() as gpu:
        gpu.overwrite(gpu.array(floats(8), late=True, stream=gpu.stream()), 7, gpu.stream())
        _ = 1 / 0


def test_early_frees_are_reported(gpu):
    fake = gpu.array(floats(8), free_on_release=True)
    capsule = fake.capsule()
    gpu.read_later(fake)
    del capsule
    assert gpu.take_reports() == ["freed_while_pending"]


# ---- faults


def test_faults_strike_named_calls(gpu):
    fake = gpu.array(floats(100))
    gpu.fail_next("memcpy_async", n=2, code=simulated_gpu.INVALID_VALUE)
    Library().to_host(fake, 1)
    with pytest.raises(RuntimeError, match="dlb_cuda_stage_to_host answers"):
        Library().to_host(fake, 1)
    assert gpu.sim.faults_struck() == 1
    np.testing.assert_array_equal(Library().to_host(fake, 1), floats(100))
    assert gpu.counts()["memcpy_async"] == 3


def test_faults_need_known_functions(gpu):
    with pytest.raises(ValueError, match="no function of the table"):
        gpu.fail_next("cudaMemcpyAsync")


def test_sticky_faults_kill_devices(gpu):
    gpu.expect_losses()
    fake = gpu.array(floats(100))
    gpu.fail_next("memcpy_async", sticky=True)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            Library().to_host(fake, 1)
    later = gpu.read_later(fake)
    gpu.sim.finish()
    assert later.array() is None


@pytest.mark.parametrize("gpu", [{"driver": "absent"}, {"driver": "too_old"}, {"driver": "no_device"}], indirect=True)
def test_unusable_drivers_fail(gpu):
    with pytest.raises(RuntimeError):
        Library().to_host(gpu.array(floats(2)), 1)

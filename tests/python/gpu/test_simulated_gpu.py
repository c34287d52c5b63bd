# SPDX-License-Identifier: Apache-2.0
"""The Python side of the simulated GPU: arrays, capsules, and that each check at its end can fail. The simulator itself
is tested in C++ beside its sources, tests/support/cuda_sim.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import simulated_gpu
from capsules import consume, legacy_of
from dtypes import WHOLE_DTYPES, random_array
from refusals import refusal
from simulated_gpu import LAYOUTS, extension

import dlbridge

pytestmark = pytest.mark.skipif(simulated_gpu.why_not() is not None, reason=str(simulated_gpu.why_not()))


def floats(*shape: int) -> np.ndarray:
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


# ---- memory and layouts


@pytest.mark.parametrize("dtype", WHOLE_DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_keep_values(gpu, layout, dtype):
    values = np.asarray(LAYOUTS[layout](random_array(dtype, (2, 3, 4))))
    for late, byte_offset in ((False, 0), (True, 64)):
        fake = gpu.array(values, late=late, byte_offset=byte_offset)
        found = fake.read()
        assert found.dtype == values.dtype and found.strides == values.strides
        assert found.tobytes() == values.tobytes()


def test_library_is_loaded_once(gpu):
    with open("/proc/self/maps") as maps:
        files = {line.split()[-1] for line in maps if "libdlbridge_cuda" in line}
    assert files == {extension().library_path()}


# ---- streams and order


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
    assert (fake.exported, fake.released) == (2, 0)
    del dropped
    assert (fake.exported, fake.released) == (2, 1)
    give_back()
    assert (fake.exported, fake.released) == (2, 2)
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


# ---- what the end of a simulated GPU finds


def test_end_fails_on_report():
    with pytest.raises(AssertionError, match="race"), simulated_gpu.simulated_gpu() as gpu:
        gpu.overwrite(gpu.array(floats(8), late=True, stream=gpu.stream()), 7, gpu.stream())


def test_end_fails_on_unreleased_capsule():
    kept = []
    with pytest.raises(AssertionError, match="exported"), simulated_gpu.simulated_gpu() as gpu:
        gpu.patience_seconds = 0.1
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


def test_end_fails_on_call_with_the_gil():
    with pytest.raises(AssertionError, match="interpreter_locked"), simulated_gpu.simulated_gpu():
        ctypes.PyDLL(extension().library_path()).dlb_cuda_trim_pinned(
            ctypes.c_size_t(0), ctypes.byref(ctypes.c_size_t())
        )


def test_end_passes_exceptions_on():
    with pytest.raises(ZeroDivisionError), simulated_gpu.simulated_gpu() as gpu:
        gpu.overwrite(gpu.array(floats(8), late=True, stream=gpu.stream()), 7, gpu.stream())
        _ = 1 / 0


# ---- faults


def test_faults_strike_named_calls(gpu):
    fake = gpu.array(floats(100))
    gpu.fail_next("memcpy_async", n=2, code=simulated_gpu.INVALID_VALUE)
    dlbridge.to_numpy(fake, device="cpu")
    assert refusal(lambda: dlbridge.to_numpy(fake, device="cpu")).code == "device_failed"
    assert gpu.sim.faults_struck() == 1
    np.testing.assert_array_equal(dlbridge.to_numpy(fake, device="cpu"), floats(100))
    assert gpu.counts()["memcpy_async"] == 3


def test_faults_need_known_functions(gpu):
    with pytest.raises(ValueError, match="no function of the table"):
        gpu.fail_next("cuMemcpyAsync")

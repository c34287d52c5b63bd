"""stage() and its Future on the simulated GPU: what waits for what, what a Future promises, what becomes of errors, and
the pinned memory behind the results."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import simulated_gpu
from simulated_gpu import ILLEGAL_ADDRESS, LEGACY, NO_EDGES, OUT_OF_MEMORY, PER_THREAD, SimulatedGpu, StreamObject

import dlbridge
from dlbridge import ExchangeError, from_dlpack, stage, stage_many, to_numpy

pytestmark = pytest.mark.skipif(simulated_gpu.why_not() is not None, reason=str(simulated_gpu.why_not()))

DEVICE = "cuda:0"
SMALL, LARGE = (10, 10), (700, 700)


def values_of(shape: tuple[int, ...] = SMALL, first: int = 1) -> np.ndarray:
    return np.arange(first, first + np.prod(shape), dtype=np.float32).reshape(shape)


def eventually(condition: Callable[[], bool]) -> None:
    """What other threads do: soon, and it is no test's business when."""
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


# ---- stream=


@pytest.mark.parametrize("shape", [SMALL, LARGE])
@pytest.mark.parametrize("kind", ["handle", LEGACY, PER_THREAD, "cuda_stream", "ptr", "handle_attribute", "protocol"])
def test_the_copy_comes_after_what_the_named_stream_has(gpu, kind, shape):
    own = kind if isinstance(kind, int) else gpu.stream()
    names = {"handle_attribute": "handle", "protocol": "__cuda_stream__"}
    stream = own if kind in ("handle", LEGACY, PER_THREAD) else StreamObject(own, names.get(str(kind), str(kind)))
    fake = gpu.array(values_of(shape), late=True, stream=own)
    np.testing.assert_array_equal(stage(fake, device="cpu", stream=stream).result(), values_of(shape))


@pytest.mark.rule(77)
@pytest.mark.parametrize("name", ["cuda_stream", "ptr", "handle", "__cuda_stream__"])
def test_an_object_may_say_0_for_the_legacy_stream(gpu, name):
    fake = gpu.array(values_of(), late=True)
    np.testing.assert_array_equal(stage(fake, device="cpu", stream=StreamObject(0, name)).result(), values_of())


@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_what_the_named_stream_gets_later_does_not_reach_the_result(gpu, shape):
    own = gpu.stream()
    fake = gpu.array(values_of(shape), late=True, stream=own)
    hold = gpu.hold(own)
    future = stage(fake, device="cpu", stream=own)
    gpu.overwrite(fake, 0xEE, own)
    hold.release()
    np.testing.assert_array_equal(future.result(), values_of(shape))
    assert np.all(gpu.read(fake, own).view(np.uint8) == 0xEE)


def test_without_snapshot_writing_early_is_a_race(gpu):
    own = gpu.stream()
    fake = gpu.array(values_of(LARGE), late=True, stream=own)
    hold = gpu.hold(own)
    future = stage(fake, device="cpu", stream=own, snapshot=False)
    gpu.overwrite(fake, 0xEE, own)
    hold.release()
    future.synchronize()
    assert set(gpu.take_reports()) == {"race"}
    eventually(lambda: fake.lent == fake.released)


def test_no_edges_waits_for_nobody(gpu):
    own = gpu.stream()
    fake = gpu.array(values_of(), late=True, stream=own)
    gpu.synchronize(own)
    hold = gpu.hold(own)
    array = fake.as_cai(stream=None)
    np.testing.assert_array_equal(stage(array, device="cpu", stream=NO_EDGES).result(10), values_of())
    hold.release()


def test_no_edges_leaves_the_order_to_the_caller(gpu):
    fake = gpu.array(values_of(LARGE), late=True, stream=gpu.stream())
    stage(fake.as_cai(stream=None), device="cpu", stream=NO_EDGES).synchronize()
    assert set(gpu.take_reports()) == {"race"}


@pytest.mark.rule(78)
def test_streams_that_are_refused(gpu):
    fake = gpu.array(values_of())
    for stream in (0, -2, -17):
        with pytest.raises(ExchangeError) as refused:
            stage(fake, device="cpu", stream=stream)
        assert refused.value.code == "stream_invalid"
    for stream in ("1", 1.5, object()):
        with pytest.raises(TypeError, match="stream is"):
            stage(fake, device="cpu", stream=stream)
    assert fake.lent == fake.released


@pytest.mark.parametrize("gpu", [{"devices": 2}], indirect=True)
def test_a_stream_of_another_device_is_refused(gpu):
    fake = gpu.array(values_of())
    with pytest.raises(ExchangeError) as refused:
        stage(fake, device="cpu", stream=gpu.stream(device=1))
    assert refused.value.code == "stream_invalid"


@pytest.mark.parametrize("gpu", [{"devices": 2}], indirect=True)
def test_the_second_device(gpu):
    fake = gpu.array(values_of(), device=1, late=True, stream=gpu.stream(device=1))
    np.testing.assert_array_equal(to_numpy(fake, device="cpu"), values_of())
    tensor = from_dlpack(values_of(), device="cuda:1")
    assert tensor.device == "cuda:1"
    np.testing.assert_array_equal(to_numpy(tensor, device="cpu"), values_of())


@pytest.mark.parametrize("gpu", [{"current": None, "devices": 2, "active": [1]}], indirect=True)
def test_no_context_is_made_on_a_device_that_is_only_asked_about(gpu):
    """The simulator reports a context that a call makes unasked; threads keep their stack of contexts."""
    assert "2 devices" in dlbridge.build_info()["cuda"]
    fake = gpu.array(values_of(), device=1, late=True, stream=gpu.stream(device=1))
    np.testing.assert_array_equal(to_numpy(fake, device="cpu"), values_of())
    np.testing.assert_array_equal(stage(fake, device="cpu").result(), values_of())
    assert dlbridge.pool_stats().registered > 0
    assert gpu.sim.context_stack() == [] and not gpu.sim.context_active(0)


@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_the_consumers_stream_comes_after_the_copy_and_the_copy_after_it(gpu, shape):
    consumer = gpu.stream()
    target = gpu.array(values_of(shape, first=7), late=True, stream=consumer)
    tensor = from_dlpack(target)
    tensor.__dlpack__(stream=consumer, max_version=(1, 0))
    hold = gpu.hold(consumer)
    gpu.overwrite(target, 0x11, consumer)
    pinned = dlbridge.pinned_empty(shape, np.float32)
    pinned[...] = values_of(shape)
    future = stage(pinned, out=tensor, stream=consumer)
    later = gpu.read_later(target, consumer)
    hold.release()
    gpu.synchronize(consumer)
    np.testing.assert_array_equal(later.array(), values_of(shape))
    assert future.result() is tensor


def test_another_stream_that_is_held_delays_nobody(gpu):
    slow, quick = gpu.stream(), gpu.stream()
    hold = gpu.hold(slow)
    waiting = [stage(gpu.array(values_of(shape), late=True, stream=slow), device="cpu") for shape in (SMALL, LARGE)]
    for shape in (SMALL, LARGE):
        fake = gpu.array(values_of(shape), late=True, stream=quick)
        np.testing.assert_array_equal(stage(fake, device="cpu", stream=quick).result(10), values_of(shape))
    assert not any(future.done() for future in waiting)
    hold.release()
    for future, shape in zip(waiting, (SMALL, LARGE), strict=True):
        np.testing.assert_array_equal(future.result(10), values_of(shape))


def test_memory_that_a_held_stream_uses_is_dropped_without_delaying_others(gpu):
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
def test_dlpack_makes_the_consumers_stream_wait(gpu, made, consumer):
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


@pytest.mark.rule(80)
def test_dlpack_without_edges_orders_nothing(gpu):
    tensor = from_dlpack(gpu.array(values_of(), late=True, stream=gpu.stream()))
    capsule = tensor.__dlpack__(stream=NO_EDGES, max_version=(1, 0))
    gpu.read(tensor, gpu.stream())
    assert set(gpu.take_reports()) == {"race"}
    del capsule


@pytest.mark.rule(78)
@pytest.mark.parametrize("stream", [0, -5])
def test_dlpack_refuses_streams_that_name_none(gpu, stream):
    tensor = from_dlpack(gpu.array(values_of()))
    with pytest.raises(ExchangeError) as refused:
        tensor.__dlpack__(stream=stream)
    assert refused.value.code == "stream_invalid"
    with pytest.raises(TypeError):
        tensor.__dlpack__(stream="1")


@pytest.mark.rule(41)
def test_memory_of_ours_is_not_given_back_before_its_consumers_stream_is_through(gpu):
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


# ---- torch tensors over the simulated memory

needs_no_driver = pytest.mark.skipif(
    dlbridge.build_info()["torch_tier"] == "protocol",
    reason="torch.from_dlpack initialises CUDA for a capsule on a GPU, which needs a driver",
)


@needs_no_driver
def test_torch_tensors_are_ordered_by_torchs_current_stream(gpu, monkeypatch):
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
    eventually(lambda: fake.lent == fake.released)


@needs_no_driver
def test_torch_allocates_what_becomes_torchs(gpu, monkeypatch):
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


def test_a_torch_without_cuda_says_what_to_do(gpu):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this torch can allocate on a GPU")
    with pytest.raises(ExchangeError, match="from_dlpack"):
        dlbridge.to_torch(values_of(), device=DEVICE)


# ---- Futures


@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_a_future_under_way(gpu, shape):
    own = gpu.stream()
    hold = gpu.hold(own)
    future = stage(gpu.array(values_of(shape), late=True, stream=own), device="cpu")
    assert not future.done() and "under way" in repr(future)
    for wait in (future.result, future.synchronize):
        for timeout in (0, 0.02):
            begin = time.monotonic()
            with pytest.raises(TimeoutError):
                wait(timeout=timeout)
            assert time.monotonic() - begin >= timeout
    hold.release()
    assert future.synchronize(timeout=10) is None
    assert future.done() and "done" in repr(future)


@pytest.mark.parametrize("to", ["numpy", "dlpack", "torch"])
def test_the_result_is_one_object(gpu, to):
    if to == "torch":
        pytest.importorskip("torch")
    future = stage(gpu.array(values_of()), device="cpu", to=to)
    first = future.result()
    assert all(future.result(timeout) is first for timeout in (None, 0, 1.5))
    assert future.synchronize() is None
    del future
    np.testing.assert_array_equal(np.asarray(first), values_of())


def test_threads_get_one_result(gpu):
    hold = gpu.hold()
    future = stage(gpu.array(values_of(), late=True), device="cpu", stream=LEGACY)
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(future.result(10))) for _ in range(8)]
    for thread in threads:
        thread.start()
    hold.release()
    for thread in threads:
        thread.join(20)
    assert len(results) == 8 and all(result is results[0] for result in results)


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_timeouts_that_mean_nothing(gpu, timeout):
    future = stage(gpu.array(values_of()), device="cpu")
    with pytest.raises(ExchangeError, match="timeout"):
        future.result(timeout)
    future.result()


@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_a_dropped_future_neither_waits_nor_cancels(gpu, shape):
    own = gpu.stream()
    fake = gpu.array(values_of(shape), late=True, stream=own)
    out = np.zeros(shape, np.float32)
    hold = gpu.hold(own)
    future = stage(fake, out=out, stream=own)
    begin = time.perf_counter()
    del future
    gc.collect()
    assert time.perf_counter() - begin < 1
    assert fake.released == 0
    hold.release()
    eventually(lambda: fake.released == fake.lent)
    np.testing.assert_array_equal(out, values_of(shape))


@pytest.mark.rule(57)
def test_sources_are_given_back_when_the_copy_is_done_and_not_before(gpu):
    own = gpu.stream()
    fake = gpu.array(values_of(LARGE), late=True, stream=own, free_on_release=True)
    hold = gpu.hold(own)
    future = stage(fake, device="cpu")
    gc.collect()
    assert fake.released == 0
    hold.release()
    np.testing.assert_array_equal(future.result(), values_of(LARGE))
    eventually(lambda: fake.ledger.freed)


def test_a_deleter_in_python_may_run_on_a_thread_of_ours(gpu):
    own = gpu.stream()
    fake = gpu.array(values_of(LARGE), late=True, stream=own)
    seen: list[str] = []
    fake.ledger.call_on_release(lambda: seen.append(threading.current_thread().name))
    hold = gpu.hold(own)
    future = stage(fake, device="cpu")
    hold.release()
    future.synchronize()
    eventually(lambda: len(seen) == 1)


@pytest.mark.rule(82)
def test_waiting_lets_other_threads_run(gpu):
    """Also in synchronous conversions: this thread could not release the hold otherwise."""
    for call in (
        lambda fake: to_numpy(fake, device="cpu"),
        lambda fake: to_numpy(fake, device="cpu", out=np.empty(fake.shape, np.float32)),
        lambda fake: stage(fake, device="cpu").result(),
        lambda fake: from_dlpack(fake, device="cpu").numpy(),
    ):
        for shape in (SMALL, LARGE):
            own = gpu.stream()
            fake = gpu.array(values_of(shape), late=True, stream=own)
            hold = gpu.hold(own)
            results: list[Any] = []
            thread = threading.Thread(target=lambda c=call, f=fake, r=results: r.append(c(f)))
            thread.start()
            thread.join(0.03)
            assert thread.is_alive() and not results
            hold.release()
            thread.join(10)
            np.testing.assert_array_equal(results[0], values_of(shape))


# ---- batches


def test_stage_many_keeps_the_order(gpu):
    own = gpu.stream()
    arrays = [values_of((n + 1, 3), first=n) for n in range(20)]
    hold = gpu.hold(own)
    fakes = [gpu.array(a.T, late=True, stream=own if n % 2 else LEGACY) for n, a in enumerate(arrays)]
    group = stage_many(fakes)
    assert not group.done()
    with pytest.raises(TimeoutError):
        group.result(timeout=0.01)
    hold.release()
    results = group.result(10)
    assert len(results) == 20 and group.done() and group.result() is results
    for result, a in zip(results, arrays, strict=True):
        np.testing.assert_array_equal(result, a.T)
    assert group.synchronize() is None


def test_stage_many_of_nothing(gpu):
    group = stage_many([])
    assert group.done() and group.result() == []


@pytest.mark.parametrize("gpu", [{"devices": 2}], indirect=True)
def test_stage_many_of_several_devices(gpu):
    fakes = [gpu.array(values_of(first=n), device=n % 2, late=True) for n in range(4)]
    for n, result in enumerate(stage_many(fakes).result()):
        np.testing.assert_array_equal(result, values_of(first=n))


def test_stage_many_is_one_operation(gpu):
    fakes = [gpu.array(values_of(first=n)) for n in range(30)]
    stage_many(fakes).synchronize()
    before = gpu.counts()
    stage_many(fakes).synchronize()
    after = gpu.counts()
    assert after["event_synchronize"] - before["event_synchronize"] < 5


def test_stage_many_refuses_what_is_no_gpu_tensor(gpu):
    fake = gpu.array(values_of())
    with pytest.raises(ExchangeError, match=r"xs\[1\]"):
        stage_many([fake, np.zeros(3)])
    with pytest.raises(TypeError):
        stage_many([fake, "x"])
    with pytest.raises(TypeError):
        stage_many(7)
    gc.collect()
    assert fake.lent == fake.released


# ---- errors


def fails_alike(future: Any, code: str) -> str:
    """Every call of a Future that failed raises the same error."""
    messages = set()
    for wait in (future.result, future.result, future.synchronize):
        with pytest.raises(ExchangeError) as failed:
            wait(10)
        assert failed.value.code == code
        messages.add(str(failed.value))
    assert future.done() and len(messages) == 1
    return messages.pop()


def test_a_device_that_dies_ends_what_is_under_way(gpu):
    gpu.expect_losses()
    own = gpu.stream()
    hold = gpu.hold(own)
    futures = [stage(gpu.array(values_of(shape), late=True, stream=own), device="cpu") for shape in (SMALL, LARGE)]
    result = to_numpy(gpu.array(values_of()), device="cpu")
    gpu.sim.kill_device(0, ILLEGAL_ADDRESS)
    for future in futures:
        assert "700" in fails_alike(future, "device_failed") or True
    with pytest.raises(ExchangeError) as failed:
        stage(gpu.array(values_of(), stream=own), device="cpu", stream=own)
    assert failed.value.code == "device_failed"
    np.testing.assert_array_equal(result, values_of())  # what was there stays readable
    hold.release()


def test_a_kernel_that_kills_the_device(gpu):
    gpu.expect_losses()
    own = gpu.stream()
    fake = gpu.array(values_of(LARGE), late=True, stream=own)
    gpu.sim.enqueue_fault(own, ILLEGAL_ADDRESS)
    fails_alike(stage(fake, device="cpu", stream=own), "device_failed")


def calls_of(gpu: SimulatedGpu, body: Callable[[], Any]) -> dict[str, int]:
    """How often each function is called by it, once everything is warm."""
    body()
    before = gpu.counts()
    body()
    return {name: count - before[name] for name, count in gpu.counts().items() if count > before[name]}


@contextlib.contextmanager
def no_leaked_loans(fake: simulated_gpu.FakeArray) -> Iterator[None]:
    yield
    eventually(lambda: fake.lent == fake.released)


FAULTY = [
    "memcpy_async",
    "event_record",
    "stream_wait_event",
    "stream_is_capturing",
    "pointer_get_attributes",
    "launch",
]


@pytest.mark.parametrize("call", FAULTY)
@pytest.mark.parametrize("what", ["to_numpy", "stage", "out", "from_dlpack"])
def test_any_call_may_fail_and_the_next_conversion_works(call, what):
    """Each n-th call of a function fails once: an error with a code comes out, nothing is lost, all goes on."""
    bodies: dict[str, Callable[[Any], Any]] = {
        "to_numpy": lambda fake: to_numpy(fake, device="cpu"),
        "stage": lambda fake: stage(fake, device="cpu").result(10),
        "out": lambda fake: stage(fake, out=np.empty(fake.shape, np.float32)).result(10),
        "from_dlpack": lambda fake: from_dlpack(values_of((100, 300)), device=DEVICE).device,
    }
    body = bodies[what]
    struck = 0
    for n in range(1, 20):
        with simulated_gpu.simulated_gpu("lazy", seed=n) as gpu:
            fake = gpu.array(values_of((100, 300)).T, late=True, stream=gpu.stream())
            if what != "from_dlpack" or n % 2:
                body(fake)
            gpu.fail_next(call, n, simulated_gpu.INVALID_VALUE)
            try:
                result = body(fake)
                assert what == "from_dlpack" or np.array_equal(result, values_of((100, 300)).T)
            except ExchangeError as error:
                assert error.code in ("device_failed", "stream_invalid", "invalid_device", "stream_capturing"), error
            gpu.sim.clear_faults()
            hit = gpu.sim.faults_struck()
            struck += hit
            gpu.expect_losses() if hit else None
            gc.collect()
            with contextlib.suppress(ExchangeError):  # a device may be given up
                body(fake)
            eventually(lambda fake=fake: fake.lent == fake.released)
        if not hit:
            break
    assert struck > 0 or call in ("launch", "stream_wait_event")


def test_a_device_that_is_full(gpu):
    gpu.sim.set_device_memory_limit(1000)
    with pytest.raises(ExchangeError) as refused:
        from_dlpack(values_of(), device=DEVICE).device  # noqa: B018
        from_dlpack(values_of(LARGE), device=DEVICE)
    assert refused.value.code == "out_of_memory"
    gpu.sim.set_device_memory_limit(1 << 40)
    assert from_dlpack(values_of(LARGE), device=DEVICE).device == DEVICE


def test_memory_that_cannot_be_pinned(gpu):
    gpu.fail_next("host_register", 1, OUT_OF_MEMORY)
    np.testing.assert_array_equal(to_numpy(gpu.array(values_of(LARGE)), device="cpu"), values_of(LARGE))
    assert gpu.sim.faults_struck() == 1


@pytest.mark.parametrize(
    ("driver", "code"), [("absent", "no_driver"), ("too_old", "driver_too_old"), ("no_device", "no_device")]
)
def test_machines_without_a_gpu(driver, code):
    said = {"absent": "no CUDA driver", "too_old": "too old", "no_device": "no device"}
    with simulated_gpu.simulated_gpu(driver=driver) as gpu:
        fake = gpu.array(values_of())
        for call, expected in (
            (lambda: to_numpy(fake, device="cpu"), "no_staging"),
            (lambda: stage(fake, device="cpu"), ("no_staging", code)),
            (lambda: from_dlpack(np.zeros(3), device=DEVICE), "no_staging"),
            (lambda: stage_many([fake]), ("no_staging", code)),
            (lambda: dlbridge.pinned_empty(3), code),
        ):
            with pytest.raises(ExchangeError) as refused:
                call()
            assert refused.value.code in expected, refused.value
            assert said[driver] in str(refused.value)
        told = dlbridge.build_info()["cuda"]
        assert said[driver] in told
        np.testing.assert_array_equal(to_numpy(np.ones(3)), np.ones(3))


# ---- captures


@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_a_captured_stream_is_refused_and_the_capture_stays_valid(gpu, shape):
    own, other = gpu.stream(), gpu.stream()
    array = gpu.array(values_of(shape)).as_cai(stream=own)
    with gpu.capture(own):
        for call in (
            lambda: stage(array, device="cpu"),
            lambda: stage(array, device="cpu", stream=own),
            lambda: to_numpy(array, device="cpu"),
            lambda: stage(values_of(shape), device=DEVICE, to="dlpack", stream=own),
        ):
            with pytest.raises(ExchangeError) as refused:
                call()
            assert refused.value.code == "stream_capturing", refused.value
        elsewhere = gpu.array(values_of(shape), stream=other).as_cai()
        np.testing.assert_array_equal(stage(elsewhere, device="cpu").result(10), values_of(shape))
    np.testing.assert_array_equal(stage(array, device="cpu").result(10), values_of(shape))


def test_a_producer_that_captures(gpu):
    """It puts our lane into its capture when it is asked to; nothing may be lost by that but this one call."""
    own = gpu.stream()
    fake = gpu.array(values_of(), stream=own)
    with contextlib.suppress(AssertionError), gpu.capture(own), pytest.raises(ExchangeError) as refused:
        stage(fake, device="cpu")
    assert refused.value.code == "stream_capturing"
    gpu.take_reports()
    np.testing.assert_array_equal(stage(fake, device="cpu").result(10), values_of())


# ---- pinned memory


@pytest.mark.parametrize("gpu", [{"piece_bytes": 2 << 20}], indirect=True)
def test_results_of_several_registrations(gpu):
    """The simulator reports a copy that crosses the border between two."""
    values = values_of((1500, 1200))
    fake = gpu.array(values, late=True, stream=gpu.stream())
    np.testing.assert_array_equal(to_numpy(fake, device="cpu"), values)
    np.testing.assert_array_equal(stage(fake, device="cpu").result(), values)
    pinned = dlbridge.pinned_empty(values.shape, np.float32)
    pinned[...] = values
    tensor = from_dlpack(pinned, device=DEVICE)
    np.testing.assert_array_equal(stage(tensor, device="cpu").result(), values)
    assert gpu.counts()["host_register"] > 3


@contextlib.contextmanager
def pool_limit(size: int) -> Iterator[None]:
    before = dlbridge.pool_stats().limit
    dlbridge.set_pool_limit(size)
    try:
        yield
    finally:
        dlbridge.set_pool_limit(before)


def test_results_beyond_the_limit_are_pageable_and_that_is_visible(gpu):
    fake = gpu.array(values_of(LARGE))
    assert any("pinned" in step for step in dlbridge.explain(fake, "numpy", device="cpu").path)
    with pool_limit(4 << 20):
        held = [to_numpy(fake, device="cpu") for _ in range(5)]
        stats = dlbridge.pool_stats()
        assert stats.registered <= 4 << 20 and stats.refused > 0
        assert stats.registered == stats.free + stats.owned + stats.in_flight + stats.quarantined + stats.leaked
        path = dlbridge.explain(fake, "numpy", device="cpu").path
        assert not any("pooled" in step for step in path), path
        futures = [stage(fake, device="cpu") for _ in range(3)]
        for result in [*held, *(future.result() for future in futures)]:
            np.testing.assert_array_equal(result, values_of(LARGE))
        del held, result, futures
        gc.collect()
        eventually(lambda: dlbridge.pool_stats().owned == 0)


def test_a_limit_of_nothing(gpu):
    """Everything goes on, by way of ordinary memory."""
    with pool_limit(0):
        for shape in (SMALL, LARGE):
            np.testing.assert_array_equal(to_numpy(gpu.array(values_of(shape)), device="cpu"), values_of(shape))
            np.testing.assert_array_equal(stage(gpu.array(values_of(shape)), device="cpu").result(), values_of(shape))
            tensor = from_dlpack(values_of(shape), device=DEVICE)
            np.testing.assert_array_equal(to_numpy(tensor, device="cpu"), values_of(shape))
        with pytest.raises(ExchangeError) as refused:
            dlbridge.pinned_empty((1000, 1000))
        assert refused.value.code == "out_of_memory"
    with pytest.raises(ExchangeError):
        dlbridge.set_pool_limit(-1)


def test_pinned_arrays(gpu):
    for shape, dtype in (((3, 4), "float64"), ((), "int8"), ((0, 5), np.float32), (7, bool), ([2, 2], "complex64")):
        array = dlbridge.pinned_empty(shape, dtype)
        assert type(array) is np.ndarray and array.flags.c_contiguous and array.flags.writeable
        assert array.shape == np.empty(shape).shape and array.dtype == np.dtype(dtype)
    assert dlbridge.pinned_empty(4).dtype == np.float64
    for shape in (-1, (3, -2)):
        with pytest.raises(ExchangeError):
            dlbridge.pinned_empty(shape)
    with pytest.raises(TypeError):
        dlbridge.pinned_empty("ab")
    with pytest.raises(ExchangeError):
        dlbridge.pinned_empty((1 << 40, 1 << 40))


def test_a_pinned_source_is_held_and_read_in_stream_order(gpu):
    pinned = dlbridge.pinned_empty(LARGE, np.float32)
    pinned[...] = values_of(LARGE)
    consumer = gpu.stream()
    target = from_dlpack(gpu.array(values_of(LARGE, first=3), stream=consumer))
    hold = gpu.hold(consumer)
    future = stage(pinned, out=target, stream=consumer)
    del pinned
    others = [dlbridge.pinned_empty(LARGE, np.float32) for _ in range(3)]
    for other in others:
        other[...] = 0
    hold.release()
    future.synchronize(10)
    np.testing.assert_array_equal(gpu.read(target, consumer), values_of(LARGE))


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_a_recorded_stream_keeps_the_memory(gpu):
    """Somebody else copies from a result on a stream of its own; the result is dropped at once."""
    fake = gpu.array(values_of(LARGE))
    own = gpu.stream()
    result = to_numpy(fake, device="cpu")
    at, size = address(result), result.nbytes
    hold = gpu.hold(own)
    reading = gpu.sim.enqueue_read(own, at, size)
    assert dlbridge.record_stream(result, own, DEVICE) is True
    del result
    gc.collect()
    for first in range(5):
        other = to_numpy(gpu.array(values_of(LARGE, first=100 + first)), device="cpu")
        assert address(other) != at
        del other
    hold.release()
    gpu.synchronize(own)
    assert reading.bytes() == values_of(LARGE).tobytes()
    assert dlbridge.record_stream(np.zeros(3), own, DEVICE) is False


def test_what_the_legacy_stream_reads_needs_no_recording(gpu):
    fake = gpu.array(values_of(LARGE))
    result = to_numpy(fake, device="cpu")
    at, size = address(result), result.nbytes
    hold = gpu.hold()
    reading = gpu.sim.enqueue_read(LEGACY, at, size)
    del result
    gc.collect()
    other = gpu.array(values_of(LARGE, first=50), stream=gpu.stream())
    assert address(to_numpy(other, device="cpu")) != at
    hold.release()
    gpu.synchronize()
    assert reading.bytes() == values_of(LARGE).tobytes()

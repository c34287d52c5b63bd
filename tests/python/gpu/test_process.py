# SPDX-License-Identifier: Apache-2.0
"""What a process goes through while copies are under way, each in a process of its own: signals, forks, its end."""

from __future__ import annotations

import textwrap

import pytest
import simulated_gpu

from isolated import FROM_HELPERS, HAS_TORCH, run_isolated

pytestmark = pytest.mark.skipif(simulated_gpu.why_not() is not None, reason=str(simulated_gpu.why_not()))

PRELUDE = f"""
import asyncio, ctypes, gc, os, signal, threading, time
{FROM_HELPERS}
import numpy as np
import dlbridge
from dlbridge import ExchangeError, from_dlpack, stage, stage_many, to_numpy
from simulated_gpu import ILLEGAL_ADDRESS, LARGE, SMALL, SimulatedGpu, eventually, simulated_gpu, values_of

DEVICE = "cuda:0"
SHAPES = SMALL, LARGE
share = dlbridge.to_torch if {HAS_TORCH} else from_dlpack
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
"""


def run(code: str, *, timeout: float = 60) -> str:
    """Runs `code` with what stands in PRELUDE."""
    return run_isolated(code, timeout=timeout, prelude=PRELUDE)


# ---- Ctrl-C

WAITS = {
    "result": "stage(fake, device='cpu').result()",
    "result with a timeout": "stage(fake, device='cpu').result(30)",
    "synchronize": "stage(fake, device='cpu').synchronize()",
    "to_numpy": "to_numpy(fake, device='cpu')",
    "to_numpy out": "to_numpy(fake, device='cpu', out=np.empty(fake.shape, np.float32))",
    "from_dlpack": "from_dlpack(fake, device='cpu')",
    "stage_many": "stage_many([fake, fake]).result()",
    "beyond the pool": "dlbridge.set_pool_limit(1 << 19); to_numpy(fake, device='cpu')",
    "to the device": "stage(fake_host, out=target, stream=own).result()",
    "event loop": "async def main(): await stage(fake, device='cpu')\nasyncio.run(main())",
    "copy on the device": "to_numpy(from_dlpack(fake, copy=True), device='cpu')",
}


@pytest.mark.parametrize("shape", ["SMALL", "LARGE"])
def test_ctrl_c_ends_waits(shape):
    """Nothing releases the hold before KeyboardInterrupt: a wait that is not ended runs into the limit of time."""
    waits = dict(WAITS)
    if shape == "SMALL":  # it fits into the smallest segment of the pool
        del waits["beyond the pool"]
    run(
        f"""
        def interrupted(wait):
            with simulated_gpu() as gpu:
                own = gpu.stream()
                fake_host = values_of({shape})
                target = from_dlpack(gpu.array(fake_host, stream=own))
                hold = gpu.hold(own)
                fake = gpu.array(values_of({shape}), late=True, stream=own)
                try:
                    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
                    names = globals() | dict(fake=fake, fake_host=fake_host, target=target, own=own)
                    exec(compile(wait, wait, "exec"), names)
                except KeyboardInterrupt:
                    pass
                else:
                    raise AssertionError("nothing was interrupted")
                hold.release()
                eventually(lambda: fake.exported == fake.released)
                gc.collect()
                dlbridge.set_pool_limit(1 << 30)
                np.testing.assert_array_equal(to_numpy(fake, device="cpu"), values_of({shape}))
                del target, names

        for wait in {list(waits.values())!r}:
            print(wait, flush=True)
            interrupted(wait)
        """
    )


def test_signal_handlers_resume_waits():
    run(
        """
        with simulated_gpu() as gpu:
            own = gpu.stream()
            hold = gpu.hold(own)
            fake = gpu.array(values_of(), late=True, stream=own)
            seen = []
            signal.signal(signal.SIGUSR1, lambda *_: seen.append(len(seen)))
            def send():
                while len(seen) < 5:   # the handler runs in the thread that waits
                    os.kill(os.getpid(), signal.SIGUSR1)
                    time.sleep(0.001)
                hold.release()
            threading.Thread(target=send).start()
            np.testing.assert_array_equal(stage(fake, device="cpu").result(), values_of())
            assert len(seen) >= 5
        """
    )


def test_worker_threads_block_signals():
    """They go to the threads of the program, whose handlers run there."""
    run(
        """
        with simulated_gpu() as gpu:
            before = set(os.listdir("/proc/self/task"))
            for shape in SHAPES:
                stage(gpu.array(values_of(shape), late=True, stream=gpu.stream()), device="cpu").result()
            ours = set(os.listdir("/proc/self/task")) - before
            assert ours
            for task in ours:
                with open(f"/proc/self/task/{task}/status") as status:
                    blocked = next(line for line in status if line.startswith("SigBlk"))
                assert int(blocked.split()[1], 16) & (1 << (signal.SIGINT - 1)), blocked
        """
    )


# ---- forks


def test_fork_child_is_refused():
    run(
        """
        with simulated_gpu() as gpu:
            own = gpu.stream()
            fakes = [gpu.array(values_of(shape), late=True, stream=own) for shape in SHAPES]
            results = [to_numpy(fake, device="cpu") for fake in fakes]
            tensor = from_dlpack(values_of(), device=DEVICE)
            done = stage(fakes[0], device="cpu")
            done.result()
            hold = gpu.hold(own)
            pending = [stage(fake, device="cpu", stream=own) for fake in fakes]
            child = os.fork()
            if child == 0:
                try:
                    for call in (
                        lambda: to_numpy(fakes[0], device="cpu"),
                        lambda: stage(fakes[0], device="cpu"),
                        lambda: from_dlpack(values_of(), device=DEVICE),
                        lambda: dlbridge.pinned_empty(5),
                        lambda: pending[0].result(),
                        lambda: pending[1].synchronize(),
                        lambda: pending[1].result(5),
                    ):
                        error = refusal(call)
                        assert error.code == "after_fork" and "fork" in str(error), error
                    assert done.done() and not pending[0].done()
                    for result, shape in zip(results, SHAPES):
                        np.testing.assert_array_equal(result, values_of(shape))
                    np.testing.assert_array_equal(done.result(), values_of())
                    np.testing.assert_array_equal(to_numpy(share(np.ones(3))), np.ones(3))
                    del pending, done, results, result, tensor, call
                    gc.collect()
                    os._exit(0)
                except BaseException:
                    import traceback
                    traceback.print_exc()
                    os._exit(1)
            status = os.waitpid(child, 0)[1]
            assert status == 0, status
            hold.release()
            for future, shape in zip(pending, SHAPES):
                np.testing.assert_array_equal(future.result(10), values_of(shape))
            del tensor
        """
    )


def test_nothing_starts_cuda_unasked():
    """A driver that was started in the parent cannot be used in the child of a fork."""
    run(
        """
        with simulated_gpu() as gpu:
            before = gpu.counts()
            assert "driver for CUDA" in dlbridge.build_info()["cuda"]
            to_numpy(from_dlpack(values_of()), dtype="float64")
            dlbridge.explain(values_of(), to="dlpack")
            called = {name for name, count in gpu.counts().items() if count != before[name]}
            assert called == {"driver_get_version"}, called
            child = os.fork()
            to_numpy(gpu.array(values_of()), device="cpu")
            assert "1 device" in dlbridge.build_info()["cuda"]
        if child:
            assert os.waitpid(child, 0)[1] == 0
        """
    )


# ---- the end


LATE = "stage(gpu.array(values_of(), late=True, stream=own), device='cpu', stream=own)"
ENDS = {
    "in flight": "kept = [stage(fake, device='cpu') for _ in range(5)]",
    "in flight and dropped": "stage(fake, device='cpu')",
    "held up": f"hold = gpu.hold(own); kept = {LATE}",
    "results": "kept = [to_numpy(fake, device='cpu'), dlbridge.pinned_empty(9)]",
    "tensors": "kept = [from_dlpack(values_of(), device=DEVICE), from_dlpack(fake), from_dlpack(fake, device='cpu')]",
    "an awaiting task": "kept = await_for_ever(stage(fake, device='cpu'))",
    "a thread that waits": (
        f"hold = gpu.hold(own); kept = {LATE}\n"
        "threading.Thread(target=kept.result, daemon=True).start(); time.sleep(0.1)"
    ),
    "a deleter in Python": "fake.ledger.call_on_release(gc.collect); kept = [stage(fake, device='cpu') for _ in '12']",
    "a dead device": "kept = stage(fake, device='cpu'); gpu.sim.kill_device(0, ILLEGAL_ADDRESS)",
    "a reservation": "dlbridge.set_pool_limit(1 << 30); dlbridge.reserve_pinned(256 << 20)",
    "a cycle": "kept = []; kept.append([kept, stage(fake, device='cpu')])",
}


@pytest.mark.parametrize("end, way", [*((end, "") for end in ENDS), ("in flight", "sys.exit(0)")])
def test_process_ends_any_time(end, way):
    code = (
        textwrap.dedent(
            """
            def await_for_ever(future):
                loop = asyncio.new_event_loop()
                async def wait():
                    return await future
                task = loop.create_task(wait())
                loop.run_until_complete(asyncio.sleep(0))
                return loop, task
            gpu = SimulatedGpu("lazy")
            own = gpu.stream()
            fake = gpu.array(values_of(LARGE), late=True, stream=own)
            """
        )
        + ENDS[end]
        + "\nprint('the end', flush=True)\n"
        + way
    )
    assert run_isolated(code, timeout=30, prelude=PRELUDE).strip() == "the end"


def test_cuda_module_loads_lazily():
    code = """
        assert "dlbridge._cuda" not in sys.modules
        to_numpy(np.zeros(3))
        assert "dlbridge._cuda" not in sys.modules
        refusal(lambda: to_numpy(np.zeros(3), device="cuda:0"))
        assert "dlbridge._cuda" in sys.modules
        """
    run_isolated(code, prelude=FROM_HELPERS + "import numpy as np\nfrom dlbridge import to_numpy\n")

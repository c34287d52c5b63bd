# SPDX-License-Identifier: Apache-2.0
"""Lifetime: memory is released exactly once, from any thread, at exit and after a fork; nothing leaks.

What a tensor's storage may go through while an export of it lives is in documents/test_tiers.py.
"""

import gc
import sys
import threading

import numpy as np
import pytest
import torch

from dlbridge import from_dlpack, to_numpy, to_torch
from isolated import run_isolated
from support import direct_tier, watched


def floats(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@direct_tier
def test_bytes_go_with_last_holder():
    run_isolated(
        """
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4096
        t = torch.ones(1 << 26)   # 256 MiB
        a = to_numpy(t)
        b = to_numpy(t[5:])
        before = resident()
        t.share_memory_()
        del t, a
        gc.collect()
        assert before - resident() < (64 << 20), "released while an export lives"
        assert (b == 1).all()
        del b
        gc.collect()
        assert before - resident() > (200 << 20), "not released with the last holder"
        """
    )


def test_shared_storage_stays_shared():
    run_isolated(
        """
        import torch.multiprocessing as mp
        for strategy in ("file_descriptor", "file_system"):
            mp.set_sharing_strategy(strategy)
            t = torch.arange(1000.0).share_memory_()
            address = t.data_ptr()
            a = to_numpy(t)
            assert a.ctypes.data == address and t.is_shared()
            t.share_memory_()
            assert t.data_ptr() == address, "sharing again must not copy"
            del t
            gc.collect()
            assert a.sum() == 499500
        """
    )


def test_mapped_file_is_held(tmp_path):
    path = tmp_path / "tensor.bin"
    path.write_bytes(np.arange(1000, dtype=np.float32).tobytes())
    t = torch.from_file(str(path), shared=True, size=1000)
    a = to_numpy(t)
    name = t.untyped_storage().filename
    assert name == str(path)
    del t
    gc.collect()
    assert a.sum() == 499500


# ---- order of release ----


def test_chain_of_handles_releases_once():
    array, alive = watched(floats(8))
    tensor = to_torch(from_dlpack(to_torch(to_numpy(from_dlpack(array)))))
    del array
    gc.collect()
    assert alive() is not None
    assert tensor[-1] == 7
    del tensor
    gc.collect()
    assert alive() is None


def test_views_keep_the_memory():
    array, alive = watched(floats(10, 10))
    row = to_torch(array)[3]
    del array
    gc.collect()
    assert alive() is not None and row[0] == 30
    back = to_numpy(row)[::2]
    del row
    gc.collect()
    assert alive() is not None and back[1] == 32
    del back
    gc.collect()
    assert alive() is None


def test_cycles_are_collected():
    array, alive = watched(floats(3))
    loop: list = [array, to_torch(array), from_dlpack(array)]
    loop.append(loop)
    del array, loop
    gc.collect()
    assert alive() is None


# ---- threads ----


def test_dropping_on_another_thread():
    array, alive = watched(floats(1000))
    box = [to_torch(array), to_numpy(to_torch(array)), from_dlpack(array)]
    del array
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()
    gc.collect()
    assert alive() is None


def test_many_threads_share():
    array, alive = watched(floats(64))
    tensor = torch.arange(64.0)
    count = sys.getrefcount(array)
    address = array.ctypes.data
    failures: list[str] = []

    def work(source: np.ndarray) -> None:
        for _ in range(5000):
            if to_torch(source).data_ptr() != address or to_numpy(tensor)[3] != 3:
                failures.append("wrong memory")

    threads = [threading.Thread(target=work, args=(array,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    del threads, thread
    assert sys.getrefcount(array) == count
    del array
    gc.collect()
    assert alive() is None


FOREIGN_RELEASE = """
# A thread that Python has never seen runs the deleter of a capsule that came from an array.
class Watched(np.ndarray): pass
ctypes.pythonapi.PyCapsule_GetPointer.restype = ctypes.c_void_p
ctypes.pythonapi.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
ctypes.pythonapi.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]
used = b"used_dltensor_versioned"

def release_on_a_foreign_thread(libc):
    array = np.arange(1000.0).view(Watched)
    alive = weakref.ref(array)
    capsule = from_dlpack(array).__dlpack__(max_version=(1, 0))
    managed = ctypes.pythonapi.PyCapsule_GetPointer(capsule, b"dltensor_versioned")
    ctypes.pythonapi.PyCapsule_SetName(capsule, used)
    deleter = ctypes.cast(managed + 16, ctypes.POINTER(ctypes.c_void_p))[0]
    del array
    handle = ctypes.c_ulong()
    arguments = ctypes.byref(handle), None, ctypes.c_void_p(deleter), ctypes.c_void_p(managed)
    assert libc.pthread_create(*arguments) == 0
    libc.pthread_join(handle, None)
    while alive() is not None:   # the main thread runs the pending call when it next takes the GIL
        os.sched_yield()
"""


@pytest.mark.rule(33, 34)
@pytest.mark.parametrize("library", ["PyDLL", "CDLL"], ids=["gil_held", "gil_released"])
def test_foreign_threads_release(library):
    """PyDLL keeps the GIL in pthread_join: a deleter that waited for the GIL would never return."""
    run_isolated(FOREIGN_RELEASE + f"release_on_a_foreign_thread(ctypes.{library}(None))", timeout=60)


# ---- the end of the process, and forks ----

EXITS = {
    "held": """
def made():
    return [to_torch(np.ones(10)), to_numpy(torch.ones(10)), from_dlpack(np.ones(10))]
keep = made()
sys.keep = torch.keep = made()
cycle = made(); cycle.append(cycle)
parent = to_torch(np.ones(3)); parent.grad = to_torch(np.ones(3))
try:
    raise ValueError
except ValueError:
    del keep[0]
""",
    "atexit": """
import atexit
keep = to_torch(np.ones(10))
@atexit.register
def late():
    global keep
    keep = to_numpy(torch.ones(5)); to_torch(np.ones(4)); assert keep.sum() == 5
""",
    "os._exit": "keep = to_torch(np.ones(10)); os._exit(0)",
}


@pytest.mark.parametrize("code", EXITS.values(), ids=EXITS)
def test_exit_is_clean(code):
    run_isolated(code, timeout=60)


@pytest.mark.rule(35)
@pytest.mark.parametrize("attempt", range(3))
def test_daemon_threads_at_exit(attempt):
    run_isolated(
        """
        a, t = np.ones(16), torch.ones(16)
        class Producer:
            def __dlpack__(self, **more):
                return a.__dlpack__(**more)
        producer = Producer()
        def convert():
            from_dlpack(to_numpy(t)).numpy()
            to_numpy(t)
        def import_from_python():
            from_dlpack(producer)
        turns = []
        def forever(call):
            while True:
                call()
                turns.append(call)
        for call in (convert, import_from_python):
            for _ in range(3):
                threading.Thread(target=forever, args=(call,), daemon=True).start()
        while len(set(turns)) < 2:
            os.sched_yield()
        """,
        timeout=60,
    )


def test_fork_child_uses_shared_memory():
    run_isolated(
        """
        a = np.arange(10.0)
        t, n, d = to_torch(a), to_numpy(torch.arange(10.0)), from_dlpack(a)
        child = os.fork()
        if child == 0:
            ok = t.sum() == 45 and n.sum() == 45 and to_numpy(to_torch(n)).sum() == 45
            del t, n, d
            gc.collect()
            os._exit(0 if ok else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert t.sum() == 45 and n.sum() == 45
        """
    )


def test_round_trips_leave_no_memory():
    output = run_isolated(
        """
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4096
        a, t = np.zeros((4, 5), np.float32), torch.zeros(4, 5)
        flipped = a[::-1]
        def trips(n):
            for _ in range(n):
                to_numpy(to_torch(a)); to_torch(to_numpy(t)); from_dlpack(a).torch()
                try:
                    to_torch(flipped)
                except dlbridge.ExchangeError:
                    pass
        trips(100_000); gc.collect(); first = resident()
        trips(900_000); gc.collect()
        print(resident() - first)
        """,
        timeout=280,
    )
    assert int(output) < 1 << 18

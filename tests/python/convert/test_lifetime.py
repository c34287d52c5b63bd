"""Lifetime: an export never dangles, whatever its source does; memory is given back exactly once, from any thread, at
exit and after a fork; nothing leaks."""

import gc
import sys
import threading
import weakref

import numpy as np
import pytest
import torch

import dlbridge
from dlbridge import from_dlpack, to_numpy, to_torch
from isolated import run_isolated
from support import direct_tier


class Watched(np.ndarray):
    """An array that can be watched by a weak reference to see when it goes."""


def watched(*shape: int) -> tuple[np.ndarray, weakref.ref]:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape).view(Watched)
    return array, weakref.ref(array)


# ---- what a tensor's storage may go through while an export of it lives ----

# Those that the direct tier alone survives are marked.
STORAGE_CHANGES = {
    "share_memory_ (direct)": "t.share_memory_()",
    "pickle for a worker queue (direct)": """
        from multiprocessing.reduction import ForkingPickler
        import torch.multiprocessing
        ForkingPickler.dumps(t)
    """,
    "resize_ refused (direct)": """
        try:
            t.resize_(1 << 26)
        except RuntimeError:
            pass
        else:
            raise AssertionError("resize_ of an exported tensor must be refused")
    """,
    "storage resize_ refused (direct)": """
        try:
            t.untyped_storage().resize_(0)
        except RuntimeError:
            pass
        else:
            raise AssertionError("resize_ of an exported storage must be refused")
    """,
    "set_": "t.set_(torch.zeros(3))",
    ".data =": "t.data = torch.zeros(3)",
    "_lazy_clone and write (direct)": """
        try:
            c = torch._lazy_clone(t)
        except RuntimeError:
            pass
        else:
            t.add_(0)
            c.add_(1)
            del c
    """,
    "del": "del t",
    "swap_tensors": "torch.utils.swap_tensors(t, torch.zeros(5))",
}


@pytest.mark.parametrize("to", ["to_numpy", "from_dlpack"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(code, id=name, marks=[direct_tier] if "(direct)" in name else [])
        for name, code in STORAGE_CHANGES.items()
    ],
)
def test_export_survives_what_happens_to_its_tensor(change, to):
    body = "\n".join(line[8:] if line.startswith(" " * 8) else line for line in change.splitlines())
    run_isolated(
        f"""
t = torch.arange(1 << 24, dtype=torch.float32)   # 64 MiB
export = {to}(t)
{body}
gc.collect()
junk = [torch.full((1 << 22,), -1.0) for _ in range(8)]   # takes freed memory, if there is any
a = export if isinstance(export, np.ndarray) else export.numpy()
assert np.array_equal(a, np.arange(1 << 24, dtype=np.float32)), "the bytes changed"
a[:] = 7
assert (a == 7).all()
"""
    )


@direct_tier
def test_bytes_are_released_once_after_the_last_holder():
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


@pytest.mark.parametrize("strategy", ["file_descriptor", "file_system"])
def test_shared_storage_stays_shared(strategy):
    run_isolated(
        f"""
        import torch.multiprocessing as mp
        mp.set_sharing_strategy({strategy!r})
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


def test_producer_dropped_first():
    array, alive = watched(4, 5)
    tensor = to_torch(array)
    del array
    gc.collect()
    assert alive() is not None
    assert tensor.sum() == 190
    del tensor
    assert alive() is None, "the array must go with the tensor, at once"


def test_consumer_dropped_first():
    array, alive = watched(4, 5)
    count = sys.getrefcount(array)
    tensor = to_torch(array)
    assert sys.getrefcount(array) == count + 1
    del tensor
    assert sys.getrefcount(array) == count
    assert alive() is array


def test_chain_of_handles_releases_once_at_the_end():
    array, alive = watched(8)
    tensor = to_torch(from_dlpack(to_torch(to_numpy(from_dlpack(array)))))
    del array
    gc.collect()
    assert alive() is not None
    assert tensor[-1] == 7
    del tensor
    gc.collect()
    assert alive() is None


def test_views_of_the_result_keep_the_memory():
    array, alive = watched(10, 10)
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
    array, alive = watched(3)
    loop: list = [array, to_torch(array), from_dlpack(array)]
    loop.append(loop)
    del array, loop
    gc.collect()
    assert alive() is None


def test_capsule_that_nobody_takes_gives_back():
    array, alive = watched(3)
    capsule = from_dlpack(array).__dlpack__(max_version=(1, 0))
    del array
    gc.collect()
    assert alive() is not None
    del capsule
    assert alive() is None


def test_refused_source_is_given_back():
    class Producer:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **kwargs):
            return from_dlpack(self.array).__dlpack__(**kwargs)

        def __dlpack_device__(self):
            return (1, 0)

    array, alive = watched(6)
    producer = Producer(array[::-1])
    for _ in range(3):
        with pytest.raises(dlbridge.ExchangeError, match="negative"):
            to_torch(producer)
    del array, producer
    gc.collect()
    assert alive() is None


# ---- threads ----


def test_dropped_on_another_python_thread():
    array, alive = watched(1000)
    box = [to_torch(array), to_numpy(to_torch(array)), from_dlpack(array)]
    del array
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()
    gc.collect()
    assert alive() is None


def test_many_threads_share_and_drop():
    array, alive = watched(64)
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
import time
libc = ctypes.CDLL(None)
class Watched(np.ndarray): pass
array = np.arange(1000.0).view(Watched)
alive = weakref.ref(array)
capsule = from_dlpack(array).__dlpack__(max_version=(1, 0))
ctypes.pythonapi.PyCapsule_GetPointer.restype = ctypes.c_void_p
ctypes.pythonapi.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
ctypes.pythonapi.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]
managed = ctypes.pythonapi.PyCapsule_GetPointer(capsule, b"dltensor_versioned")
used = b"used_dltensor_versioned"
ctypes.pythonapi.PyCapsule_SetName(capsule, used)
deleter = ctypes.cast(managed + 16, ctypes.POINTER(ctypes.c_void_p))[0]
del array
handle = ctypes.c_ulong()
"""


@pytest.mark.rule(34)
def test_foreign_thread_queues_the_release_while_we_hold_the_gil():
    run_isolated(
        FOREIGN_RELEASE
        + """
# PyDLL keeps the GIL during both calls: were the deleter to wait for it, pthread_join would never return.
keeping_gil = ctypes.PyDLL(None)
assert keeping_gil.pthread_create(ctypes.byref(handle), None, ctypes.c_void_p(deleter), ctypes.c_void_p(managed)) == 0
keeping_gil.pthread_join(handle, None)
time.sleep(0.01)   # up to Python 3.12 the main thread notices a pending call when it next takes the GIL
assert alive() is None, "the pending call has to drop it"
""",
        timeout=60,
    )


@pytest.mark.rule(33)
def test_foreign_thread_release_without_the_gil_held():
    run_isolated(
        FOREIGN_RELEASE
        + """
assert libc.pthread_create(ctypes.byref(handle), None, ctypes.c_void_p(deleter), ctypes.c_void_p(managed)) == 0
libc.pthread_join(handle, None)
deadline = time.monotonic() + 10
while alive() is not None and time.monotonic() < deadline:
    pass
assert alive() is None
""",
        timeout=60,
    )


# ---- the end of the process, and forks ----

EXITS = {
    "globals at exit": "keep = [to_torch(np.ones(10)), to_numpy(torch.ones(10)), from_dlpack(np.ones(10))]",
    "module attributes at exit": "sys.keep = [to_torch(np.ones(10)), to_numpy(torch.ones(10))]; torch.keep = sys.keep",
    "atexit": """
import atexit
keep = to_torch(np.ones(10))
@atexit.register
def late():
    global keep
    keep = to_numpy(torch.ones(5)); to_torch(np.ones(4)); assert keep.sum() == 5
""",
    "pending in a foreign queue": "import threading; t = to_torch(np.ones(3)); t.grad = to_torch(np.ones(3))",
    "os._exit": "keep = to_torch(np.ones(10)); os._exit(0)",
    "cycle at exit": "a = [to_torch(np.ones(3))]; a.append(a)",
    "during an exception": """
keep = to_torch(np.ones(3))
try:
    raise ValueError
except ValueError:
    del keep
""",
}


@pytest.mark.parametrize("code", EXITS.values(), ids=EXITS.keys())
def test_exit_is_clean(code):
    run_isolated(code, timeout=60)


SPINS = {
    "conversions": """
a, t = np.ones(16), torch.ones(16)
def turn():
    from_dlpack(to_numpy(t)).numpy()
    to_numpy(t)
""",
    "a producer in Python": """
class Producer:
    def __init__(self):
        self.array = np.ones(16)
    def __dlpack__(self, **more):
        return self.array.__dlpack__(**more)
producer = Producer()
def turn():
    from_dlpack(producer)
""",
    "large copies": """
a, t = np.ones(300_000), torch.ones(300_000, requires_grad=True)
def turn():
    to_torch(a, copy=True)
    to_numpy(t, copy=True, dtype="float32")
""",
}


@pytest.mark.rule(35)
@pytest.mark.parametrize("attempt", range(3))
@pytest.mark.parametrize("spin", SPINS.values(), ids=SPINS.keys())
def test_daemon_threads_at_exit_neither_hang_nor_abort(spin, attempt):
    run_isolated(
        spin
        + """
import time
def forever():
    while True:
        turn()
for _ in range(3):
    threading.Thread(target=forever, daemon=True).start()
time.sleep(0.2)
""",
        timeout=60,
    )


def test_fork_child_uses_and_drops_what_the_parent_shared():
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


def test_a_million_round_trips_leave_no_memory_behind():
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
    assert int(output) < 1 << 20

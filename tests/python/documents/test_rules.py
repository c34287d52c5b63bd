# SPDX-License-Identifier: Apache-2.0
"""The rules of DLPack: the page docs/reference/rules.md, and tests of rules that no other file tests."""

from __future__ import annotations

import ctypes
import gc
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from capsules import (
    PADDED,
    READ_ONLY,
    USED_LEGACY,
    USED_VERSIONED,
    Asks,
    Crafted,
    DLManagedTensor,
    DLManagedTensorVersioned,
    DLTensor,
    Producer,
    consume,
    legacy_of,
    name_address,
    name_of,
    versioned_of,
)
from dtypes import DTYPES, numpy_dtype
from pages import ROOT, page
from simulated_gpu import CUDA, CUDA_HOST, CUDA_MANAGED, SimulatedGpu, extension

import dlbridge
from isolated import FROM_HELPERS, run_isolated
from support import TARGETS, address, array, element_strides, misaligned_array, refusal, watched

BOTH = pytest.mark.parametrize("versioned", [True, False], ids=["versioned", "legacy"])
EACH_TARGET = pytest.mark.parametrize("convert", TARGETS.values(), ids=TARGETS)

# ---- the page ----


def test_page_is_generated() -> None:
    """Also: every rule has a test, and every tag a rule."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "rule_table.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_rules_are_numbered() -> None:
    numbers = re.findall(r'^\| <a id="(\d+)"></a>\1 \|', page("docs/reference/rules.md"), re.MULTILINE)
    assert numbers == [str(number) for number in range(1, 111)]


# ---- exports ----


@dataclass
class Export:
    """A capsule made by a dlbridge.Tensor, and its struct, valid as long as the capsule."""

    capsule: Any
    managed: Any

    @property
    def tensor(self) -> DLTensor:
        return self.managed.dl_tensor


def export(x: Any, versioned: bool = True) -> Export:
    handle = x if isinstance(x, dlbridge.Tensor) else dlbridge.from_dlpack(x)
    capsule = handle.__dlpack__(max_version=(1, 3) if versioned else None)
    return Export(capsule, (versioned_of if versioned else legacy_of)(capsule))


def dtype_of(x: Any) -> tuple[int, int, int]:
    out = export(x)
    return out.tensor.code, out.tensor.bits, out.tensor.lanes


# ---- layout and version ----


@pytest.mark.rule(1)
def test_structs_match_dlpack() -> None:
    assert [getattr(DLTensor, name).offset for name, _ in DLTensor._fields_] == [0, 8, 12, 16, 20, 21, 22, 24, 32, 40]
    assert [getattr(DLManagedTensor, name).offset for name, _ in DLManagedTensor._fields_] == [0, 48, 56]
    versioned = [getattr(DLManagedTensorVersioned, name).offset for name, _ in DLManagedTensorVersioned._fields_]
    assert versioned == [0, 4, 8, 16, 24, 32]
    header = page("core/include/dlbridge/dlpack.h")
    for size in ("DLTensor) == 48", "DLManagedTensor) == 64", "DLManagedTensorVersioned) == 80"):
        assert f"static_assert(sizeof({size}" in header
    a = array()
    for of_version_1 in (True, False):  # exports have this layout
        out = export(a, of_version_1)
        assert (out.tensor.data, out.tensor.ndim, out.tensor.shape[2], out.tensor.strides[0]) == (address(a), 3, 4, 12)


@pytest.mark.rule(2)
def test_version_is_the_compiled_one() -> None:
    handle = dlbridge.from_dlpack(array())
    compiled = tuple(int(part) for part in dlbridge.build_info()["dlpack"].split("."))
    assert compiled >= (1, 3)
    for asked in ((1, 0), (1, 1), (1, 3), (2, 100)):
        capsule = handle.__dlpack__(max_version=asked)
        assert (versioned_of(capsule).major, versioned_of(capsule).minor) == compiled


@pytest.mark.rule(8)
def test_flags_are_zero_without_reason() -> None:
    for x in (array(), torch.ones(3), array()[::-1], np.empty(0), np.array(1)):
        assert export(x).managed.flags == 0


# ---- a producer ----


@pytest.mark.rule(10)
@BOTH
def test_strides_are_not_null(versioned: bool) -> None:
    crafted = Crafted(strides=None, version=(1, 1))
    for x in (array(), np.empty((0, 3)), torch.ones(2, 2), np.ones(1), dlbridge.from_dlpack(crafted.capsule())):
        handle = x if isinstance(x, dlbridge.Tensor) else dlbridge.from_dlpack(x)
        out = export(handle, versioned)
        assert out.tensor.shape and out.tensor.strides
        assert tuple(out.tensor.strides[: out.tensor.ndim]) == handle.strides


@pytest.mark.rule(13)
def test_byte_offset_is_zero() -> None:
    a = array()
    for x in (a[1:, 2:], a[:, ::-1], torch.arange(24.0)[7:], dlbridge.from_dlpack(Crafted(byte_offset=16).capsule())):
        out = export(x)
        assert (out.tensor.data, out.tensor.byte_offset) == (address(x), 0)


@pytest.mark.rule(15)
def test_negative_strides_start_first() -> None:
    a = array()
    for x in (a[::-1], a[:, ::-2], a[..., ::-1], a[::-1, ::-1, ::-3]):
        tensor = (out := export(x)).tensor
        assert tensor.data == address(x)
        assert all(tensor.strides[i] * 4 == x.strides[i] for i in range(3) if x.shape[i] > 1)
        assert ctypes.c_float.from_address(tensor.data).value == x[0, 0, 0]
        del out


@pytest.mark.rule(17, 18, 20, 21, 22, 23)
@pytest.mark.parametrize("name", DTYPES)
def test_dtypes_have_their_code(name: str) -> None:
    code, bits = DTYPES[name]
    assert dtype_of(np.zeros(3, numpy_dtype(name))) == (code, bits, 1)
    assert export(np.zeros(3, numpy_dtype(name))).managed.flags == (PADDED if bits < 8 else 0)
    if bits >= 8 and isinstance(getattr(torch, name, None), torch.dtype):
        assert dtype_of(torch.zeros(3, dtype=getattr(torch, name))) == (code, bits, 1)


@pytest.mark.rule(21)
def test_float4_pairs_have_two_lanes() -> None:
    assert dtype_of(torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)) == (17, 4, 2)


@pytest.mark.rule(25)
@pytest.mark.parametrize("gpu", [{"devices": 2}], indirect=True)
def test_device_is_that_of_address(gpu: SimulatedGpu) -> None:
    fake = gpu.array(array(), device=1)  # device 0 is the current one
    handle = dlbridge.from_dlpack(fake.as_cai())  # its interface names no device
    assert (handle.device, export(handle).tensor.device_id) == ("cuda:1", 1)
    lie = fake.capsule(device=(2, 0))
    assert refusal(lambda: dlbridge.to_numpy(lie, device="cpu")).code == "invalid_device"


@pytest.mark.rule(26)
def test_kinds_of_memory_are_kept(gpu: SimulatedGpu) -> None:
    for kind in (CUDA, CUDA_HOST, CUDA_MANAGED):
        out = export(dlbridge.from_dlpack(gpu.array(array(), kind=kind)))
        assert out.tensor.device_type == kind
    assert export(dlbridge.from_dlpack(array(), device="cuda:0")).tensor.device_type == CUDA


@pytest.mark.rule(28)
@BOTH
@pytest.mark.parametrize("rank", [1, 3, 8, 9, 32])
def test_metadata_lives_until_deleter_returns(rank: int, versioned: bool) -> None:
    shape = (2, 3)[:rank] + (1,) * (rank - 2)
    handle = dlbridge.from_dlpack(np.zeros(shape))
    wanted = handle.strides
    managed, give_back = consume(export(handle, versioned).capsule)
    del handle
    gc.collect()
    junk = [np.full(2 * rank + 8, -1) for _ in range(200)]  # reuses freed memory, if there is any
    assert tuple(managed.dl_tensor.shape[:rank]) == shape
    assert tuple(managed.dl_tensor.strides[:rank]) == wanted
    del junk
    give_back()


@pytest.mark.rule(29, 42, 43, 103)
@pytest.mark.parametrize("used", [True, False], ids=["used", "unused"])
@BOTH
def test_owner_lives_until_deleter(versioned: bool, used: bool) -> None:
    a, alive = watched(array())
    before = sys.getrefcount(a)
    capsule = export(a, versioned).capsule
    assert sys.getrefcount(a) == before + 1
    managed, give_back = consume(capsule) if used else (None, None)
    kept = None if used else capsule
    del a, capsule
    gc.collect()
    assert alive() is not None
    if managed is not None:
        assert ctypes.c_float.from_address(managed.dl_tensor.data + 23 * 4).value == 23
        give_back()
    del kept
    assert alive() is None


@pytest.mark.rule(30)
def test_read_only_is_flagged() -> None:
    locked = array()
    locked.flags.writeable = False
    read_only = [locked, locked[1:], np.broadcast_to(np.ones(3), (2, 3)), np.frombuffer(b"abcd", np.uint8)]
    read_only.append(dlbridge.from_dlpack(Crafted(versioned=False).capsule()))  # unknown write access
    for x in read_only:
        assert export(x).managed.flags & READ_ONLY


# ---- a deleter ----


@pytest.mark.rule(36, 38)
def test_deleter_throws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda event: unraisable.append(event.exc_type))

    class Angry(np.ndarray):
        def __del__(self) -> None:
            raise RuntimeError("in __del__")

    _, give_back = consume(export(np.ones(3).view(Angry)).capsule)
    unraisable.clear()  # of the views made meanwhile
    give_back()  # would raise a pending exception
    assert unraisable == [RuntimeError]


@pytest.mark.rule(38)
def test_deleter_keeps_handled_exception() -> None:
    _, give_back = consume(export(array()).capsule)
    try:
        raise LookupError("own words")
    except LookupError:
        give_back()
        assert sys.exc_info()[0] is LookupError


@pytest.mark.rule(37)
@BOTH
def test_last_holder_frees_once(versioned: bool) -> None:
    crafted = Crafted(versioned=versioned)
    handle = dlbridge.from_dlpack(crafted.capsule())
    holders = [handle.numpy(), handle.torch(), handle.numpy()[1:], handle.torch()[0], handle.__dlpack__()]
    taken = [consume(export(handle).capsule) for _ in range(5)]
    del handle
    while holders:
        holders.pop()
        assert crafted.calls == 0
    for _, give_back in taken:
        assert crafted.calls == 0
        give_back()
    assert crafted.calls == 1


@pytest.mark.rule(39)
def test_deleter_runs_without_lock() -> None:
    done = threading.Event()
    finished: list[bool] = []

    def convert_everything() -> None:
        a, t = array(), torch.ones(3)
        dlbridge.to_torch(dlbridge.to_numpy(t))
        dlbridge.from_dlpack(dlbridge.from_dlpack(a).__dlpack__(max_version=(1, 0))).torch()
        dlbridge.explain(a, to="torch")
        dlbridge.shares_memory(a, t)
        done.set()

    class Busy(Crafted):
        def _count(self, _: int) -> None:
            convert_everything()  # in the deleter
            done.clear()
            other = threading.Thread(target=convert_everything)  # on another thread
            other.start()
            finished.append(done.wait(30))
            other.join(30)
            self.calls += 1

    for drop in (dlbridge.to_numpy, dlbridge.to_torch, dlbridge.from_dlpack, lambda capsule: capsule):
        crafted = Busy()
        drop(crafted.capsule())
        assert crafted.calls == 1
    assert finished == [True] * 4


FAILING_ALLOCATIONS = """
try:
    from _testcapi import remove_mem_hooks, set_nomemory
except ImportError:
    print("no _testcapi"); sys.exit()

def attempt(call, n):
    # One allocation of CPython fails: the one after n others. Only the call runs meanwhile.
    set_nomemory(n, n + 1)
    try:
        return call()
    except (MemoryError, dlbridge.ExchangeError):
        return None
    except RuntimeError as error:   # torch raises it in place of a MemoryError
        if "Failed to allocate" not in str(error): raise
        return None
    finally:
        remove_mem_hooks()

def exhaust(call, watched, what):
    attempt(call, 1000)
    before = sys.getrefcount(watched)
    # Kept, the first allocation last: the memory of freed handles is reused.
    results = [attempt(call, n) for n in reversed(range(80))]
    assert any(result is None for result in results), what
    results.clear()
    assert sys.getrefcount(watched) == before, what

class Plain:   # a producer that no adapter knows
    def __init__(self, array): self.array = array
    def __dlpack__(self, **keywords): return self.array.__dlpack__(**keywords)
    def __dlpack_device__(self): return (1, 0)
"""


def run_with_failing_allocations(code: str) -> None:
    imports = "import sys\nimport numpy as np\nimport torch\nimport dlbridge\n"
    imports += "from dlbridge import from_dlpack, to_numpy, to_torch\n"
    output = run_isolated(code, prelude=imports + FAILING_ALLOCATIONS)
    if output.strip() == "no _testcapi":
        pytest.skip("this Python has no _testcapi to make allocations fail")
    assert output.strip() == "done"


@pytest.mark.rule(40, 48)
def test_failed_export_frees_everything() -> None:
    run_with_failing_allocations(
        """
        a = np.arange(6.0)
        handle = from_dlpack(a)
        exhaust(lambda: handle.__dlpack__(), handle, "legacy")
        exhaust(lambda: handle.__dlpack__(max_version=(1, 0)), a, "versioned")
        exhaust(lambda: handle.__dlpack__(max_version=(1, 0), copy=True), a, "copied")
        exhaust(lambda: from_dlpack(a), a, "handle")
        print("done")
        """
    )


@pytest.mark.rule(51)
def test_failed_import_releases_once() -> None:
    run_with_failing_allocations(
        """
        a = np.arange(6.0)
        to_torch(a)  # its adapter is loaded
        for convert in (to_torch, to_numpy, from_dlpack):
            exhaust(lambda: convert(a), a, convert)
            exhaust(lambda: convert(Plain(a)), a, convert)
            capsules = [a.__dlpack__(max_version=(1, 0)) for _ in range(80)] + [a.__dlpack__() for _ in range(80)]
            before = sys.getrefcount(a)
            for n, capsule in enumerate(capsules):
                attempt(lambda: convert(capsule), n % 80)
            del capsule, capsules
            assert sys.getrefcount(a) == before - 160, convert
        print("done")
        """
    )


@pytest.mark.rule(41)
@EACH_TARGET
def test_deleter_runs_after_all_work(convert: Callable[..., Any]) -> None:
    memory = (ctypes.c_float * (1 << 20))(*[3.0] * (1 << 20))  # enough for several threads to copy it
    crafted = Scribbler(shape=(1 << 20,), strides=(1,), memory=memory)
    copied = convert(Producer(lambda **_: crafted.capsule()), copy=True)
    assert crafted.calls == 1  # the deleter has overwritten the memory
    assert (np.asarray(copied) == 3).all()
    elsewhere = Crafted(device=(2, 0)).capsule()
    # A copy from another device, which could run after its call, needs that device's module.
    assert refusal(lambda: convert(elsewhere, device="cpu")).field == "device"


# ---- a capsule ----


@pytest.mark.rule(45)
@BOTH
def test_capsule_without_deleter_can_be_dropped(versioned: bool) -> None:
    a = array()
    before = sys.getrefcount(a)
    out = export(a, versioned)
    out.managed.deleter = None
    del out
    assert sys.getrefcount(a) == before + 1  # there is no deleter to call


@pytest.mark.rule(46)
@BOTH
def test_names_are_static(versioned: bool) -> None:
    handle = dlbridge.from_dlpack(array())
    first, second = export(handle, versioned).capsule, export(handle, versioned).capsule
    unused = name_address(first)
    assert unused == name_address(second)
    used = dlbridge.from_dlpack(first)
    dlbridge.to_numpy(second)
    assert name_address(first) == name_address(second) != unused
    del used, second, handle
    gc.collect()
    assert name_of(first).encode() == (USED_VERSIONED if versioned else USED_LEGACY)


# ---- a consumer's bookkeeping ----


@pytest.mark.rule(50)
def test_capsule_consumed_meanwhile_is_refused() -> None:
    # ml_dtypes is imported after the capsule was read and before it is consumed; importing runs any Python code.
    output = run_isolated(
        """
        from capsules import Crafted, name_of
        assert "ml_dtypes" not in sys.modules
        crafted = Crafted(code=4, bits=16)
        capsule = crafted.capsule()
        class Thief:
            def find_spec(self, name, *_):
                if name == "ml_dtypes" and not self.taken: self.taken.append(from_dlpack(capsule))
            taken = []
        sys.meta_path.insert(0, Thief())
        print(refusal(lambda: to_numpy(capsule)).code, name_of(capsule), len(Thief.taken))
        assert crafted.calls == 0
        del Thief.taken[0]
        assert crafted.calls == 1
        """,
        prelude=FROM_HELPERS + "import numpy\nfrom dlbridge import from_dlpack, to_numpy\n",
    )
    assert output.split() == ["capsule_used", "used_dltensor_versioned", "1"]


@pytest.mark.rule(50)
@BOTH
@pytest.mark.parametrize("into", ["new", "out"])
def test_copying_capsule_cannot_be_consumed(into: str, versioned: bool) -> None:
    size = 1 << 26  # large enough for other threads to run
    crafted = Crafted(
        shape=(size,), strides=(1,), code=1, bits=8, versioned=versioned, memory=(ctypes.c_uint8 * size)()
    )
    capsule = crafted.capsule()
    unused = name_of(capsule)
    out = {"out": np.empty(size, np.uint8)} if into == "out" else {}
    over = threading.Event()
    found: set[str] = set()

    def look() -> None:
        while not over.wait(1e-4):
            found.add(name_of(capsule))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(50):
            dlbridge.to_numpy(capsule, copy=True, **out)
            if f"used_{unused}" in found:
                break
    finally:
        over.set()
        watcher.join()
    assert f"used_{unused}" in found
    assert name_of(capsule) == unused
    assert crafted.calls == 0


@pytest.mark.rule(55)
@BOTH
@EACH_TARGET
def test_producer_metadata_is_unchanged(convert: Callable[..., Any], versioned: bool) -> None:
    # Strides that torch and NumPy replace by others.
    for shape, strides in (((1, 3), (-7, 1)), ((0, 3), (5, -5)), ((2, 1, 3), (3, 99, 1)), ((2, 3), (3, 1))):
        crafted = Crafted(shape=shape, strides=strides, versioned=versioned, byte_offset=8)
        capsule = crafted.capsule()
        managed = (versioned_of if versioned else legacy_of)(capsule)
        before = bytes(managed)
        results = [convert(capsule, copy=True), convert(capsule)]
        assert tuple(managed.dl_tensor.shape[: len(shape)]) == shape
        assert tuple(managed.dl_tensor.strides[: len(shape)]) == strides
        assert bytes(managed) == before
        del results


class Scribbler(Crafted):
    """Its deleter overwrites shape, strides and memory, as a producer that frees them might."""

    descriptor: Any = None

    def managed(self) -> Any:
        self.descriptor = super().managed()
        return self.descriptor

    def scribble(self) -> None:
        tensor = self.descriptor.dl_tensor
        for i in range(tensor.ndim):
            tensor.shape[i] = tensor.strides[i] = 1 << 40

    def _count(self, pointer: int) -> None:
        self.scribble()
        ctypes.memset(self.address(), 0xFF, ctypes.sizeof(self.memory))
        super()._count(pointer)


@pytest.mark.rule(56)
@BOTH
@EACH_TARGET
def test_metadata_is_copied_before_deleter(convert: Callable[..., Any], versioned: bool) -> None:
    crafted = Scribbler(versioned=versioned)
    copied = convert(Producer(lambda **_: crafted.capsule()), copy=True)
    assert crafted.calls == 1
    shared_source = Scribbler(versioned=versioned)
    shared = convert(shared_source.capsule())
    shared_source.scribble()  # dlbridge must not read the producer's shape and strides any more
    for result in (copied, shared):
        assert (tuple(result.shape), element_strides(result)) == ((2, 3), (3, 1))
        assert np.asarray(result).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.rule(59)
@EACH_TARGET
def test_refused_capsule_drops_without_pending_exception(convert: Callable[..., Any]) -> None:
    for setting in ({"ndim": -1}, {"code": 99}, {"data": None}, {"version": (2, 0)}):
        crafted = Asks(**setting)
        error = refusal(lambda crafted=crafted: convert(Producer(lambda **_: crafted.capsule())))
        assert error.code in ("invalid_ndim", "unknown_dtype", "null_data", "unsupported_version")
        assert crafted.pending == [False]


# ---- what a consumer checks ----


@pytest.mark.rule(67)
@pytest.mark.parametrize("dtype", ["i2", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("by", ["data", "byte_offset"])
def test_alignment_is_measured(by: str, dtype: str) -> None:
    a = misaligned_array(dtype)
    place = {"data": address(a)} if by == "data" else {"data": address(a) - 1, "byte_offset": 1}
    code = {"i": 0, "f": 2, "c": 5}[dtype[0]]
    capsule = Crafted(shape=(6,), strides=(1,), code=code, bits=a.itemsize * 8, **place).capsule()
    error = refusal(lambda: dlbridge.to_torch(capsule))
    assert (error.code, error.field) == ("misaligned", "data")
    assert dlbridge.to_torch(capsule, copy=None).tolist() == a.tolist()
    taken = dlbridge.to_numpy(capsule)
    assert not taken.flags.aligned
    assert taken.tolist() == a.tolist()


@pytest.mark.rule(68)
def test_contiguity_ignores_extents_of_1() -> None:
    shape = (1, 2, 1, 3)
    for strides in ((99, 3, -5, 1), (0, 3, 0, 1), (2**40, 3, 7, 1)):
        assert dlbridge.to_numpy(Crafted(shape=shape, strides=strides).capsule()).flags.c_contiguous
        assert dlbridge.to_torch(Crafted(shape=shape, strides=strides).capsule()).is_contiguous()
        packed = Crafted(code=0, bits=4, shape=shape, strides=strides)  # refused where it is not contiguous
        assert dlbridge.from_dlpack(packed.capsule()).nbytes == 3


@pytest.mark.rule(73)
def test_read_only_carries_on() -> None:
    handle = dlbridge.from_dlpack(Crafted(flags=READ_ONLY).capsule())
    a = handle.numpy()
    views = [a, a[1:], a.T, a.reshape(-1), a.view(np.int32), np.asarray(handle), np.from_dlpack(handle)]
    assert not any(view.flags.writeable for view in views)
    for view in (a, a[1:]):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1
        with pytest.raises(ValueError):
            view.flags.writeable = True
    for x in (handle, a, a[:, 1:], dlbridge.from_dlpack(a), dlbridge.from_dlpack(handle)):
        assert export(x).managed.flags & READ_ONLY
        assert refusal(lambda x=x: dlbridge.to_torch(x)).code == "read_only"


# ---- the Python protocol ----


@pytest.mark.rule(80)
@pytest.mark.parametrize("source", ["shared", "ours"])
def test_minus_one_makes_no_call(gpu: SimulatedGpu, source: str) -> None:
    x = gpu.array(array()) if source == "shared" else dlbridge.stage(array(), device="cuda:0", to="dlpack").result()
    handle = dlbridge.from_dlpack(x)
    extension().drain(10)  # the thread that completed the copy makes calls, too
    before = gpu.counts()
    capsule = handle.__dlpack__(stream=-1, max_version=(1, 3))
    assert gpu.counts() == before
    handle.__dlpack__(stream=1)
    assert gpu.counts() != before
    del capsule


@pytest.mark.rule(85)
@EACH_TARGET
def test_retry_drops_only_max_version(convert: Callable[..., Any]) -> None:
    a = array()
    calls: list[dict[str, Any]] = []

    def old(**keywords: Any) -> Any:
        calls.append(keywords)
        if "max_version" in keywords:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        return a.__dlpack__(**keywords)

    result = convert(Producer(old))
    assert address(result) == address(a)
    first, second = calls
    assert second == {name: value for name, value in first.items() if name != "max_version"}
    # The consumer does what the call names, so an old producer loses nothing of it.
    assert address(convert(Producer(old), copy=True)) != address(a)
    assert convert(Producer(old), device="cpu") is not None


# ---- existing consumers ----


@pytest.mark.rule(101)
@EACH_TARGET
def test_copy_despite_unwilling_producer(convert: Callable[..., Any]) -> None:
    a = array()

    def dlpack(*, copy: bool | None = None, **keywords: Any) -> Any:
        if copy:
            raise BufferError("this producer does not copy")
        return a.__dlpack__(**keywords)

    result = convert(Producer(dlpack), copy=True)
    assert not dlbridge.shares_memory(result, a)
    a[...] = -1
    assert np.asarray(result).reshape(-1)[5] == 5

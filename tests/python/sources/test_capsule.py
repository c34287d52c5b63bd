# SPDX-License-Identifier: Apache-2.0
"""Capsules and producers as sources: what is taken, what passes through, what is released.

Descriptors of every content are in documents/test_validation.py.
"""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from capsules import Asks, Producer, legacy_of, name_of, versioned_of

import dlbridge
from isolated import run_isolated
from support import AS, TARGETS, address, array, assert_no_growth, refusal, values

# ---- capsules that come in ----


INCOMING = {
    "numpy_versioned": lambda: array().__dlpack__(max_version=(1, 0)),
    "numpy_legacy": lambda: array().__dlpack__(),
    "torch_versioned": lambda: torch.from_numpy(array()).__dlpack__(max_version=(1, 0)),
    "torch_legacy": lambda: torch.from_numpy(array()).__dlpack__(),
    "torch_to_dlpack": lambda: torch.utils.dlpack.to_dlpack(torch.from_numpy(array())),
    "own_versioned": lambda: dlbridge.from_dlpack(array()).__dlpack__(max_version=(1, 0)),
    "own_legacy": lambda: dlbridge.from_dlpack(array()).__dlpack__(),
}


@pytest.mark.rule(49, 52)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", INCOMING)
def test_capsules_are_consumed(kind: str, target: str) -> None:
    capsule = INCOMING[kind]()
    name = name_of(capsule)
    data = (versioned_of(capsule) if "versioned" in name else legacy_of(capsule)).dl_tensor.data
    before = sys.getrefcount(capsule)
    result = TARGETS[target](capsule)
    assert sys.getrefcount(capsule) == before
    assert name_of(capsule) == f"used_{name}"
    error = refusal(lambda: TARGETS[target](capsule))
    assert (error.code, error.field) == ("capsule_used", "capsule")
    assert "used_dltensor" in str(error)
    assert refusal(lambda: dlbridge.explain(capsule, to=target)).code == "capsule_used"
    capsule = None
    gc.collect()
    assert address(result) == data
    assert values(result) == array().tolist()
    if target == "numpy":
        assert result.flags.writeable == (name == "dltensor_versioned")
    if target == "dlpack":
        assert result.read_only == (name == "dltensor")


@pytest.mark.rule(74, 106)
def test_legacy_capsules_in_torch() -> None:
    a = array()
    dlbridge.to_torch(a.__dlpack__())[0, 0, 0] = 99
    assert a[0, 0, 0] == 99
    taken = dlbridge.to_numpy(a.__dlpack__())
    assert address(taken) == address(a)
    with pytest.raises(ValueError):
        taken.flags.writeable = True


@pytest.mark.rule(74)
def test_legacy_capsule_is_passed_on() -> None:
    """Nothing is lost on the way that a legacy capsule said; a versioned one then says read-only."""
    a = array()
    handle = dlbridge.from_dlpack(a.__dlpack__())
    assert handle.read_only
    capsule = handle.__dlpack__()
    assert name_of(capsule) == "dltensor" and legacy_of(capsule).dl_tensor.data == a.ctypes.data
    dlbridge.to_torch(capsule)[0, 0, 0] = 99
    assert a[0, 0, 0] == 99
    assert versioned_of(handle.__dlpack__(max_version=(1, 0))).flags & 1


@pytest.mark.rule(74)
def test_explain_of_legacy_capsules() -> None:
    capsule = array().__dlpack__()
    plan = dlbridge.explain(capsule, to="torch")
    assert plan.verdict == "share"
    assert "unknown" in plan.message
    assert name_of(capsule) == "dltensor"
    assert "unknown" not in dlbridge.explain(array().__dlpack__(max_version=(1, 0)), to="torch").message


@pytest.mark.rule(104)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("legacy", [False, True], ids=["versioned", "legacy"])
def test_capsule_outlives_its_source(legacy: bool, target: str) -> None:
    a = array()
    watch = weakref.ref(a)
    capsule = a.__dlpack__() if legacy else a.__dlpack__(max_version=(1, 0))
    del a
    gc.collect()
    result = TARGETS[target](capsule)
    del capsule
    gc.collect()
    assert values(result) == array().tolist()
    assert watch() is not None
    del result
    gc.collect()
    assert watch() is None


@pytest.mark.rule(44)
@pytest.mark.parametrize("holder", ["handle", "array", "legacy_capsule", "versioned_capsule"])
def test_release_keeps_pending_exception(holder: str) -> None:
    crafted = Asks()  # its deleter is Python code, which cannot run while an exception is pending

    def held() -> Any:
        handle = dlbridge.from_dlpack(crafted.capsule())
        if holder.endswith("capsule"):
            return handle.__dlpack__(max_version=(1, 0) if holder == "versioned_capsule" else None)
        return handle.numpy() if holder == "array" else handle

    def use_and_fail() -> None:
        kept = held()
        raise LookupError("own words", type(kept))

    with pytest.raises(LookupError, match="own words"):
        use_and_fail()
    with pytest.raises(TypeError, match="integer"):
        chr(held())  # a built-in function's arguments are dropped while its exception is pending
    gc.collect()
    assert crafted.pending == [False, False]


def test_host_never_reads_device_memory() -> None:
    run_isolated(
        """
        from capsules import Crafted
        c = Crafted(device=(2, 0), data=64).capsule()  # an address that no host can read
        h = from_dlpack(Crafted(device=(2, 0), data=64).capsule())
        for call in (
            lambda: from_dlpack(c, copy=True),
            lambda: from_dlpack(h, copy=True),
            lambda: h.__dlpack__(copy=True),
            lambda: to_torch(c, copy=True),
            lambda: to_torch(c, dtype="float64"),
            lambda: to_numpy(c, dtype="float64"),
            lambda: to_numpy(c, out=np.zeros((2, 3), np.float32)),
            lambda: to_numpy(c, copy=None),
            lambda: to_numpy(c, copy=True),
            lambda: np.asarray(h),
        ):
            refusal(call)
        """
    )


# ---- producers ----


@pytest.mark.rule(87)
@pytest.mark.parametrize("kind", [BufferError, TypeError, RuntimeError, KeyError, AttributeError])
@pytest.mark.parametrize("target", TARGETS)
def test_producer_errors_pass_through(kind: type[Exception], target: str) -> None:
    error = kind("own words")

    def dlpack(**_: Any) -> Any:
        raise error

    producer = Producer(dlpack)
    with pytest.raises(kind, match="own words") as caught:
        TARGETS[target](producer)
    assert caught.value is error
    assert producer.calls == [{"max_version": (1, 3)}]


class StreamOnly:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, stream: Any = None) -> Any:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class NothingKnown(StreamOnly):
    def __dlpack__(self) -> Any:
        return self.array.__dlpack__()


class Positional(StreamOnly):
    def __dlpack__(self, stream: Any = None, max_version: Any = None) -> Any:
        return self.array.__dlpack__(max_version=max_version)


@pytest.mark.rule(105)
@pytest.mark.parametrize("kind", [StreamOnly, NothingKnown, Positional])
@pytest.mark.parametrize("target", TARGETS)
def test_old_producers_work(kind: type, target: str) -> None:
    a = array()
    result = TARGETS[target](kind(a))
    assert address(result) == address(a)
    assert values(result) == a.tolist()
    versioned = kind is Positional
    if target == "numpy":
        assert result.flags.writeable == versioned
    before = sys.getrefcount(a)
    del result
    assert sys.getrefcount(a) == before - 1


@pytest.mark.parametrize("answer", [None, 3, "capsule", array()], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("target", TARGETS)
def test_wrong_answers_are_type_errors(answer: Any, target: str) -> None:
    with pytest.raises(TypeError, match="expected a DLPack capsule"):
        TARGETS[target](Producer(lambda **_: answer))


@pytest.mark.rule(103)
def test_producer_is_released_with_result() -> None:
    a = array()
    before = sys.getrefcount(a)
    producer = Producer(a.__dlpack__)
    bound = sys.getrefcount(a)
    result = dlbridge.to_torch(producer)
    assert sys.getrefcount(a) == bound + 1
    del result, producer
    assert sys.getrefcount(a) == before


def test_refused_producers_leak_nothing() -> None:
    a = array()[::-1]
    producer = Positional(a)
    before = sys.getrefcount(a)
    assert_no_growth(lambda: refusal(lambda: dlbridge.to_torch(producer)))
    assert sys.getrefcount(a) == before


def test_conversions_leak_nothing() -> None:
    a, t = array(), torch.from_numpy(array())
    handle = dlbridge.from_dlpack(a)
    for convert in TARGETS.values():
        for source in (a, t, handle, Positional(a), NothingKnown(a)):
            assert_no_growth(lambda c=convert, s=source: c(s))
            assert_no_growth(lambda c=convert, s=source: c(s, copy=True))
    wide = AS(np.arange(4096.0), (2,) * 12, (8,) * 12)
    assert_no_growth(lambda: dlbridge.to_numpy(wide))
    assert_no_growth(lambda: dlbridge.from_dlpack(wide).numpy())


@pytest.mark.parametrize("target", TARGETS)
def test_none_is_no_method(target: str) -> None:
    class Refuses:
        __dlpack__ = None

    with pytest.raises(TypeError, match="expected a numpy.ndarray"):
        TARGETS[target](Refuses())

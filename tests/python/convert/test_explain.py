# SPDX-License-Identifier: Apache-2.0
"""What a Plan says beyond test_verdicts.py (verdict, first reason, bytes): all reasons, the path, the message; and that
explain has no side effects."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from capsules import Crafted, Producer, name_of
from refusals import without_gpu

import dlbridge
from support import TARGETS, TORCH_TIER, address, assert_no_growth, f4, f8, misaligned_array, read_only, refusal

# name: (source, to, request, reasons, path)
PLANS: dict[str, tuple[Callable[[], Any], str, dict, list[str], list[str]]] = {
    "shared": (f8, "torch", {}, [], ["share"]),
    "tensor": (f4, "numpy", {}, [], ["share"]),
    "refused": (lambda: f8()[::-1], "torch", {}, ["negative_stride"], []),
    "copied": (lambda: f8()[::-1], "torch", {"copy": None}, ["negative_stride"], ["host copy"]),
    "cast": (f8, "numpy", {"dtype": "int16"}, [], ["cast to int16"]),
    "flipped_cast": (lambda: f8()[::-1], "torch", {"dtype": "float32"}, [], ["cast to float32"]),
    "read_only_flipped": (lambda: read_only(f8())[::-1], "torch", {}, ["negative_stride", "read_only"], []),
    "misaligned_flipped": (
        lambda: misaligned_array()[::-1], "torch", {"copy": True}, ["negative_stride", "misaligned"], ["host copy"]),
    "cuda_device_for_numpy": (f8, "numpy", {"device": "cuda:0"}, ["unsupported_device", without_gpu()], []),
    "cuda_device_not_copied": (
        f8, "torch", {"device": "cuda:0", "copy": False}, ["copy_forbidden", without_gpu()], []),
    "conj_cast": (
        lambda: torch.tensor([1 + 2j, 3 - 4j]).conj(), "numpy", {"dtype": "complex128"}, [], ["cast to complex128"]),
    "cuda_memory": (lambda: Crafted(device=(2, 0)).capsule(), "numpy", {}, ["device_not_named"], []),
    "legacy_capsule": (lambda: f8().__dlpack__(), "torch", {}, [], ["share"]),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANS)
def test_plans_list_reasons_and_path(name: str) -> None:
    make, to, request, reasons, path = PLANS[name]
    plan = dlbridge.explain(make(), to=to, **request)
    assert (plan.reasons, plan.path) == (reasons, path)


def test_message_and_repr() -> None:
    a = f8()
    shared = dlbridge.explain(a, to="torch")
    assert f"shares 96 bytes at {address(a):#x}" in shared.message
    refused = dlbridge.explain(a[::-1], to="torch")
    assert "copy=None to copy 96 bytes" in refused.message
    copied = dlbridge.explain(a[::-1], to="torch", copy=None)
    assert copied.message.startswith("host copy: 96 bytes, because stride in dimension 0 is -4 elements")
    assert "12.6 MB" in dlbridge.explain(np.zeros(3150000, "f4")[::-1], to="torch").message
    for plan in (shared, refused, copied):
        assert plan.verdict in repr(plan)
        assert plan.message in repr(plan)
        assert f"bytes={plan.bytes}" in repr(plan)
        assert all(reason in repr(plan) for reason in plan.reasons)
    assert type(shared) is dlbridge.Plan
    assert isinstance(shared.reasons, list)
    assert isinstance(shared.path, list)


class CudaArray:
    __cuda_array_interface__ = {"version": 3, "shape": (3,), "typestr": "<f4", "data": (1 << 40, False)}


@pytest.mark.parametrize("request_", [{}, {"device": "cpu"}, {"copy": True}], ids=str)
@pytest.mark.parametrize("to", TARGETS)
def test_cuda_arrays_without_a_gpu(to: str, request_: dict[str, Any]) -> None:
    plan = dlbridge.explain(CudaArray(), to, **request_)
    error = refusal(lambda: TARGETS[to](CudaArray(), **request_))
    assert (plan.verdict, plan.reasons[0], plan.message) == ("refuse", error.code, str(error))
    # A build without the CUDA module cannot say what the machine lacks.
    has_module = importlib.util.find_spec("dlbridge._cuda") is not None
    assert error.code in (("no_driver", "driver_too_old", "no_device") if has_module else ("no_staging", "no_driver"))


class Masked(CudaArray):
    __cuda_array_interface__ = CudaArray.__cuda_array_interface__ | {"mask": f4()}


class Dates(CudaArray):
    __cuda_array_interface__ = CudaArray.__cuda_array_interface__ | {"typestr": "<M8[s]"}


class Strings:
    __module__ = "tensorflow.python.framework.ops"
    dtype = types.SimpleNamespace(name="string")
    __dlpack__ = __dlpack_device__ = lambda self, **_: pytest.fail("TensorFlow ends the process here")


@pytest.mark.parametrize(
    ("kind", "reason"), [(Masked, "masked_array"), (Dates, "unsupported_dtype"), (Strings, "unsupported_dtype")]
)
@pytest.mark.parametrize("to", TARGETS)
def test_what_opening_refuses_is_a_plan(to: str, kind: type, reason: str) -> None:
    plan = dlbridge.explain(kind(), to)
    error = refusal(lambda: TARGETS[to](kind()))
    assert (plan.verdict, plan.reasons, plan.bytes, plan.path) == ("refuse", [reason], 0, [])
    assert (error.code, str(error)) == (reason, plan.message)


# ---- no side effects ----


@pytest.mark.parametrize("to", ["torch", "numpy", "dlpack"])
@pytest.mark.parametrize("name", PLANS)
def test_explain_leaks_nothing(name: str, to: str) -> None:
    x = PLANS[name][0]()
    before = sys.getrefcount(x)
    plan = dlbridge.explain(x, to=to, copy=True)
    assert sys.getrefcount(x) == before
    del plan
    assert_no_growth(lambda: dlbridge.explain(x, to=to, copy=True), 100)
    assert sys.getrefcount(x) == before


def test_explain_exports_no_tensor() -> None:
    t = torch.arange(6.0)
    for to in ("torch", "numpy", "dlpack"):
        for copy in (None, True, False):
            dlbridge.explain(t, to=to, copy=copy)
    assert t.untyped_storage().resizable()
    t.resize_(100)
    if TORCH_TIER == "direct":  # other tiers leave the storage resizable
        dlbridge.to_numpy(t)
        assert not t.untyped_storage().resizable()


@pytest.mark.parametrize("versioned", [True, False], ids=["versioned", "legacy"])
def test_explain_consumes_no_capsule(versioned: bool) -> None:
    crafted = Crafted(versioned=versioned)
    capsule = crafted.capsule()
    name = name_of(capsule)
    for to in ("torch", "numpy", "dlpack"):
        for copy in (None, True, False):
            dlbridge.explain(capsule, to=to, copy=copy)
    assert name_of(capsule) == name
    assert crafted.calls == 0
    assert dlbridge.to_torch(capsule).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_explain_releases_producer_capsules() -> None:
    crafted = Crafted()
    producer = Producer(lambda **_: crafted.capsule())
    assert dlbridge.explain(producer, to="torch").verdict == "share"
    assert len(producer.calls) == 1
    assert crafted.calls == 1


def test_explain_does_not_copy() -> None:
    a = np.zeros(20_000_000, np.float32)[::-1]

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1])

    before = resident()
    plan = dlbridge.explain(a, to="torch", copy=True)
    assert resident() - before < 1000
    assert plan.bytes == 80_000_000


# ---- arguments ----


def test_to_may_be_positional() -> None:
    assert dlbridge.explain(f8(), "torch").verdict == "share"


def test_a_target_is_required() -> None:
    with pytest.raises(TypeError, match="^to was not given; expected one of "):
        dlbridge.explain(f8())  # type: ignore[call-overload]


def test_dlpack_takes_no_dtype() -> None:
    with pytest.raises(TypeError, match="dtype"):
        dlbridge.explain(f8(), to="dlpack", dtype="float32")
    with pytest.raises(TypeError, match="dtype"):
        dlbridge.from_dlpack(f8(), dtype="float32")


def test_plans_are_immutable() -> None:
    with pytest.raises(TypeError):
        dlbridge.Plan()
    with pytest.raises(AttributeError):
        dlbridge.explain(f8(), to="torch").verdict = "copy"

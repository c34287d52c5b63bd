# SPDX-License-Identifier: Apache-2.0
"""Arrays of other frameworks as sources of to_torch, to_numpy and from_dlpack."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from capsules import name_of
from peers import aligned_array, jax, nanobind, tvm_ffi

import dlbridge
from support import TARGETS, assert_no_growth, refusal


def jax_array(dtype: str = "float32") -> Any:
    return jax().numpy.arange(5, dtype=dtype)


def tvm_tensor() -> Any:
    a = aligned_array(np.float32, 5)
    a[...] = np.arange(5)
    return tvm_ffi().from_dlpack(a)


def jax_address(x: Any) -> int:
    return x.unsafe_buffer_pointer()


def tvm_address(x: Any) -> int:
    return x.data_ptr()


def nanobind_address(x: Any) -> int:
    return nanobind().seen(x)["address"]


@dataclass(frozen=True)
class Producer:
    """One kind of array: 0, 1, 2, 3, 4 as float32."""

    name: str
    make: Callable[[], Any]
    address: Callable[[Any], int]
    read_only: bool = False


PRODUCERS = [
    Producer("jax", jax_array, jax_address, read_only=True),
    Producer("tvm_ffi", tvm_tensor, tvm_address),
    Producer("nanobind", lambda: nanobind().make(5), nanobind_address),
    Producer("nanobind_read_only", lambda: nanobind().make_read_only(5), nanobind_address, read_only=True),
    Producer("nanobind_numpy", lambda: nanobind().make_numpy(5), lambda x: x.ctypes.data),
    Producer("nanobind_torch", lambda: nanobind().make_torch(5), lambda x: x.data_ptr()),
]
producers = pytest.mark.parametrize("producer", PRODUCERS, ids=lambda producer: producer.name)


def values(x: Any) -> list[float]:
    return dlbridge.to_numpy(x).tolist()


def address_of(x: Any) -> int:
    return dlbridge.from_dlpack(x).data_ptr


@producers
@pytest.mark.parametrize("target", TARGETS)
def test_producers_share_memory(target: str, producer: Producer) -> None:
    source = producer.make()
    if producer.read_only and target == "torch":
        error = refusal(lambda: dlbridge.to_torch(source))
        assert error.code == "read_only"
        assert "copy=None" in str(error)
        return
    taken = TARGETS[target](source)
    assert values(taken) == [0, 1, 2, 3, 4]
    assert address_of(taken) == producer.address(source)
    if target != "torch":
        assert dlbridge.from_dlpack(taken).read_only == producer.read_only


@producers
def test_explain_of_producers(producer: Producer) -> None:
    source = producer.make()
    assert dlbridge.explain(source, "torch").verdict == ("refuse" if producer.read_only else "share")
    assert dlbridge.explain(source, "torch", copy=None).verdict == ("copy" if producer.read_only else "share")
    assert dlbridge.explain(source, "numpy").verdict == "share"
    assert dlbridge.explain(source, "dlpack").verdict == "share"


@producers
@pytest.mark.parametrize("target", TARGETS)
def test_copies_are_writable(target: str, producer: Producer) -> None:
    source = producer.make()
    copied = TARGETS[target](source, copy=True)
    assert address_of(copied) != producer.address(source)
    array = dlbridge.to_numpy(copied)
    array += 1
    assert values(source) == [0, 1, 2, 3, 4]
    assert values(copied) == [1, 2, 3, 4, 5]


@producers
@pytest.mark.parametrize("target", TARGETS)
def test_producers_may_go_first(target: str, producer: Producer) -> None:
    source = producer.make()
    taken = TARGETS[target](source, copy=None)
    del source
    gc.collect()
    assert values(taken) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["make", "make_read_only", "make_numpy", "make_torch"])
def test_nanobind_memory_is_released_once(kind: str) -> None:
    module = nanobind()
    source = getattr(module, kind)(5)
    taken = [dlbridge.from_dlpack(source), dlbridge.to_numpy(source)]
    taken += [np.asarray(taken[0]), memoryview(taken[0])]
    del source
    gc.collect()
    assert module.alive() == 1
    while taken:
        assert values(taken[0]) == [0, 1, 2, 3, 4]
        assert module.alive() == 1
        taken.pop()
    gc.collect()
    assert module.alive() == 0


@producers
def test_producers_leak_nothing(producer: Producer) -> None:
    source = producer.make()
    for convert in TARGETS.values():
        assert_no_growth(lambda c=convert: c(source, copy=None))


def test_jax_dtypes() -> None:
    x = jax_array("bfloat16")
    assert dlbridge.to_numpy(x).dtype == ml_dtypes.bfloat16
    assert dlbridge.to_torch(x, copy=None).dtype == torch.bfloat16
    assert dlbridge.from_dlpack(jax_array("float8_e5m2")).dtype == "float8_e5m2"
    assert dlbridge.to_torch(jax_array(), dtype="float64").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("target", TARGETS)
def test_jax_capsules_are_consumed(target: str) -> None:
    source = jax_array()
    capsule = source.__dlpack__()
    name = name_of(capsule)
    taken = TARGETS[target](capsule)
    assert name_of(capsule) == f"used_{name}"
    assert refusal(lambda: TARGETS[target](capsule)).code == "capsule_used"
    assert address_of(taken) == jax_address(source)
    assert values(taken) == [0, 1, 2, 3, 4]


def test_memory_through_every_framework() -> None:
    a = aligned_array(np.float32, 6)
    a[...] = np.arange(6)
    step: Any = dlbridge.to_torch(a)
    for take in (torch.from_dlpack, tvm_ffi().from_dlpack, nanobind().same, np.from_dlpack, np.asarray):
        step = take(dlbridge.from_dlpack(step))
    final = dlbridge.to_torch(step)
    assert final.data_ptr() == a.ctypes.data
    final[0] = 42
    assert a[0] == 42

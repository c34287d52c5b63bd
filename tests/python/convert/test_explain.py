"""What a Plan says: all reasons, the path, the message, and its side effects: none. shares_memory and build_info as
well. That what it says is what happens is in test_verdicts.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from capsules import Crafted, Producer, name_of

import dlbridge
from support import AS, TORCH_TIER, address, assert_no_growth, f4, f8, misaligned_array, read_only

# ---- reviewed by hand; bytes and paths are counted, not asked for ----


def pairs() -> torch.Tensor:
    return torch.zeros(3, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)


def windows() -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(np.arange(10.0), 4, writeable=True)


CONJ = torch.tensor([1 + 2j, 3 - 4j]).conj

# name: (source, to, request, verdict, reasons, bytes, path)
TABLE: dict[str, tuple[Callable[[], Any], str, dict, str, list[str], int, list[str]]] = {
    "array": (f8, "torch", {}, "share", [], 0, ["share"]),
    "array_to_numpy": (f8, "numpy", {}, "share", [], 0, ["share"]),
    "array_to_dlpack": (f8, "dlpack", {}, "share", [], 0, ["share"]),
    "tensor": (f4, "numpy", {}, "share", [], 0, ["share"]),
    "tensor_to_torch": (f4, "torch", {}, "share", [], 0, ["share"]),
    "handle": (lambda: dlbridge.from_dlpack(f8()), "torch", {}, "share", [], 0, ["share"]),
    "array_copied": (f8, "torch", {"copy": True}, "copy", [], 96, ["host copy"]),
    "array_copied_if_needed": (f8, "torch", {"copy": None}, "share", [], 0, ["share"]),
    "array_not_copied": (f8, "torch", {"copy": False}, "share", [], 0, ["share"]),
    "flipped": (lambda: f8()[::-1], "torch", {}, "refuse", ["negative_stride"], 96, []),
    "flipped_not_copied": (lambda: f8()[::-1], "torch", {"copy": False}, "refuse", ["negative_stride"], 96, []),
    "flipped_copied": (lambda: f8()[::-1], "torch", {"copy": None}, "copy", ["negative_stride"], 96, ["host copy"]),
    "flipped_part": (lambda: f8()[::-2, 1:], "torch", {"copy": None}, "copy", ["negative_stride"], 48, ["host copy"]),
    "flipped_to_numpy": (lambda: f8()[::-1], "numpy", {}, "share", [], 0, ["share"]),
    "flipped_to_dlpack": (lambda: f8()[::-1], "dlpack", {}, "share", [], 0, ["share"]),
    "flipped_size_1": (lambda: f8()[:1][::-1], "torch", {}, "share", [], 0, ["share"]),
    "flipped_cast": (
        lambda: f8()[::-1], "torch", {"dtype": "float32"}, "cast", [], 48, ["cast to float32"]),
    "cast": (f8, "numpy", {"dtype": "int16"}, "cast", [], 24, ["cast to int16"]),
    "cast_not_copied": (f8, "numpy", {"dtype": "int16", "copy": False}, "refuse", ["copy_forbidden"], 24, []),
    "cast_to_same": (f8, "torch", {"dtype": "float64"}, "share", [], 0, ["share"]),
    "cast_to_same_copied": (f8, "torch", {"dtype": "float64", "copy": True}, "copy", [], 96, ["host copy"]),
    "cast_tensor": (f4, "numpy", {"dtype": "bfloat16"}, "cast", [], 24, ["cast to bfloat16"]),
    "same_device": (f8, "torch", {"device": "cpu"}, "share", [], 0, ["share"]),
    "read_only": (lambda: read_only(f8()), "torch", {}, "refuse", ["read_only"], 96, []),
    "read_only_to_numpy": (lambda: read_only(f8()), "numpy", {}, "share", [], 0, ["share"]),
    "read_only_copied": (lambda: read_only(f8()), "torch", {"copy": None}, "copy", ["read_only"], 96, ["host copy"]),
    "read_only_flipped": (
        lambda: read_only(f8())[::-1], "torch", {}, "refuse", ["negative_stride", "read_only"], 96, []),
    "windows": (windows, "torch", {}, "refuse", ["overlap"], 224, []),
    "windows_copied": (windows, "torch", {"copy": None}, "copy", ["overlap"], 224, ["host copy"]),
    "windows_to_numpy": (windows, "numpy", {}, "share", [], 0, ["share"]),
    "zero_strides": (lambda: AS(np.ones(4), (3, 4), (0, 8)), "torch", {}, "share", [], 0, ["share"]),
    "expanded": (lambda: torch.ones(4).expand(3, 4), "numpy", {}, "share", [], 0, ["share"]),
    "misaligned": (misaligned_array, "torch", {}, "refuse", ["misaligned"], 24, []),
    "misaligned_to_numpy": (misaligned_array, "numpy", {}, "share", [], 0, ["share"]),
    "misaligned_flipped": (
        lambda: misaligned_array()[::-1], "torch", {"copy": True}, "copy", ["negative_stride", "misaligned"], 24,
        ["host copy"]),
    "swapped": (lambda: f8().astype(">f8"), "numpy", {}, "refuse", ["byte_order"], 96, []),
    "swapped_copied": (lambda: f8().astype(">f8"), "numpy", {"copy": None}, "copy", ["byte_order"], 96, ["host copy"]),
    "swapped_cast": (lambda: f8().astype(">f8"), "torch", {"dtype": "float16"}, "cast", [], 24, ["cast to float16"]),
    "odd_field": (
        lambda: np.zeros(4, "i1,f4")["f1"], "dlpack", {}, "refuse", ["stride_not_multiple"], 16, []),
    "empty": (lambda: np.empty((3, 0))[::-1], "torch", {}, "share", [], 0, ["share"]),
    "empty_copied": (lambda: np.empty((3, 0)), "torch", {"copy": True}, "copy", [], 0, ["host copy"]),
    "scalar": (lambda: np.array(1.0), "torch", {"copy": True}, "copy", [], 8, ["host copy"]),
    "conj": (CONJ, "numpy", {}, "refuse", ["conj_bit"], 16, []),
    "conj_copied": (CONJ, "numpy", {"copy": None}, "copy", ["conj_bit"], 16, ["host copy"]),
    "conj_cast": (CONJ, "numpy", {"dtype": "complex128"}, "cast", [], 32, ["cast to complex128"]),
    "neg": (lambda: CONJ().imag, "numpy", {}, "refuse", ["neg_bit"], 8, []),
    "zero": (lambda: torch._efficientzerotensor(3), "numpy", {}, "refuse", ["zero_tensor"], 12, []),
    "copy_on_write": (lambda: torch._lazy_clone(f4()), "numpy", {}, "refuse", ["copy_on_write"], 48, []),
    "requires_grad": (lambda: f4().requires_grad_(), "numpy", {}, "refuse", ["requires_grad"], 48, []),
    "requires_grad_copied": (
        lambda: f4().requires_grad_(), "numpy", {"copy": True}, "refuse", ["requires_grad"], 48, []),
    "complex32": (
        lambda: torch.zeros(3, dtype=torch.complex32), "numpy", {}, "refuse", ["unsupported_dtype"], 12, []),
    "complex32_cast": (
        lambda: torch.zeros(3, dtype=torch.complex32), "numpy", {"dtype": "complex64"}, "cast", [], 24,
        ["cast to complex64"]),
    "complex32_to_torch": (lambda: torch.zeros(3, dtype=torch.complex32), "torch", {}, "share", [], 0, ["share"]),
    "int4": (lambda: np.zeros(3, ml_dtypes.int4), "torch", {}, "refuse", ["unsupported_dtype"], 3, []),
    "int4_cast": (lambda: np.zeros(3, ml_dtypes.int4), "torch", {"dtype": "int8"}, "cast", [], 3, ["cast to int8"]),
    "bfloat16": (lambda: np.zeros(3, ml_dtypes.bfloat16), "torch", {}, "share", [], 0, ["share"]),
    "float4_pairs": (pairs, "numpy", {}, "refuse", ["float4_packing"], 12, []),
    "float4_pairs_copied": (pairs, "numpy", {"copy": None}, "copy", ["float4_packing"], 12, ["host copy"]),
    "float4_pairs_to_dlpack": (pairs, "dlpack", {}, "share", [], 0, ["share"]),
    "float4_padded": (
        lambda: np.zeros((3, 4), ml_dtypes.float4_e2m1fn), "torch", {"copy": True}, "copy", ["float4_packing"], 6,
        ["host copy"]),
    "rank_65": (lambda: torch.zeros((1,) * 65), "numpy", {}, "refuse", ["too_many_dimensions"], 4, []),
    "cuda_device": (f8, "torch", {"device": "cuda:0"}, "refuse", ["no_staging"], 96, []),
    "cuda_device_for_numpy": (
        f8, "numpy", {"device": "cuda:0"}, "refuse", ["unsupported_device", "no_staging"], 96, []),
    "cuda_device_not_copied": (
        f8, "torch", {"device": "cuda:0", "copy": False}, "refuse", ["copy_forbidden", "no_staging"], 96, []),
    "cuda_memory": (
        lambda: Crafted(device=(2, 0)).capsule(), "numpy", {}, "refuse", ["device_not_named"], 24, []),
    "cuda_memory_staged": (
        lambda: Crafted(device=(2, 0)).capsule(), "numpy", {"device": "cpu"}, "refuse", ["no_staging"], 24, []),
    "cuda_memory_to_dlpack": (lambda: Crafted(device=(2, 0)).capsule(), "dlpack", {}, "share", [], 0, ["share"]),
    "pinned_memory": (lambda: Crafted(device=(3, 0)).capsule(), "numpy", {}, "share", [], 0, ["share"]),
    "legacy_capsule": (lambda: f8().__dlpack__(), "torch", {}, "share", [], 0, ["share"]),
    "large_flipped": (
        lambda: np.zeros(1_000_001, "f4")[::-1], "torch", {}, "refuse", ["negative_stride"], 4_000_004, []),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_all_reasons_and_the_path(name: str) -> None:
    make, to, request, verdict, reasons, nbytes, path = TABLE[name]
    plan = dlbridge.explain(make(), to=to, **request)
    assert (plan.verdict, plan.reasons, plan.bytes, plan.path) == (verdict, reasons, nbytes, path)


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


# ---- no side effects ----


@pytest.mark.parametrize("to", ["torch", "numpy", "dlpack"])
@pytest.mark.parametrize("name", TABLE)
def test_explain_takes_no_reference_and_leaks_nothing(name: str, to: str) -> None:
    x = TABLE[name][0]()
    before = sys.getrefcount(x)
    plan = dlbridge.explain(x, to=to, copy=True)
    assert sys.getrefcount(x) == before
    del plan
    assert_no_growth(lambda: dlbridge.explain(x, to=to, copy=True), 100)
    assert sys.getrefcount(x) == before


def test_explain_does_not_export_a_tensor() -> None:
    t = torch.arange(6.0)
    for to in ("torch", "numpy", "dlpack"):
        for copy in (None, True, False):
            dlbridge.explain(t, to=to, copy=copy)
    assert t.untyped_storage().resizable()
    t.resize_(100)
    if TORCH_TIER == "direct":  # where an export can be told by it
        dlbridge.to_numpy(t)
        assert not t.untyped_storage().resizable()


def test_explain_does_not_materialise_a_copy_on_write_tensor() -> None:
    lazy = torch._lazy_clone(torch.arange(6.0))
    dlbridge.explain(lazy, to="numpy", copy=True)
    assert torch._C._is_cow_tensor(lazy)


@pytest.mark.parametrize("versioned", [True, False], ids=["versioned", "legacy"])
def test_explain_does_not_consume_a_capsule(versioned: bool) -> None:
    crafted = Crafted(versioned=versioned)
    capsule = crafted.capsule()
    name = name_of(capsule)
    for to in ("torch", "numpy", "dlpack"):
        for copy in (None, True, False):
            dlbridge.explain(capsule, to=to, copy=copy)
    assert name_of(capsule) == name
    assert crafted.calls == 0
    assert dlbridge.to_torch(capsule).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_explain_gives_a_producers_capsule_back() -> None:
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


@pytest.mark.parametrize("arguments", [{}, {"to": "jax"}, {"to": None}, {"to": 3}, {"to": torch}], ids=str)
def test_an_unknown_target_is_refused(arguments: dict) -> None:
    with pytest.raises((TypeError, ValueError), match="to"):
        dlbridge.explain(f8(), **arguments)


def test_dtype_is_not_taken_for_dlpack() -> None:
    with pytest.raises(TypeError, match="dtype"):
        dlbridge.explain(f8(), to="dlpack", dtype="float32")
    with pytest.raises(TypeError, match="dtype"):
        dlbridge.from_dlpack(f8(), dtype="float32")


def test_plans_cannot_be_made_or_changed() -> None:
    with pytest.raises(TypeError):
        dlbridge.Plan()
    with pytest.raises(AttributeError):
        dlbridge.explain(f8(), to="torch").verdict = "copy"


# ---- shares_memory ----


def test_shares_memory_across_frameworks() -> None:
    a = np.arange(24.0).reshape(4, 6)
    t = dlbridge.to_torch(a)
    handle = dlbridge.from_dlpack(t)
    everything = [a, t, handle, dlbridge.to_numpy(t), a.T, t.t(), a[::-1], a.view("u1")]
    for x in everything:
        for y in everything:
            assert dlbridge.shares_memory(x, y) is True
    for x in everything:
        for other in (np.arange(24.0), torch.arange(24.0), dlbridge.from_dlpack(a.copy())):
            assert dlbridge.shares_memory(x, other) is False
            assert dlbridge.shares_memory(other, x) is False


BASE = np.arange(120, dtype=np.float32).reshape(10, 12)
VIEW_PAIRS = {
    "interleaved_columns": (BASE[:, ::2], BASE[:, 1::2], False),
    "interleaved_rows": (BASE[::2], BASE[1::2], False),
    "same_columns": (BASE[:, ::2], BASE[:, ::4], True),
    "steps_that_meet": (BASE.reshape(-1)[::3], BASE.reshape(-1)[1::2], True),
    "steps_that_miss": (BASE.reshape(-1)[::4], BASE.reshape(-1)[2::4], False),
    "halves": (BASE[:5], BASE[5:], False),
    "overlapping_slices": (BASE[:6], BASE[5:], True),
    "adjacent": (BASE.reshape(-1)[:60], BASE.reshape(-1)[60:], False),
    "one_element": (BASE.reshape(-1)[:61], BASE.reshape(-1)[60:], True),
    "blocks": (BASE[:5, :6], BASE[5:, 6:], False),
    "blocks_side_by_side": (BASE[:, :6], BASE[:, 6:], False),
    "crossing": (BASE[3:4], BASE[:, 5:6], True),
    "flipped": (BASE[::-1, ::-2], BASE[:, ::2], False),
    "flipped_that_meet": (BASE[::-1, ::-2], BASE[:, 1::2], True),
    "empty": (BASE[:0], BASE, False),
    "bytes_of_an_element": (BASE.view("u1")[:, 1::4], BASE.view("u1")[:, 2::4], False),
    "byte_and_element": (BASE.view("u1")[:, 1:2], BASE[:, :1], True),
    "byte_and_other_element": (BASE.view("u1")[:, 1:2], BASE[:, 1:2], False),
    "transposed": (BASE.T[::2], BASE[:, 1::2], False),
    "broadcast": (np.broadcast_to(BASE[0, :1], (3, 3)), BASE[:, 1:], False),
    "broadcast_that_meets": (np.broadcast_to(BASE[0, :1], (3, 3)), BASE[:, :1], True),
}


@pytest.mark.parametrize("name", VIEW_PAIRS)
def test_shares_memory_of_views(name: str) -> None:
    left, right, expected = VIEW_PAIRS[name]
    assert np.shares_memory(left, right) is expected  # the table is right
    assert dlbridge.shares_memory(left, right) is expected
    assert dlbridge.shares_memory(right, left) is expected
    assert dlbridge.shares_memory(dlbridge.from_dlpack(left), right) is expected
    if dlbridge.explain(left, to="torch").verdict == "share":
        assert dlbridge.shares_memory(dlbridge.to_torch(left), right) is expected


def test_shares_memory_agrees_with_numpy_on_random_views() -> None:
    rng = np.random.default_rng(3)
    memory = np.arange(64, dtype=np.int16)
    answers = set()
    for _ in range(2000):
        views = []
        for _ in range(2):
            shape = rng.integers(1, 5, 2)
            strides = rng.integers(-6, 7, 2)
            reach = [int(s * (e - 1)) for s, e in zip(strides, shape, strict=True)]
            low, high = sum(min(r, 0) for r in reach), sum(max(r, 0) for r in reach)
            start = int(rng.integers(-low, 64 - high))
            views.append(AS(memory[start:], shape, strides * 2))
        expected = np.shares_memory(*views)
        assert dlbridge.shares_memory(*views) == expected
        answers.add(expected)
    assert answers == {True, False}


def test_shares_memory_does_not_consume_or_export() -> None:
    t = torch.arange(6.0)
    capsule = f8().__dlpack__()
    assert dlbridge.shares_memory(t, capsule) is False
    assert dlbridge.shares_memory(capsule, capsule) is True
    assert name_of(capsule) == "dltensor"
    assert t.untyped_storage().resizable()


def test_shares_memory_of_wrong_arguments() -> None:
    with pytest.raises(TypeError):
        dlbridge.shares_memory(f8())
    with pytest.raises(TypeError):
        dlbridge.shares_memory(f8(), f8(), f8())
    with pytest.raises(TypeError):
        dlbridge.shares_memory(f8(), [1.0])


RECORDS = np.zeros(8, "i1,f4")
OBJECTS = np.array([None] * 8)
INDESCRIBABLE = {
    "fields_side_by_side": (RECORDS["f0"], RECORDS["f1"], False),
    "odd_field_and_itself": (RECORDS["f1"], RECORDS["f1"][3:], True),
    "odd_field_last_element": (RECORDS["f1"][7:], RECORDS["f1"], True),
    "records_and_field": (RECORDS, RECORDS["f0"], True),
    "objects_that_meet": (OBJECTS[:5], OBJECTS[4:], True),
    "objects_that_miss": (OBJECTS[:4], OBJECTS[4:], False),
    "dates_that_meet": (np.zeros(8, "M8[s]").view(np.int64), np.arange(3), False),
}


@pytest.mark.parametrize("name", INDESCRIBABLE)
def test_shares_memory_of_what_dlpack_cannot_say_is_true_or_refused(name: str) -> None:
    left, right, expected = INDESCRIBABLE[name]
    assert np.shares_memory(left, right) is expected
    for x, y in ((left, right), (right, left)):
        try:
            answer = dlbridge.shares_memory(x, y)
        except dlbridge.ExchangeError:
            continue
        assert answer is expected


def test_shares_memory_of_a_sparse_tensor_with_its_values_is_true_or_refused() -> None:
    sparse = torch.eye(3).to_sparse()
    try:
        assert dlbridge.shares_memory(sparse, sparse._values()) is True
    except dlbridge.ExchangeError as error:
        assert error.code == "sparse_layout"


# ---- build_info ----


def test_build_info() -> None:
    info = dlbridge.build_info()
    assert {"version", "numpy", "torch", "torch_tier", "cuda", "dlpack"} <= set(info)
    assert info["version"] == dlbridge.__version__
    assert info["numpy"] == np.__version__
    assert info["torch"] == torch.__version__
    assert info["torch_tier"] in ("direct", "stable", "exchange", "protocol")
    assert info["cuda"] and isinstance(info["cuda"], str)
    assert tuple(map(int, info["dlpack"].split("."))) >= (1, 3)


def test_public_names() -> None:
    names = ["to_torch", "to_numpy", "from_dlpack", "explain", "shares_memory", "build_info", "Tensor", "Plan"]
    for name in [*names, "ExchangeError"]:
        assert hasattr(dlbridge, name)
        assert name in dlbridge.__all__
        assert getattr(dlbridge, name).__doc__

# SPDX-License-Identifier: Apache-2.0
"""shares_memory: across frameworks, views of every kind, and what DLPack cannot describe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from capsules import name_of

import dlbridge
from support import AS, f8


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


def test_shares_memory_of_random_views() -> None:
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


def test_shares_memory_consumes_nothing() -> None:
    t = torch.arange(6.0)
    capsule = f8().__dlpack__()
    assert dlbridge.shares_memory(t, capsule) is False
    assert dlbridge.shares_memory(capsule, capsule) is True
    assert name_of(capsule) == "dltensor"
    assert t.untyped_storage().resizable()


def test_shares_memory_refuses_wrong_arguments() -> None:
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
def test_shares_memory_beyond_dlpack(name: str) -> None:
    left, right, expected = INDESCRIBABLE[name]
    assert np.shares_memory(left, right) is expected
    for x, y in ((left, right), (right, left)):
        try:
            answer = dlbridge.shares_memory(x, y)
        except dlbridge.ExchangeError:
            continue
        assert answer is expected


def test_shares_memory_of_sparse_tensors() -> None:
    sparse = torch.eye(3).to_sparse()
    try:
        assert dlbridge.shares_memory(sparse, sparse._values()) is True
    except dlbridge.ExchangeError as error:
        assert error.code == "sparse_layout"

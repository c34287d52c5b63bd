# SPDX-License-Identifier: Apache-2.0
"""What to_torch, to_numpy and from_dlpack share: dtypes, layouts, the original storage, references."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from dtypes import random_array
from hypothesis import given, settings
from hypothesis import strategies as st

import dlbridge
from support import (
    AS,
    DTYPE_PAIRS,
    TARGETS,
    TORCH_PAIRS,
    address,
    assert_original_storage,
    direct_tier,
    element_strides,
    random_tensor,
    raw,
    refusal,
)

# ---- dtypes ----


@pytest.mark.parametrize("name", DTYPE_PAIRS)
def test_dtypes_keep_their_name(name: str) -> None:
    """That the memory is shared is in documents/test_verdicts.py."""
    numpy_dtype, torch_dtype = DTYPE_PAIRS[name]
    a = random_array(numpy_dtype)
    t = dlbridge.to_torch(a)
    assert (t.dtype, t.stride(), raw(t)) == (torch_dtype, element_strides(a), raw(a))
    if name in TORCH_PAIRS:
        back = dlbridge.to_numpy(random_tensor(torch_dtype))
        assert (back.dtype, back.dtype.str) == (np.dtype(numpy_dtype), np.dtype(numpy_dtype).str)
        for handle in (dlbridge.from_dlpack(a), dlbridge.from_dlpack(t)):
            assert (handle.dtype, handle.numpy().dtype, handle.torch().dtype) == (name, a.dtype, torch_dtype)


@pytest.mark.parametrize("name", DTYPE_PAIRS)
def test_writes_go_through(name: str) -> None:
    numpy_dtype, _ = DTYPE_PAIRS[name]
    a = np.zeros((3, 4), numpy_dtype)
    t = dlbridge.to_torch(a)
    back = dlbridge.to_numpy(t)
    a.view(np.uint8)[1] = 1
    assert raw(t) == raw(a)
    assert raw(back) == raw(a)
    t.view(torch.uint8)[2].fill_(1)
    assert a.view(np.uint8)[2].tolist() == [1] * (4 * a.itemsize)
    back.view(np.uint8)[0] = 1
    assert bytes(t.view(torch.uint8)[0].tolist()) == b"\1" * (4 * a.itemsize)


# ---- layouts, from NumPy ----


def structured(item: str, offset: int, size: int) -> np.ndarray:
    dtype = np.dtype({"names": ["pad", "field"], "formats": ["u1", item], "offsets": [0, offset], "itemsize": size})
    array = np.zeros((3, 4), dtype)
    array["field"] = np.arange(12).reshape(3, 4)
    return array["field"]


def base(count: int = 120, dtype: str = "f4") -> np.ndarray:
    return np.arange(count, dtype=dtype)


class Subclass(np.ndarray):
    """A plain subclass: taken as what it holds."""


# Beyond what array_views draws.
ARRAY_LAYOUTS = {
    "f_order": lambda: np.asfortranarray(base(24).reshape(2, 3, 4)),
    "broadcast_writable": lambda: AS(base(4), (3, 4), (0, 4)),
    "broadcast_everything": lambda: AS(base(1), (3, 4, 5), (0, 0, 0)),
    "zero_stride_inside": lambda: AS(base(8), (2, 3, 4), (16, 0, 4)),
    "scalar": lambda: np.array(3.5, "f4"),
    "field": lambda: structured("f4", 4, 8),
    "field_wide_stride": lambda: structured("i2", 2, 10),
    "field_of_bytes": lambda: structured("u1", 3, 7),
    "field_complex": lambda: structured("c8", 8, 24),
    "size1_leading_negative": lambda: AS(base(4), (1, 4), (-12, 4)),
    "size1_leading_odd": lambda: AS(base(4), (1, 4), (3, 4)),
    "size1_trailing_odd": lambda: AS(base(4), (4, 1), (4, 7)),
    "size1_trailing_negative_odd": lambda: AS(base(4), (4, 1), (4, -5)),
    "size1_between": lambda: AS(base(12), (3, 1, 4), (16, -7, 4)),
    "size1_only": lambda: AS(base(1), (1,), (-1,)),
    "size1_all": lambda: AS(base(1), (1, 1, 1), (5, -9, 0)),
    "huge_stride_of_one": lambda: AS(base(4), (1, 4), (2**62, 4)),
    "size1_reversed": lambda: base(4)[:1][::-1],
    "max_rank_64": lambda: base(16).reshape((1,) * 60 + (2,) * 4),
    "max_rank_64_transposed": lambda: base(16).reshape((1,) * 60 + (2,) * 4).T,
    "rank_9": lambda: base(512).reshape((2,) * 9),
    "subclass": lambda: base(6).view(Subclass),
    "recarray_field": lambda: structured("f4", 4, 8).view(np.recarray),
}

EMPTY_LAYOUTS = {
    "one_dimension": lambda: np.empty((0,), "f4"),
    "leading": lambda: np.empty((0, 3), "f4"),
    "trailing": lambda: np.empty((3, 0), "f4"),
    "between": lambda: np.empty((2, 0, 3), "f4"),
    "two": lambda: np.empty((0, 3, 0), "f4"),
    "f_order": lambda: np.empty((3, 0, 2), "f4", order="F"),
    "odd_strides": lambda: AS(base(4), (3, 0), (7, 13)),
    "negative_strides": lambda: AS(base(4), (0, 3), (-4, -8)),
    "negative_odd_strides": lambda: AS(base(4), (3, 0, 2), (-1, -3, -5)),
    "huge_strides": lambda: AS(base(4), (0, 3), (2**61, 2**61)),
    "huge_extent": lambda: AS(base(4), (0, 2**40), (4, 4)),
    "reversed": lambda: base(0)[::-1],
    "slice": lambda: base(10)[4:4],
}


def assert_same_strides(x: Any, y: Any) -> None:
    """But for dimensions of one element, whose strides mean nothing."""
    for extent, found, wanted in zip(x.shape, element_strides(x), element_strides(y), strict=True):
        assert extent == 1 or found == wanted


def check_shared_view(t: torch.Tensor, a: np.ndarray) -> None:
    assert tuple(t.shape) == a.shape
    assert address(t) == address(a)
    assert_same_strides(t, a)
    assert t.tolist() == a.tolist()
    assert t.storage_offset() == 0


@pytest.mark.parametrize("layout", ARRAY_LAYOUTS)
def test_array_layouts_are_shared(layout: str) -> None:
    a = ARRAY_LAYOUTS[layout]()
    t, handle = dlbridge.to_torch(a), dlbridge.from_dlpack(a)
    check_shared_view(t, a)
    assert all(stride >= 0 for stride in t.stride())
    if layout.startswith("size1"):  # strides that mean nothing are canonical in torch
        assert t.is_contiguous() and t.stride() == torch.empty(a.shape).stride()
    assert (handle.shape, address(handle)) == (a.shape, address(a))
    for b in (dlbridge.to_numpy(a), handle.numpy(), dlbridge.to_numpy(t)):
        assert type(b) is np.ndarray
        assert b is not a
        assert (b.shape, address(b), b.tolist()) == (a.shape, address(a), a.tolist())
    if a.size == 1 or not (np.asarray(a.strides) == 0).any():
        t.fill_(0)
        t += 5
        assert (np.asarray(a) == 5).all()


@pytest.mark.parametrize("layout", EMPTY_LAYOUTS)
def test_empty_arrays_to_torch(layout: str) -> None:
    a = EMPTY_LAYOUTS[layout]()
    t = dlbridge.to_torch(a)
    assert tuple(t.shape) == a.shape
    assert t.dtype == torch.float32
    assert t.numel() == 0
    assert t.is_contiguous()
    assert t.sum().item() == 0
    assert dlbridge.to_numpy(t).shape == a.shape
    assert dlbridge.to_numpy(a).shape == a.shape
    assert dlbridge.from_dlpack(a).shape == a.shape


def test_memmap_is_shared(tmp_path) -> None:
    path = tmp_path / "data.bin"
    mapped = np.memmap(path, np.float32, "w+", shape=(3, 4))
    mapped[...] = 1
    t = dlbridge.to_torch(mapped)
    assert address(t) == address(mapped)
    t[1, 2] = 42
    mapped.flush()
    assert np.fromfile(path, np.float32).reshape(3, 4)[1, 2] == 42
    del mapped
    gc.collect()
    t[0, 0] = 43  # the mapping lives as long as the tensor
    assert t[0, 0] == 43


# ---- layouts, from torch ----


def tensor_base(count: int = 120) -> torch.Tensor:
    return torch.arange(count, dtype=torch.float32)


TENSOR_LAYOUTS = {
    "channels_last": lambda: tensor_base(120).reshape(1, 2, 6, 10).to(memory_format=torch.channels_last),
    "column": lambda: tensor_base(20).reshape(4, 5)[:, 2],
    "diagonal": lambda: tensor_base(16).reshape(4, 4).diagonal(),
    "scalar": lambda: torch.tensor(2.5),
    "selected_scalar": lambda: tensor_base(5)[3],
    "view_as_real": lambda: torch.view_as_real(torch.arange(4).to(torch.complex64) * (1 + 2j)),
    "real_part": lambda: (torch.arange(4).to(torch.complex64) * (1 + 2j)).real,
    "size1_odd_stride": lambda: tensor_base(12).as_strided((1, 4), (7, 1)),
    "size1_zero_stride": lambda: tensor_base(12).as_strided((4, 1), (3, 0)),
    "empty": lambda: torch.empty(3, 0, 2),
    "empty_sliced": lambda: tensor_base(10)[4:4],
    "max_rank_64": lambda: tensor_base(16).reshape((1,) * 60 + (2,) * 4),
    "rank_9": lambda: tensor_base(512).reshape((2,) * 9),
    "parameter_detached": lambda: torch.nn.Parameter(tensor_base(4)).detach(),
    "frozen_parameter": lambda: torch.nn.Parameter(tensor_base(4), requires_grad=False),
}


@pytest.mark.parametrize("layout", TENSOR_LAYOUTS)
def test_tensor_layouts_are_shared(layout: str) -> None:
    t = TENSOR_LAYOUTS[layout]()
    a = dlbridge.to_numpy(t)
    assert (a.shape, a.tolist()) == (tuple(t.shape), t.tolist())
    for other in (dlbridge.to_torch(t), dlbridge.from_dlpack(t).torch(), dlbridge.to_torch(a)):
        assert type(other) is torch.Tensor
        assert other is not t
        assert (other.shape, other.tolist()) == (t.shape, t.tolist())
        if t.numel():
            assert_original_storage(other, t)
            assert other.data_ptr() == t.data_ptr()
    if t.numel():
        assert address(a) == address(t)
        assert_same_strides(a, t)
        assert a.flags.writeable
        a[...] = -3
        assert (t == -3).all()


# ---- properties ----

NUMPY_TYPES = st.sampled_from(["u1", "i2", "f4", "f8", "c16"])


@st.composite
def array_views(draw, steps: tuple[int, ...] = (1, 2, 3, -1, -2)) -> np.ndarray:
    """A sliced and permuted view of a fresh array of up to four dimensions."""
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    array = np.arange(int(np.prod(shape))).astype(draw(NUMPY_TYPES)).reshape(shape)
    slices = []
    for extent in shape:
        start, stop = sorted((draw(st.integers(0, extent)), draw(st.integers(0, extent))))
        step = draw(st.sampled_from(steps))
        chosen = slice(start, stop, step) if step > 0 else slice(stop - 1, start - 1 if start else None, step)
        slices.append(chosen if stop > start else slice(start, start))
    return array[(*slices, ...)].transpose(draw(st.permutations(range(array.ndim))))


@settings(max_examples=300, deadline=None)
@given(array_views())
def test_any_array_view(a: np.ndarray) -> None:
    negative = a.size > 0 and any(e > 1 and s < 0 for e, s in zip(a.shape, a.strides, strict=True))
    if negative:
        assert refusal(lambda: dlbridge.to_torch(a)).code == "negative_stride"
        t = dlbridge.to_torch(a, copy=None)
        assert address(t) != address(a)
    else:
        t = dlbridge.to_torch(a)
        if a.size:
            check_shared_view(t, a)
    assert tuple(t.shape) == a.shape
    assert t.tolist() == a.tolist()
    b = dlbridge.to_numpy(a)
    assert (b.shape, b.tolist(), b.dtype) == (a.shape, a.tolist(), a.dtype)
    if a.size:
        assert address(b) == address(a)
        assert_same_strides(b, a)


@settings(max_examples=300, deadline=None)
@given(array_views(steps=(1, 2, 3)))
def test_any_tensor_view(a: np.ndarray) -> None:
    owned = torch.arange(700, dtype=torch.int32)
    size = max(a.size, 1)
    t = owned.as_strided(a.shape, element_strides(a), storage_offset=size % 5)
    b = dlbridge.to_numpy(t)
    assert (b.shape, b.tolist()) == (tuple(t.shape), t.tolist())
    if t.numel():
        assert address(b) == address(t)
        assert_same_strides(b, t)
    again = dlbridge.to_torch(b)
    if t.numel():
        assert_original_storage(again, owned)
    assert again.tolist() == t.tolist()


# ---- identity and ways back ----


def numpy_views(a: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "itself": a,
        "slice": a[1:],
        "step": a[::2, 1::2],
        "transpose": a.T,
        "reshape": a.reshape(-1),
        "element": a[2, 3, ...],
        "double_flip": a[::-1][::-1],
        "view_of_view": a[1:].T[1:].T,
        "other_dtype": a.view(np.int32),
        "bytes": a.view(np.uint8),
        "subclass": a.view(Subclass),
        "handle": dlbridge.from_dlpack(a),
        "neutral_numpy": dlbridge.from_dlpack(a).numpy(),
        "array_again": dlbridge.to_numpy(a),
    }


@pytest.mark.parametrize("view", list(numpy_views(np.zeros((4, 6), "f4"))))
def test_original_storage_through_numpy(view: str) -> None:
    t = torch.arange(24.0).reshape(4, 6)
    t.untyped_storage()  # the storage's Python object exists beforehand
    viewed = numpy_views(dlbridge.to_numpy(t))[view]
    again = dlbridge.to_torch(viewed)
    assert_original_storage(again, t)
    assert address(again) == address(viewed)
    assert raw(again) == raw(viewed)


def test_original_storage_outlives_its_tensor() -> None:
    t = torch.arange(24.0)
    a = dlbridge.to_numpy(t)
    del t
    gc.collect()
    again = dlbridge.to_torch(a)
    assert address(again) == address(a)
    assert again.tolist() == list(range(24))
    del a
    gc.collect()
    assert again.sum().item() == sum(range(24))


@pytest.mark.parametrize(
    "convert, make",
    [
        pytest.param(dlbridge.to_torch, lambda: torch.arange(6.0), id="to_torch"),
        pytest.param(dlbridge.to_numpy, lambda: np.arange(6.0), id="to_numpy"),
        pytest.param(dlbridge.from_dlpack, lambda: dlbridge.from_dlpack(np.arange(6.0)), id="from_dlpack"),
    ],
)
def test_same_kind_gives_new_object(convert, make) -> None:
    x = make()
    y = convert(x)
    assert y is not x
    assert type(y) is type(x)
    assert address(y) == address(x)


# ---- references ----


@pytest.mark.rule(103)
@pytest.mark.parametrize("target", TARGETS)
def test_array_gains_one_reference(target: str) -> None:
    a = np.arange(6.0)
    before = sys.getrefcount(a)
    results = [TARGETS[target](a)]
    assert sys.getrefcount(a) == before + 1
    results.append(TARGETS[target](a))
    assert sys.getrefcount(a) == before + 2
    derived = results[0][1:] if target != "dlpack" else results[0].numpy()
    assert sys.getrefcount(a) == before + 2
    results.clear()
    assert sys.getrefcount(a) == before + 1
    del derived
    assert sys.getrefcount(a) == before


@pytest.mark.parametrize("target", TARGETS)
def test_tensor_object_is_not_held(target: str) -> None:
    t = torch.arange(6.0)
    before = sys.getrefcount(t)
    result = TARGETS[target](t)
    assert sys.getrefcount(t) == before
    watch = weakref.ref(t)
    del t
    gc.collect()
    assert watch() is None
    values = result.numpy() if target == "dlpack" else result
    assert values.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.rule(102)
def test_shared_array_cannot_resize() -> None:
    a = np.arange(6.0)
    a.resize((8,))  # possible while alone
    t = dlbridge.to_torch(a)
    with pytest.raises(ValueError, match="resize"):
        a.resize((100000,))
    assert t.tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
    del t
    a.resize((10,))
    assert a.shape == (10,)


@pytest.mark.rule(102)
@direct_tier
@pytest.mark.parametrize("target", ["numpy", "dlpack"])
def test_shared_tensor_cannot_resize(target: str) -> None:
    t = torch.arange(6.0)
    t.resize_(8)  # possible while alone
    shared = TARGETS[target](t)
    with pytest.raises(RuntimeError, match="resiz"):
        t.resize_(100000)
    with pytest.raises(RuntimeError, match="resiz"):
        t.untyped_storage().resize_(0)
    assert address(shared) == address(t)


def test_tensor_over_array_cannot_resize() -> None:
    t = dlbridge.to_torch(np.arange(6.0))
    with pytest.raises(RuntimeError, match="resiz"):
        t.resize_(100000)
    assert t.untyped_storage().nbytes() == 48

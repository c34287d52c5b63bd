# SPDX-License-Identifier: Apache-2.0
"""order="C" names the layout of the result: a copy where x is not row-major, in one pass with a cast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import dlbridge

Conversion = Callable[..., Any]


def from_dlpack(x: object, **named: Any) -> np.ndarray:
    return dlbridge.from_dlpack(x, **named).numpy()


TARGETS: dict[str, Conversion] = {"numpy": dlbridge.to_numpy, "torch": dlbridge.to_torch, "dlpack": from_dlpack}
IMAGE = np.arange(240, dtype=np.uint8).reshape(8, 10, 3)
VIEWS = {
    "row-major": IMAGE,
    "planes": IMAGE.transpose(2, 0, 1),
    "flipped planes": IMAGE[:, ::-1].transpose(2, 0, 1),
    "flipped": IMAGE[::-1],
    "gaps": IMAGE[:, ::2],
    "broadcast": np.broadcast_to(IMAGE[0, 0], (4, 3)),
    "Fortran": np.asfortranarray(IMAGE),
    "scalar": IMAGE[0, 0, :1].reshape(()),
    "empty": IMAGE[:, :0].transpose(2, 1, 0),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("view", VIEWS)
def test_row_major(target: str, view: str) -> None:
    x = VIEWS[view]
    writable = x if x.flags.writeable else x.copy(order="K")
    plan = dlbridge.explain(writable, target, order="C")
    result = TARGETS[target](writable, order="C")
    array = np.asarray(result)
    assert array.flags.c_contiguous
    assert (array == x).all()
    assert plan.verdict == ("share" if writable.flags.c_contiguous else "copy")
    assert np.shares_memory(array, writable) == (plan.verdict == "share" and x.size > 0)
    assert ("in row-major order" in plan.message) == (plan.verdict == "copy")


@pytest.mark.parametrize("target", ["numpy", "torch"])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_row_major_cast(target: str, view: str, dtype: str) -> None:
    x = VIEWS[view]
    array = np.asarray(TARGETS[target](x, dtype=dtype, order="C"))
    assert array.flags.c_contiguous
    assert array.dtype == dtype
    assert (array == x).all()
    assert dlbridge.explain(x, target, dtype=dtype, order="C").verdict == "cast"


@pytest.mark.parametrize("target", TARGETS)
def test_copied_where_named(target: str) -> None:
    transposed = IMAGE.transpose(2, 1, 0)
    for copy in (True, None, "named"):
        assert np.asarray(TARGETS[target](transposed, order="C", copy=copy)).flags.c_contiguous
    kept = np.asarray(TARGETS[target](transposed, order="K", copy=True))
    assert kept.strides == transposed.strides


@pytest.mark.parametrize("target", TARGETS)
def test_no_copy_forbids_what_order_names(target: str) -> None:
    message = "copy=False forbids the copy into row-major order that order= names"
    with pytest.raises(dlbridge.ExchangeError, match=message) as refused:
        TARGETS[target](IMAGE.transpose(2, 1, 0), order="C", copy=False)
    assert refused.value.code == "copy_forbidden"
    assert dlbridge.explain(IMAGE.T, target, order="C", copy=False).reasons == ["copy_forbidden"]
    assert np.shares_memory(np.asarray(TARGETS[target](IMAGE, order="C", copy=False)), IMAGE)


@pytest.mark.parametrize("order", ["F", "A", "", "c"])
def test_other_orders_are_refused(order: object) -> None:
    for convert in (*TARGETS.values(), lambda x, **named: dlbridge.explain(x, "torch", **named)):
        with pytest.raises(dlbridge.ExchangeError, match='expected "C", row-major, or "K"') as refused:
            convert(IMAGE, order=order)
        assert (refused.value.code, refused.value.field) == ("invalid_argument", "order")


def test_out_has_its_own_order() -> None:
    out = np.zeros((3, 10, 8), np.uint8)
    with pytest.raises(dlbridge.ExchangeError, match="leave order= out"):
        dlbridge.to_numpy(IMAGE.T, order="C", out=out)
    assert dlbridge.to_numpy(IMAGE.T, order="K", out=out) is out


def test_device_memory_keeps_its_order() -> None:
    with pytest.raises(dlbridge.ExchangeError, match="cuda:0 takes part; expected host memory"):
        dlbridge.to_torch(IMAGE, device="cuda:0", order="C")


def test_conjugate_becomes_row_major() -> None:
    source = torch.complex(torch.arange(6.0), torch.ones(6)).reshape(2, 3).T.conj()
    array = dlbridge.to_numpy(source, copy=None, order="C")
    assert array.flags.c_contiguous
    assert (array == source.resolve_conj().numpy()).all()


@pytest.mark.parametrize(
    "x", [lambda v: v[::-1], lambda v: v.T, lambda v: v[:, ::3]], ids=["flipped", "transposed", "stepped"]
)
def test_float4_is_repacked_in_order(x: Callable[[Any], Any]) -> None:
    v = x(np.arange(24, dtype=np.uint8).reshape(4, 6).view(ml_dtypes.float4_e2m1fn))
    plain, ordered = (dlbridge.to_torch(v, copy=None, **named).view(torch.uint8) for named in ({}, {"order": "C"}))
    assert ordered.is_contiguous()
    assert torch.equal(plain, ordered)
    assert dlbridge.explain(v, "torch", order="C").verdict == "copy"

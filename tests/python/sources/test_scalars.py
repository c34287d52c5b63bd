# SPDX-License-Identifier: Apache-2.0
"""Scalars as sources, and objects that only look like scalars or lists."""

from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import dlbridge
from support import refusal


class Producer(float):
    def __dlpack__(self, **keywords: Any) -> Any:
        return np.arange(3.0).__dlpack__(**keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


@pytest.mark.parametrize("copy", [None, True])
def test_producers_are_no_scalars(copy: bool | None) -> None:
    assert dlbridge.to_numpy(Producer(7), copy=copy).tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("copy", [None, True])
def test_the_real_type_decides(copy: bool | None) -> None:
    class Raises(np.ndarray):
        @property
        def __class__(self) -> type:
            raise RuntimeError("not to be asked")

    x = np.arange(3.0).view(Raises)
    assert np.asarray(dlbridge.to_numpy(x, copy=copy)).tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "x",
    [
        [torch.ones(2, dtype=torch.complex64).conj()],
        [torch.ones(2, requires_grad=True)],
        Mock(spec=dict),
        Mock(spec=list),
    ],
    ids=["conj", "requires_grad", "mock_dict", "mock_list"],
)
def test_refusing_calls_nothing_of_the_object(x: Any) -> None:
    with pytest.raises((TypeError, dlbridge.ExchangeError), match=r"x is .*Mock; expected a numpy.ndarray|^x\[0\]"):
        dlbridge.to_numpy(x)


def test_out_takes_scalars() -> None:
    out = np.zeros(())
    assert dlbridge.to_numpy(2.5, out=out) is out
    assert out == 2.5


def test_explain_says_that_scalars_are_copied() -> None:
    plan = dlbridge.explain(3.0, "torch", copy=None)
    assert (plan.verdict, plan.bytes) == ("copy", 8)


@pytest.mark.parametrize("dtype", ["bfloat16", "complex32"])
def test_longdouble_casts_as_explained(dtype: str) -> None:
    x = np.arange(3, dtype=np.longdouble)
    if dlbridge.explain(x, "torch", dtype=dtype).verdict == "cast":
        assert dlbridge.to_torch(x, dtype=dtype).tolist() == [0.0, 1.0, 2.0]
    else:
        assert refusal(lambda: dlbridge.to_torch(x, dtype=dtype)).code == "unsupported_dtype"


def test_unreadable_text_is_named() -> None:
    class Device:
        type, index = "\udc80", 0

    for _ in range(2):
        assert refusal(lambda: dlbridge.to_numpy(np.ones(2), device=Device())).code == "invalid_device"

# SPDX-License-Identifier: Apache-2.0
"""What new users get wrong: the message contains a call, and that call works where it is put in."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.lib.recfunctions
import pytest
import torch

import dlbridge
from dlbridge import explain, from_buffer, from_dlpack, offload, stage, stage_many, to_numpy, to_torch
from support import read_only

ARRAY = np.arange(6.0)
# mistake, what its message contains, a call with that; `x` is what the next column makes. "": x is not used.
MISTAKES: list[tuple[str, str, str, Callable[[], Any] | None]] = [
    ("to_torch(x)", "copy=None", "to_torch(x, copy=None)", lambda: ARRAY[::-1]),
    ("to_torch(x)", 'on_write="raise"', 'to_torch(x, on_write="raise")', lambda: read_only(np.ones(3))),
    ("to_torch(x)", "numpy.asarray(x)", "to_torch(numpy.asarray(x))", lambda: [1, 2, 3]),
    ("to_torch(numpy.ndarray)", "x is the class numpy.ndarray", "to_torch(numpy.ones(3))", None),
    ("to_torch(x)", "numpy.asarray(list(x))", "to_torch(numpy.asarray(list(x)))", lambda: {1, 2}),
    ("to_torch(x)", "numpy.asarray(x)", "to_torch(numpy.asarray(x))", lambda: 3.0),
    ("to_torch(x)", "numpy.lib.recfunctions.structured_to_unstructured(x)",
     "to_torch(numpy.lib.recfunctions.structured_to_unstructured(x))", lambda: np.ones(3, "f4,f4")),
    ("to_torch(x)", 'x.view("int64")', 'to_torch(x.view("int64"))', lambda: np.ones(3, "M8[s]")),
    ("to_torch(x)", 'x.astype("float64")', 'to_torch(x.astype("float64"))', lambda: np.array([1, 2], object)),
    ("to_torch(x)", "x.filled(value)", "to_torch((lambda value: x.filled(value))(0))", lambda: np.ma.ones(3)),
    ("to_numpy(x)", "x.detach()", "to_numpy(x.detach())", lambda: torch.ones(2, requires_grad=True)),
    ("to_numpy(x)", "x.to_dense()", "to_numpy(x.to_dense())", lambda: torch.eye(2).to_sparse()),
    ("to_numpy(x)", 'torch.empty_like(x, device="cpu")', 'to_numpy(torch.empty_like(x, device="cpu"))',
     lambda: torch.ones(2, device="meta")),
    ("to_torch(x, 'cuda')", "to_torch(x, device=...)", "to_torch(x, device='cpu')", None),
    ("to_torch(x, dtype='float23')", "float32", "to_torch(x, dtype='float32')", None),
    ("to_torch(x, dtype='>f4')", '"float32"', 'to_torch(x, dtype="float32")', None),
    ("to_torch(x, device='gpu')", '"cpu"', 'to_torch(x, device="cpu")', None),
    ("to_torch(x, device='mps')", "dlbridge.to_torch(x).to(device)",
     "(lambda device: dlbridge.to_torch(x).to(device))('meta')", None),
    ("to_torch(x, copy='always')", "True", "to_torch(x, copy=True)", None),
    ("to_torch(x, order='F')", '"C"', 'to_torch(x, order="C")', None),
    ("to_torch(x, cuda=True)", "device=", "to_torch(x, device='cpu')", None),
    ("to_torch(x, out=y)", "to_numpy(x, out=...)", "to_numpy(x, out=y)", None),
    ("to_numpy(x, out=[0])", "numpy.empty(x.shape, dtype)",
     "to_numpy(x, out=(lambda dtype: numpy.empty(x.shape, dtype))('f4'))", lambda: torch.ones(2)),
    ("to_numpy(x, out=numpy.empty(4))", "numpy.empty_like(x)", "to_numpy(x, out=numpy.empty_like(x))", None),
    ("from_dlpack(x, dtype='f4')", "to_numpy(x, dtype=...)", "to_numpy(x, dtype='f4')", None),
    ("dlbridge.Tensor(x)", "dlbridge.from_dlpack(x)", "dlbridge.from_dlpack(x)", None),
    ("to_torch(x)", "__dlpack__()", "to_torch(y.__dlpack__())", lambda: used_capsule()),
    ("from_buffer(x, 'float32')", "shape=", "from_buffer(x, 'float32', shape=1)", lambda: b"12345"),
    ("explain(x)", '"torch"', 'explain(x, "torch")', None),
    ("explain(x, 'jax')", '"dlpack"', 'explain(x, "dlpack")', None),
    ("dlbridge.from_numpy(x)", "dlbridge.to_torch(x)", "dlbridge.to_torch(x)", None),
    ("dlbridge.asarray(x)", "dlbridge.to_numpy(x)", "dlbridge.to_numpy(x)", None),
    ("dlbridge.set_num_threads('4')", "4", "dlbridge.set_num_threads(4)", None),
    ("stage(x, device='cpu')", "to_numpy(x)", "to_numpy(x)", None),
    ("offload(x)", 'dlbridge.to_numpy(x, device="cpu")', 'dlbridge.to_numpy(x, device="cpu")', None),
]  # fmt: skip
# `h` is a handle on a GPU, which is simulated.
ON_GPU = [
    ("to_numpy(h)", 'device="cpu"', 'to_numpy(h, device="cpu")'),
    ("numpy.asarray(h)", 'device="cpu"', 'to_numpy(h, device="cpu")'),
    ("memoryview(h)", 'dlbridge.to_numpy(x, device="cpu")', 'memoryview(dlbridge.to_numpy(h, device="cpu"))'),
    ("h.__array_interface__", 'x.numpy(device="cpu")', 'h.numpy(device="cpu")'),
    ("stage(h)", 'device="cpu"', 'stage(h, device="cpu").result()'),
    ("stage_many(h.ndim)", "[x]", "stage_many([h]).result()"),
    ("stage(h, device='cpu', stream=0)", "1 for the legacy stream", "stage(h, device='cpu', stream=1).result()"),
    ("stage(h, device='cpu').result(timeout='5')", "1.5", "stage(h, device='cpu').result(timeout=1.5 * 60)"),
    ("dlbridge.set_pool_limit(1.5)", "1 << 30", "dlbridge.set_pool_limit(1 << 30)"),
    ("dlbridge.reserve_pinned(1 << 50).result()", "dlbridge.set_pool_limit(bytes)",
     "(lambda bytes: dlbridge.set_pool_limit(bytes))(1 << 30)"),
    ("dlbridge.pinned_empty(3, 'object')", "float32", "dlbridge.pinned_empty(3, 'float32')"),
]  # fmt: skip


def used_capsule() -> Any:
    capsule = ARRAY.__dlpack__()
    to_numpy(capsule)
    return capsule


def names(**others: Any) -> dict[str, Any]:
    return {
        "dlbridge": dlbridge, "numpy": np, "torch": torch, "explain": explain, "from_buffer": from_buffer,
        "from_dlpack": from_dlpack, "offload": offload, "stage": stage, "stage_many": stage_many,
        "to_numpy": to_numpy, "to_torch": to_torch, "y": np.zeros(6), **others,
    }  # fmt: skip


def correct(mistake: str, said: str, call: str, found: dict[str, Any]) -> None:
    with pytest.raises((dlbridge.ExchangeError, TypeError, AttributeError)) as raised:
        eval(mistake, found)
    message = str(raised.value)
    assert said in message, message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eval(call, found)


@pytest.mark.parametrize(("mistake", "said", "call", "make"), MISTAKES, ids=[" ".join(row[:2]) for row in MISTAKES])
def test_message_names_a_call_that_works(mistake: str, said: str, call: str, make: Callable[[], Any] | None) -> None:
    threads = dlbridge.get_num_threads()
    correct(mistake, said, call, names(x=make() if make else ARRAY.copy()))
    if dlbridge.get_num_threads() != threads:
        dlbridge.set_num_threads(0)


@pytest.mark.parametrize(("mistake", "said", "call"), ON_GPU, ids=[row[0] for row in ON_GPU])
def test_message_names_a_call_that_works_on_a_gpu(mistake: str, said: str, call: str, gpu: Any) -> None:
    limit = dlbridge.pool_stats().limit
    correct(mistake, said, call, names(h=from_dlpack(ARRAY, device="cuda:0")))
    dlbridge.set_pool_limit(limit)

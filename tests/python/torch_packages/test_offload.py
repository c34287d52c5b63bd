# SPDX-License-Identifier: Apache-2.0
"""offload(): weights leave and enter a GPU, which is simulated."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from refusals import refusal
from simulated_gpu import values_of

import dlbridge
from dlbridge import offload


@pytest.fixture
def device(gpu, monkeypatch):
    """The simulated GPU, with torch's allocation on it."""
    from dlbridge import _torch_gpu

    def empty(shape: tuple[int, ...], strides: tuple[int, ...], dtype: str, device: int) -> Any:
        return dlbridge.to_torch(gpu.array(np.zeros(shape, dtype)))

    monkeypatch.setattr(_torch_gpu, "empty", empty)
    monkeypatch.setattr(_torch_gpu, "has_cuda", lambda: True)
    yield gpu
    gc.collect()


class Model(torch.nn.Module):
    """Two weights of which one is tied, and a buffer."""

    def __init__(self, place: Any) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(place(values_of()))
        self.tied = torch.nn.Parameter(self.w.data)
        self.v = torch.nn.Parameter(place(values_of((300, 300))))
        self.register_buffer("b", place(values_of((5,), first=3)))


def copies(gpu: Any, call: Any) -> tuple[Any, int]:
    before = gpu.counts()["memcpy_async"]
    result = call()
    return result, gpu.counts()["memcpy_async"] - before


def test_weights_leave_and_return(device):
    model = Model(lambda values: dlbridge.to_torch(device.array(values, late=True)))
    w = model.w
    every = w.nbytes + model.v.nbytes + model.b.nbytes
    weights, count = copies(device, lambda: offload(model))
    assert count == 3 and w is model.w
    for x, values in ((w, values_of()), (model.v, values_of((300, 300))), (model.b, values_of((5,), first=3))):
        assert x.device.type == "cpu"
        np.testing.assert_array_equal(x.detach().numpy(), values)
    assert model.tied.data_ptr() == w.data_ptr()
    on_host = model.v.data_ptr()
    assert weights.onload() == every and weights.device == torch.device("cuda:0")
    assert w.is_cuda and model.tied.data_ptr() == w.data_ptr()
    device.write(model.tied, values_of(first=50))  # torch does not count this write
    assert copies(device, weights.offload) == (every, 3) and model.v.data_ptr() == on_host
    np.testing.assert_array_equal(w.detach().numpy(), values_of(first=50))
    assert weights.offload() == 0
    with torch.no_grad():
        model.b.add_(1)  # on the host
    weights.onload()
    assert weights.onload() == 0
    np.testing.assert_array_equal(device.read(model.b), values_of((5,), first=4))


def test_frozen_weights_are_not_copied_back(device):
    model = Model(lambda values: dlbridge.to_torch(device.array(values)))
    weights = offload(model, frozen=True)
    on_host = model.v.data_ptr()
    weights.onload()
    assert copies(device, weights.offload) == (0, 0) and model.v.data_ptr() == on_host


def test_mapped_weights_stay_mapped(device, tmp_path):
    torch.save(torch.randn(100, 7), tmp_path / "w.pt")
    mapped = torch.load(tmp_path / "w.pt", mmap=True)
    model = torch.nn.Module()
    model.w = torch.nn.Parameter(mapped)
    weights = offload(model, device="cuda:0", frozen=True)
    assert weights.onload() == mapped.nbytes and model.w.is_cuda
    assert copies(device, weights.offload) == (0, 0) and model.w.data_ptr() == mapped.data_ptr()


def test_on_the_cpu_it_says_that_nothing_moves():
    model = torch.nn.Linear(3, 3)
    address = model.weight.data_ptr()
    with pytest.warns(UserWarning, match="the weights of Linear are on the CPU"):
        weights = offload(model)
    assert weights.device is None and weights.onload() == weights.offload() == 0
    assert model.weight.data_ptr() == address


@pytest.mark.parametrize(("device", "code"), [("foo", "invalid_device"), ("mps", "unsupported_device")])
def test_other_devices_are_refused(device, code):
    error = refusal(lambda: offload(torch.nn.Linear(3, 3), device=device))
    assert (error.code, error.field) == (code, "device")


def test_other_weights_are_refused():
    model = torch.nn.Module()
    model.register_buffer("m", torch.eye(3).to_sparse())
    error = refusal(lambda: offload(model))
    assert error.code == "unsupported_type" and "m is a Tensor (torch.sparse_coo)" in str(error)

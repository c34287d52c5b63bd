# SPDX-License-Identifier: Apache-2.0
"""A third party's adapter (tests/support/toy_adapter): registered by its capsule, with no change to dlbridge._core."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import simulated_gpu
from build_tree import BUILD, load_module, module_file

import dlbridge

DEVICE = (2, 0)


@pytest.fixture(scope="module")
def toy() -> ModuleType:
    file = module_file("tests/support/toy_adapter", "dlbridge_toy")
    if file is None:
        pytest.skip(f"there is no dlbridge_toy in {BUILD}: scripts/test builds it")
    module = load_module(file, "dlbridge_toy")
    dlbridge._core._register_adapter(module.adapter)
    return module


@pytest.fixture
def host_array(toy: ModuleType) -> tuple[Any, np.ndarray]:
    values = np.arange(4, dtype=np.float32)
    return toy.Array(values.ctypes.data, 4, (1, 0), values), values


def test_host_memory_is_shared(host_array: tuple[Any, np.ndarray]) -> None:
    x, values = host_array
    assert dlbridge.shares_memory(dlbridge.to_numpy(x), values)
    assert dlbridge.shares_memory(dlbridge.from_dlpack(x), x)
    assert dlbridge.explain(x, "numpy").verdict == "share"


def test_explain_names_the_target(host_array: tuple[Any, np.ndarray]) -> None:
    _, values = host_array
    assert dlbridge.explain(values, "toy").verdict == "share"
    assert dlbridge.explain(values.astype("float64"), "toy").reasons == ["unsupported_dtype"]
    with pytest.raises(dlbridge.ExchangeError, match='expected one of .*"toy"'):
        dlbridge.explain(values, "cupy")


def test_staging_waits_for_current_stream(toy: ModuleType, gpu: simulated_gpu.SimulatedGpu) -> None:
    values = np.arange(1, 9, dtype=np.float32)
    stream = gpu.stream()
    fake = gpu.array(values, late=True, stream=stream)  # written by work that the stream holds
    toy.set_stream(stream)
    x = toy.Array(fake.address, 8, DEVICE, fake)
    assert dlbridge.to_numpy(x, device="cpu").tolist() == values.tolist()
    toy.set_stream(1)


def test_exports_record_the_stream(toy: ModuleType, gpu: simulated_gpu.SimulatedGpu) -> None:
    fake = gpu.array(np.arange(8, dtype=np.float32))
    x = toy.Array(fake.address, 8, DEVICE, fake)
    consumer = gpu.stream()
    handle = dlbridge.from_dlpack(x)
    handle.__dlpack__(stream=consumer, max_version=(1, 0))
    assert [(array is x, stream) for array, stream in toy.recorded] == [(True, consumer)]
    toy.recorded.clear()

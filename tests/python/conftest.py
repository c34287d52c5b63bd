# SPDX-License-Identifier: Apache-2.0
"""Settings for every Python test: what imports left behind is taken out of the garbage collector's rounds.

What needs torch or NumPy 2 is skipped where they are not there.
"""

import gc
import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path

# What is documented here is what a machine without a GPU says; a GPU is simulated, or tested by dlbridge.testing.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import pytest
import simulated_gpu

import dlbridge
from isolated import HAS_TORCH

NEEDS_TORCH = re.compile(r"^(import torch|from torch|from support import)", re.M)
NUMPY_1 = np.lib.NumpyVersion(np.__version__) < "2.0.0"
# Cases by their name -> what NumPy 1 lacks for them.
LACKED_BY_NUMPY_1 = {
    r"\[(max_rank_64|rank_65|ndim_64-\w+-numpy)": "NumPy 1 has 32 dimensions",
    r"\[string_dtype": "NumPy 1 has no StringDType",
    r"::test_read_only_carries_on$": "NumPy 1 asks for a legacy capsule",
    r"::test_failed_import_releases_once": "arrays refuse max_version; CPython 3.11 loses that error",
    r"::test_array_protocol(_of_bfloat16)?$": "copy=False of NumPy 1 does not refuse",
}
# What an older torch lacks -> cases by their name.
LACKED_BY_TORCH = {
    "float4_e2m1fn_x2": r"float4",
    "Tensor.__dlpack_c_exchange_api__": (
        r"::test_(another_torch_lowers_the_tier|unavailable_tiers_are_refused\[exchange|torch_without_tier_is_refused)"
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _frozen_imports() -> None:
    """Anew for each module: tests import things, too, and with those of torch alone a round takes 0.1 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _thawed_at_the_end() -> Iterator[None]:
    yield
    gc.unfreeze()  # modules take themselves apart at exit


@pytest.fixture
def gpu(request: pytest.FixtureRequest) -> Iterator[simulated_gpu.SimulatedGpu]:
    """A simulated GPU; indirect parameters are those of simulated_gpu(). The test fails where it has a complaint."""
    reason = simulated_gpu.why_not()
    if reason is not None:
        pytest.skip(reason)
    with simulated_gpu.simulated_gpu(**getattr(request, "param", {})) as gpu:
        yield gpu


class WithoutTorch(pytest.Module):
    """Stands for a module whose imports would fail."""

    def collect(self) -> Iterator[pytest.Item]:
        pytest.skip("torch is not installed", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Skips a module that imports torch, where torch is missing."""
    if HAS_TORCH or not NEEDS_TORCH.search(module_path.read_text()):
        return None
    return WithoutTorch.from_parent(parent, path=module_path)


def torch_has(name: str) -> bool:
    """Whether torch has an attribute, or one of its classes."""
    import torch

    owner, _, attribute = name.rpartition(".")
    return hasattr(getattr(torch, owner) if owner else torch, attribute)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what this tier of torch does not promise, and skips the cases that NumPy 1 cannot have."""
    if dlbridge.build_info()["torch_tier"] != "direct":
        left_out = [item for item in items if item.get_closest_marker("direct_tier")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("direct_tier")]
    lacked = [name for name in LACKED_BY_TORCH if HAS_TORCH and not torch_has(name)]
    for item in items:
        for name in lacked:
            if re.search(LACKED_BY_TORCH[name], item.nodeid):
                item.add_marker(pytest.mark.skip(reason=f"this torch has no {name}"))
    for item in items if NUMPY_1 else []:
        for pattern, reason in LACKED_BY_NUMPY_1.items():
            if re.search(pattern, item.nodeid):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Skips a test that asks an ndarray of NumPy 1 for a versioned capsule."""
    try:
        return (yield)
    except TypeError as error:
        if NUMPY_1 and str(error) == "__dlpack__() got an unexpected keyword argument 'max_version'":
            pytest.skip("arrays of NumPy 1 have no versioned capsules")
        raise

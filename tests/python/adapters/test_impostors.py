# SPDX-License-Identifier: Apache-2.0
"""Objects whose `__class__` claims another type: the real type decides, and nothing is unpacked unchecked."""

import pickle
import weakref
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import dlbridge
from isolated import run_isolated

ENTRIES: dict[str, Callable[[Any], Any]] = {
    "to_numpy": dlbridge.to_numpy,
    "to_torch": dlbridge.to_torch,
    "from_dlpack": dlbridge.from_dlpack,
    "explain_numpy": lambda x: dlbridge.explain(x, "numpy"),
    "explain_torch": lambda x: dlbridge.explain(x, "torch"),
    "shares_memory": lambda x: dlbridge.shares_memory(x, np.zeros(3)),
    "out": lambda x: dlbridge.to_numpy(np.zeros(3), out=x),
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
@pytest.mark.parametrize("claimed", [torch.Tensor, torch.nn.Parameter, np.ndarray, dlbridge.Tensor])
def test_a_mock_is_no_tensor(claimed: type, entry: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError):
        entry(Mock(spec=claimed))


@pytest.mark.parametrize("make", [lambda: torch.arange(3.0), lambda: np.arange(3.0)], ids=["torch", "numpy"])
def test_a_proxy_is_a_producer(make: Callable[[], Any]) -> None:
    x = make()
    if isinstance(x, np.ndarray):
        x = x.view(type("Sub", (np.ndarray,), {}))  # plain arrays have no weak references
    proxy = weakref.proxy(x)
    assert dlbridge.shares_memory(dlbridge.to_torch(proxy), x)
    assert dlbridge.shares_memory(dlbridge.to_numpy(proxy), x)
    assert dlbridge.explain(proxy, "numpy").verdict == "share"


def test_claims_before_torch_is_adapted() -> None:
    # No adapter of torch is loaded yet: the registry asks whether x is torch's.
    output = run_isolated(
        """
        class Claims:
            @property
            def __class__(self):
                return torch.Tensor
        try:
            dlbridge.explain(Claims(), "numpy")
        except TypeError:
            print("refused")
        """
    )
    assert output.split() == ["refused"]


def test_a_claimed_dtype_is_refused() -> None:
    for claimed in (torch.dtype, np.dtype, torch.device):
        with pytest.raises((TypeError, dlbridge.ExchangeError)):
            dlbridge.to_torch(np.zeros(3), dtype=Mock(spec=claimed))
        with pytest.raises((TypeError, dlbridge.ExchangeError)):
            dlbridge.to_numpy(torch.zeros(3), dtype=Mock(spec=claimed))


def test_pickling_takes_no_impostor() -> None:
    with pytest.raises(TypeError):
        dlbridge._core._dense_bytes(Mock(spec=dlbridge.Tensor))
    assert pickle.loads(pickle.dumps(dlbridge.from_dlpack(np.arange(3.0)))).shape == (3,)

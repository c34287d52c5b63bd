# SPDX-License-Identifier: Apache-2.0
"""dlbridge.dtypes says which dtypes the conversions exchange, for every type of DLPack."""

from __future__ import annotations

import pydoc
from typing import Any

import numpy as np
import pytest
import torch
from capsules import versioned_of
from dtypes import DTYPES, numpy_dtype

import dlbridge
from support import DTYPE_PAIRS


def test_every_dtype_is_there() -> None:
    """Against lists that the other tests use."""
    rows = dlbridge.dtypes.values()
    assert {row.name: (row.code, row.bits) for row in rows}.items() >= DTYPES.items()
    assert {name for name in DTYPES if dlbridge.dtypes[name].numpy != numpy_dtype(name)} == set()
    assert {row.torch for row in rows if row.numpy and row.torch} == {dtype for _, dtype in DTYPE_PAIRS.values()}
    only_torch = {row.name for row in rows if row.torch and not row.numpy}
    assert only_torch == {"complex32", "float4_e2m1fn_x2"} & set(dir(torch))


@pytest.mark.parametrize("name", dlbridge.dtypes)
def test_rows_are_what_conversions_make(name: str) -> None:
    row = dlbridge.dtypes[name]
    assert type(row) is dlbridge.DType and row.name == name
    made: list[Any] = [np.zeros(2, row.numpy)] if row.numpy else []
    made += [torch.empty(2, dtype=row.torch)] if row.torch else []
    for x in made:
        handle = dlbridge.from_dlpack(x)
        tensor = versioned_of(handle.__dlpack__(max_version=(1, 3))).dl_tensor
        assert (handle.dtype, tensor.code, tensor.bits, tensor.lanes) == row
        again = handle.numpy() if isinstance(x, np.ndarray) else handle.torch()
        assert again.dtype == x.dtype
    if row.numpy:
        assert dlbridge.to_numpy(made[0], dtype=row).dtype == row.numpy


def test_mapping_has_help_of_its_own_and_is_read_only() -> None:
    assert "element types of DLPack" in pydoc.render_doc(dlbridge.dtypes)
    with pytest.raises(TypeError):
        dlbridge.dtypes["x"] = dlbridge.dtypes["bool"]  # type: ignore[index]


def test_torch_is_none_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert dlbridge.dtypes["float32"].torch is None and dlbridge.dtypes["float32"].numpy == np.float32

# SPDX-License-Identifier: Apache-2.0
"""docs/reference/errors.md is what scripts/error_table.py writes; every example raises its code."""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from capsules import Crafted
from pages import ROOT
from torch._subclasses.fake_tensor import FakeTensorMode

import dlbridge
from isolated import run_isolated

sys.path[:0] = [str(ROOT / "scripts")]

import error_table  # noqa: E402

CODES = error_table.codes()
# Codes that take C++, another tier, a tensor of another accelerator, a foreign exchange table, or the CUDA module.
WITHOUT_EXAMPLE = {
    "undefined_tensor",
    "on_write_unsupported",
    "unsupported_keys",
    "symbolic_shape",
    "framework_error",
    "null_descriptor",
    "driver_too_old",
    "no_device",
    "stream_invalid",
    "stream_capturing",
    "device_failed",
    "after_fork",
    "python_exception",
}


def test_the_page_is_generated() -> None:
    page = error_table.PAGE.read_text(encoding="utf-8")
    assert error_table.page(page) == page


@pytest.mark.parametrize("row", CODES, ids=lambda row: row.code)
def test_a_code_has_its_texts(row: Any) -> None:
    assert row.finding and row.remedy
    assert (row.example == "") == (row.code in WITHOUT_EXAMPLE)


def names() -> dict[str, Any]:
    """What the examples use, as the document says."""
    kept: list[Any] = []

    def capsule(**fields: Any) -> Any:
        # Kept until the error is handled: its destructor is Python and must not run while the error is set.
        kept.append(Crafted(**fields).capsule())
        return kept[-1]

    functions = {name: getattr(dlbridge, name) for name in ("explain", "from_dlpack", "to_numpy", "to_torch")}
    modules = {"np": np, "torch": torch, "ml_dtypes": ml_dtypes, "sys": sys, "FakeTensorMode": FakeTensorMode}
    return {"a": np.arange(3, dtype="f4"), "capsule": capsule, **functions, **modules}


@pytest.mark.filterwarnings("ignore:.*(nested|prototype|Quantiz|quantiz|torch.ao).*")
@pytest.mark.parametrize("row", [row for row in CODES if row.example], ids=lambda row: row.code)
def test_the_example_raises_its_code(row: Any) -> None:
    if row.code == "unsupported_type":  # the one code that Python knows by another name
        with pytest.raises(TypeError, match="^x is list; expected"):
            exec(row.example, names())
        return
    if "sys.modules" in row.example:  # hides a package: for good, so elsewhere
        code = f"a = np.arange(3, dtype='f4')\ntry:\n    {row.example}\nexcept dlbridge.ExchangeError as e:\n"
        answer = run_isolated(code + "    print(e.code, e.field)\n").split()
        assert answer == [row.code, row.fields[0]]
        return
    with pytest.raises(dlbridge.ExchangeError) as caught:
        exec(row.example, names())
    assert (caught.value.code, caught.value.field) == (row.code, row.fields[0])

# SPDX-License-Identifier: Apache-2.0
"""docs/agents.md: what replaces a call has its values, its dtype, and shares memory where the call did."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from pages import page, section, tables

import dlbridge

(ROWS,) = tables(section(page("docs/agents.md"), "Step 2: replace"))
PAIRS = [
    (code, replacement)
    for row in ROWS
    for code in re.findall(r"`([^`]{3,})`", row["code"])
    for replacement in re.findall(r"`(dlbridge[^`]+)`", row["replacement"])
    if "cuda" not in row["code"] and "GPU" not in row["code"]
]


def names() -> dict[str, Any]:
    """What the code of the table uses."""
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    return {
        "dlbridge": dlbridge,
        "np": np,
        "torch": torch,
        "a": array,
        "t": torch.arange(24.0).reshape(2, 3, 4),
        "x": {"k": array},
        "b": bytearray(array),
        "d": torch.float32,
    }


def run(code: str) -> tuple[Any, bool]:
    """The result, and whether it shares memory with a source."""
    namespace = names()
    if "] = " in code or "out=a" in code:
        exec(code, namespace)
        return namespace["a"], True
    result = eval(code, namespace)
    result = result["k"] if isinstance(result, dict) else result
    sources = [namespace["a"], namespace["t"], torch.frombuffer(namespace["b"], dtype=torch.float32)]
    return result, any(dlbridge.shares_memory(result, source) for source in sources)


@pytest.mark.parametrize("code, replacement", PAIRS)
def test_replacement_does_the_same(code: str, replacement: str) -> None:
    before, shared = run(code)
    after, shares = run(replacement)
    assert type(after) is type(before) and after.dtype == before.dtype
    assert after.tolist() == before.tolist()
    assert shares >= shared
    assert not (shares and "copy=True" in replacement)


def test_rows_are_found() -> None:
    assert len(PAIRS) >= 15

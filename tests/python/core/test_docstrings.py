# SPDX-License-Identifier: Apache-2.0
"""Every public function and type has a docstring with an example that runs and the version that it came with."""

from __future__ import annotations

import doctest
import inspect
import os
import re
from typing import Any

import numpy as np
import pytest
import torch

import dlbridge
import dlbridge.torch

PUBLIC = {name: getattr(dlbridge, name) for name in dlbridge.__all__ if callable(getattr(dlbridge, name))} | {
    f"torch.{name}": getattr(dlbridge.torch, name) for name in dlbridge.torch.__all__
}
GPU = "Future|PoolStats|pinned|pool|stage|stream"  # examples that a simulated GPU runs
INSTALLED = ("cmake_dir", "get_include")  # their folders are not in a build tree


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_has_version_and_example_that_runs(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = inspect.getdoc(PUBLIC[name]) or ""
    assert re.search(r"^\.\. versionadded:: \d+\.\d+\.\d+$", text, re.MULTILINE), "it says no version"
    assert max(map(len, text.splitlines())) <= 120
    names: dict[str, Any] = {"dlbridge": dlbridge, "np": np, "os": os, "torch": torch}
    example = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    assert example.examples, "it has no example"
    gpu = request.getfixturevalue("gpu") if re.search(GPU, name) else None
    limit = gpu and dlbridge.pool_stats().limit
    if name in INSTALLED:
        monkeypatch.setattr("os.path.isdir", lambda path: True)
    failed: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, out=failed.append)
    assert not failed, "".join(failed)
    if limit:
        dlbridge.set_pool_limit(limit)


@pytest.mark.parametrize("name", PUBLIC)
def test_methods_have_docstrings(name: str) -> None:
    kind = PUBLIC[name]
    members = vars(kind) if isinstance(kind, type) else {}
    missing = [key for key, member in members.items() if not key.startswith("_") and not inspect.getdoc(member)]
    assert missing == []

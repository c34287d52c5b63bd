# SPDX-License-Identifier: Apache-2.0
"""The types of the package: mypy and basedpyright, both strict, accept a user's program, which then runs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typed_user
from pages import ROOT

import dlbridge

PACKAGE = Path(dlbridge.__file__).parent
TOOLS = Path(sys.executable).parent


MISTAKES = [
    'dlbridge.to_torch(1, copy="always")',
    'dlbridge.to_numpy(1, order="F")',
    'dlbridge.explain(1, "jax")',
    'dlbridge.explain(1, "torch").verdict == "shared"',
    "dlbridge.from_dlpack(1).shape = (1,)",
    "dlbridge.from_dlpack(1).shapes",
    'dlbridge.dtypes["x"] = 3',
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("checker", ["mypy", "basedpyright"])
def test_checker_accepts_program_and_finds_mistakes(checker: str, tmp_path: Path) -> None:
    if not (TOOLS / checker).exists():
        pytest.skip(f"{checker} is not installed: pip install -r requirements-test.txt")
    wrong = tmp_path / "wrong.py"
    wrong.write_text("\n".join(["import dlbridge", *MISTAKES]) + "\n")
    files = [typed_user.__file__, str(wrong)]
    settings = {"include": files, "extraPaths": [str(PACKAGE.parent)], "typeCheckingMode": "strict"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    options = ["--strict", *files] if checker == "mypy" else ["-p", str(tmp_path), "--pythonpath", sys.executable]
    # mypy finds an installed package by itself, and refuses to be told where it is.
    path = {} if PACKAGE.parent.name == "site-packages" else {"MYPYPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [TOOLS / checker, *options], env=os.environ | path, cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    said = re.findall(r"(\w+)\.pyi?:(\d+)(?::\d+)?(?:: | - )(?:error|warning)", done.stdout)
    assert set(said) == {("wrong", str(n + 2)) for n in range(len(MISTAKES))}, done.stdout + done.stderr


def test_program_runs_on_the_host() -> None:
    typed_user.host()


def test_program_runs_on_a_gpu(gpu: Any) -> None:
    limit = dlbridge.pool_stats().limit
    asyncio.run(typed_user.gpu(np.arange(6.0), torch.nn.Linear(2, 2)))
    dlbridge.set_pool_limit(limit)

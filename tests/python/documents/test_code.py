# SPDX-License-Identifier: Apache-2.0
"""Every Python block of the pages runs as written: the blocks of a page one after the other, in one namespace.

A comment before a block says what is special: `<!-- skip: reason -->` does not run it, `<!-- gpu -->` runs it with a
simulated GPU and the names of gpu_names(). A text block behind a Python block is what that one prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch  # noqa: F401  without torch nothing here runs
from pages import ROOT, page

import dlbridge
from support import direct_tier

PAGES = [path for pattern in ("*.md", "docs/**/*.md") for path in sorted(ROOT.glob(pattern))]
FENCE = re.compile(r"(?:^<!-- (gpu|skip)(?:: ([^\n]*))? -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Block:
    """Fenced code of a page."""

    page: str
    line: int
    mark: str | None
    reason: str
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(name: str) -> Iterator[Block]:
    """The blocks of a page, from top to bottom."""
    text = page(name)
    for found in FENCE.finditer(text):
        mark, reason, language, code = found.groups()
        yield Block(name, text.count("\n", 0, found.start(4)), mark, reason or "", language, code)


BLOCKS = {name: list(blocks_of(name)) for name in (str(path.relative_to(ROOT)) for path in PAGES)}
WITH_PYTHON = [name for name, blocks in BLOCKS.items() if any(block.language == "python" for block in blocks)]
OF_DIRECT_TIER = {"docs/read-only.md"}  # on_write= differs in another tier
SKIPPED = [block for blocks in BLOCKS.values() for block in blocks if block.mark == "skip"]


def gpu_names(gpu: Any) -> dict[str, Any]:
    """A tensor on the simulated GPU, a stream, and an ndarray."""
    on_gpu = gpu.array(np.ones((3, 4), np.float32))
    stream = gpu.stream()
    return {"t": on_gpu, "x": on_gpu, "s": stream, "stream": stream, "a": np.ones((3, 4), np.float32)}


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[direct_tier] * (name in OF_DIRECT_TIER)) for name in WITH_PYTHON]
)
def test_code_of_page_runs(
    name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gpu = request.getfixturevalue("gpu") if any(block.mark == "gpu" for block in BLOCKS[name]) else None
    limit = gpu and dlbridge.pool_stats().limit
    names: dict[str, Any] = {"__name__": "page"}
    printed = ""
    try:
        for block in BLOCKS[name]:
            if block.language == "text" and printed:
                assert block.code == printed, block
            printed = ""
            if block.language != "python" or block.mark == "skip":
                continue
            if block.mark == "gpu":
                names |= gpu_names(gpu)
            exec(compile("\n" * block.line + block.code, ROOT / name, "exec"), names)
            printed = capsys.readouterr().out
        for value in names.values():
            if isinstance(value, dlbridge.Future):
                value.synchronize()
    finally:
        names.clear()
        if limit:
            dlbridge.set_pool_limit(limit)


@pytest.mark.parametrize("block", SKIPPED, ids=str)
def test_block_runs(block: Block) -> None:
    assert block.language == "python" and block.reason, block
    pytest.skip(block.reason)

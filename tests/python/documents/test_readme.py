# SPDX-License-Identifier: Apache-2.0
"""README.md and docs/quickstart.md: the code runs, the C++ stands in an example. Links of all pages lead to files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import dlbridge

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "docs" / "quickstart.md"]
README, QUICKSTART = (page.read_text(encoding="utf-8") for page in PAGES)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


PYTHON = blocks(README, "python") + blocks(QUICKSTART, "python")


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: re.sub(r"\W+", "_", block[:40]))
def test_code_runs(block: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"np": np, "torch": torch, "dlbridge": dlbridge}
    if "cuda:0" in block:
        gpu = request.getfixturevalue("gpu")
        names |= {"s": gpu.stream(), "t": gpu.array(np.ones((3, 4), np.float32))}
    exec(block, names)
    if "print(error)" in block:
        assert capsys.readouterr().out in blocks(QUICKSTART, "text")


def test_cpp_stands_in_an_example() -> None:
    files = [path.read_text() for path in (ROOT / "examples").rglob("*") if path.name.endswith((".cpp", ".txt"))]
    shown = blocks(README, "cpp") + blocks(README, "cmake")
    assert len(shown) == 2
    for block in shown:
        assert any(all(line in file for line in block.splitlines()) for file in files), block


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 160


DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            content = file.read_text(encoding="utf-8")
            titles = re.findall(r"^#+ (.+)$", content, re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors or f'id="{anchor}"' in content, target


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_table_rows_are_narrow(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line[:60] for line in lines if line[:1] == "|" and len(line) > 200] == []

# SPDX-License-Identifier: Apache-2.0
"""README.md: its C++ stands in an example, it is short. All pages: links lead to files, rows of tables are narrow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import ROOT, blocks, page

README = page("README.md")


def test_cpp_stands_in_an_example() -> None:
    files = [path.read_text() for path in (ROOT / "examples").rglob("*") if path.name.endswith((".cpp", ".txt"))]
    shown = blocks(README, "cpp") + blocks(README, "cmake")
    assert len(shown) == 2
    for block in shown:
        assert any(all(line in file for line in block.splitlines()) for file in files), block


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 160


OTHERS = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "packaging/conda/README.md")
DOCUMENTS = [*(ROOT / name for name in OTHERS), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            content = file.read_text(encoding="utf-8")
            titles = re.findall(r"^#+ (.+)$", content, re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors or f'id="{anchor}"' in content, target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_table_rows_are_narrow(document: Path) -> None:
    lines = document.read_text(encoding="utf-8").splitlines()
    assert [line[:60] for line in lines if line[:1] == "|" and len(line) > 200] == []

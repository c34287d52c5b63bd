# SPDX-License-Identifier: Apache-2.0
"""docs/api/python.md names every public name of the package, docs/index.md every page."""

from __future__ import annotations

import re

import pytest
from pages import ROOT, page

import dlbridge
import dlbridge.testing


def test_every_public_name_is_there() -> None:
    named = re.findall(r"^\.\. (?:auto\w+|py:data):: dlbridge\.([\w.]+)$", page("docs/api/python.md"), re.MULTILINE)
    torch = pytest.importorskip("dlbridge.torch", reason="torch is not installed")
    parts = {"": dlbridge, "torch.": torch, "ray.": dlbridge.ray, "testing.": dlbridge.testing}
    assert sorted(named) == sorted(prefix + name for prefix, part in parts.items() for name in part.__all__)


def test_every_page_is_in_the_contents() -> None:
    pages = [path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")]
    listed = [line.split("<")[-1].rstrip(">") for line in page("docs/index.md").splitlines()]
    assert [str(name) for name in pages if str(name) != "index" and str(name) not in listed] == []

# SPDX-License-Identifier: Apache-2.0
"""scripts/docs.py finds the links of a site that lead nowhere."""

import sys
from pathlib import Path

import pytest
from pages import ROOT

sys.path[:0] = [str(ROOT / "scripts")]

import docs  # noqa: E402


@pytest.mark.parametrize(
    "link, works",
    [
        ("other.html", True),
        ("folder/other.html", False),
        ("other.html#there", True),
        ("other.html#nowhere", False),
        ("#here", True),
        ("#nowhere", False),
        ("picture%20of%20it.svg", True),
        ("https://example.org/nowhere", True),
    ],
)
def test_broken_links(tmp_path: Path, link: str, works: bool) -> None:
    (tmp_path / "index.html").write_text(f'<h1 id="here"><a href="{link}">text</a></h1>')
    (tmp_path / "other.html").write_text('<p id="there">')
    (tmp_path / "picture of it.svg").write_text("<svg/>")
    assert docs.broken_links(tmp_path) == ([] if works else [f"index.html: {link}"])

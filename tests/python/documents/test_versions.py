# SPDX-License-Identifier: Apache-2.0
"""docs/compatibility.md decides the minimum versions: the files of the build and all pages say the same ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import ROOT, page

TABLE = page("docs/compatibility.md").partition("## At least")[2].partition("## ")[0]
LEAST = {
    re.split(r"[,\s]", what)[0] + (" exchange" if "without" in what else ""): version
    for what, version in re.findall(r"^\| ([^|]+?) +\| ([\d.]+) +\|$", TABLE, re.MULTILINE)
}
# What says a minimum: the row, and where the version stands.
SAID = [
    ("CPython", r"Python (3\.\d+) or later|requires-python = \">=([\d.]+)\"|find_package\(Python ([\d.]+)"),
    ("NumPy", r"NumPy (\d[\d.]*\d) or later|dependencies = \[\"numpy>=([\d.]+)\"\]|^    - numpy >=(1[\d.]+)$"),
    ("ml_dtypes", r"ml_dtypes>=([\d.]+)"),
    ("torch", r"^torch = \[\"torch>=([\d.]+)|every torch from ([\d.]+\d) on"),
    ("torch exchange", r"torch (?:>= )?([\d.]+\d) or later|pytorch >=([\d.]+)$"),
    ("NVIDIA's", r"driver[,s]? (?:from )?(\d+)|older than (\d{3}) "),
    ("CMake", r"_required\(VERSION ([\d.]+)\)|cmake.version = \">=([\d.]+)\"|CMake (\d[\d.]*\d)|cmake >=([\d.]+)"),
    ("g++", r"g\+\+ (\d+)"),
    ("clang", r"clang (\d+)"),
]  # fmt: skip


def files() -> Iterator[Path]:
    for pattern in ("*.md", "docs/*.md", "*.toml", "CMakeLists.txt", "examples/**/CMakeLists.txt", "cmake/*.cmake",
                    "packaging/conda/recipe.yaml", "adapters/**/*.cpp", "python/dlbridge/*.py"):  # fmt: skip
        yield from (path for path in ROOT.glob(pattern) if path.name != "CHANGELOG.md")


@pytest.mark.parametrize(("what", "pattern"), SAID, ids=[what for what, _ in SAID])
def test_every_place_says_the_version_of_the_table(what: str, pattern: str) -> None:
    found = {
        (str(path.relative_to(ROOT)), next(filter(None, match.groups())))
        for path in files()
        for match in re.finditer(pattern, path.read_text(), re.MULTILINE)
    }
    assert found, "nothing says it"
    assert {place for place in found if place[1] != LEAST[what]} == set()

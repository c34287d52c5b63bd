# SPDX-License-Identifier: Apache-2.0
"""docs/reference/staging.md: the tests that guard each hazard exist, and its code stands in an example."""

from __future__ import annotations

import re

from pages import ROOT, blocks, page, section, tables

DOCUMENT = page("docs/reference/staging.md")
MISTAKES = page("scripts/mistakes.py")
GATE = page("docs/measurements/mutants-2026-11-29.md")
EXAMPLE = page("examples/cpp/staging/recorder.cpp")
TEST = re.compile(r"^(?:TEST|TEST_F|TEST_P|TYPED_TEST)\(\s*(\w+),\s*(\w+)\)", re.MULTILINE)


def hazards() -> list[tuple[str, list[str]]]:
    """The hazards and their tests; a row with an empty first cell continues the one above."""
    found: list[tuple[str, list[str]]] = []
    (rows,) = tables(section(DOCUMENT, "Hazards, and the tests that guard them"))
    for hazard, answer, tests in (row.values() for row in rows):
        if hazard:
            assert answer, hazard
            found.append((hazard, []))
        found[-1][1].extend(re.findall(r"`([^`]+)`", tests))
    return found


def test_hazards_have_tests() -> None:
    sources = [path.read_text() for path in (ROOT / "tests").rglob("*_test.cpp")]
    existing = {".".join(name) for source in sources for name in TEST.findall(source)}
    assert len(hazards()) >= 30
    for hazard, tests in hazards():
        assert tests and [test for test in tests if test not in existing] == [], hazard


def test_gate_lists_every_mistake() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", GATE, re.MULTILINE)
    assert rows == re.findall(r'^    Mistake\("(\w+)"', MISTAKES, re.MULTILINE)


def test_code_stands_in_example() -> None:
    shown = blocks(DOCUMENT, "cpp")
    assert len(shown) == 3 and all(block in EXAMPLE for block in shown)

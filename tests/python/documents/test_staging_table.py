# SPDX-License-Identifier: Apache-2.0
"""docs/staging.md: the tests that guard each hazard exist, and its code stands in an example."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "staging.md").read_text()
MISTAKES = (ROOT / "scripts" / "mistakes.py").read_text()
GATE = (ROOT / "docs" / "measurements" / "mutants-2026-11-28.md").read_text()
EXAMPLE = (ROOT / "examples" / "cpp" / "staging" / "recorder.cpp").read_text()
TEST = re.compile(r"^(?:TEST|TEST_F|TEST_P|TYPED_TEST)\(\s*(\w+),\s*(\w+)\)", re.MULTILINE)


def section(title: str) -> str:
    return DOCUMENT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def hazards() -> list[tuple[str, list[str]]]:
    """The hazards and their tests; a row with an empty first cell continues the one above."""
    found: list[tuple[str, list[str]]] = []
    lines = [line for line in section("Hazards, and the tests that guard them").splitlines() if line[:1] == "|"]
    for line in lines[2:]:
        hazard, answer, tests = (cell.strip() for cell in line.strip("|").split("|"))
        if hazard:
            assert answer, line
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
    blocks = re.findall(r"^```cpp\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        assert block in EXAMPLE

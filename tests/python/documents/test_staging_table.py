"""docs/staging.md against what it tells of: the tests that guard each hazard, the mutants, the code it quotes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "staging.md").read_text()
MUTANTS = (ROOT / "cuda" / "src" / "runtime" / "mutants.h").read_text()
EXAMPLE = (ROOT / "examples" / "cpp" / "staging" / "recorder.cpp").read_text()
TEST = re.compile(r"^(?:TEST|TEST_F|TEST_P|TYPED_TEST)\(\s*(\w+),\s*(\w+)\)", re.MULTILINE)


def section(title: str) -> str:
    return DOCUMENT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def hazards() -> list[list[str]]:
    """The cells of each row of the table of hazards."""
    lines = [line for line in section("Hazards, and the tests that guard them").splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def named_tests() -> list[str]:
    return [name for row in hazards() for name in re.findall(r"`([^`]+::[^`]+)`", row[-1])]


def test_every_hazard_has_an_answer_and_a_test() -> None:
    assert len(hazards()) >= 20
    for row in hazards():
        assert len(row) == 3 and all(row), row
        assert re.search(r"`[^`]+::[^`]+`", row[-1]), row


@pytest.mark.parametrize("name", named_tests())
def test_the_named_test_exists(name: str) -> None:
    file, test = name.split("::")
    source = ROOT / "tests" / file
    assert source.is_file(), source
    assert tuple(test.split(".")) in TEST.findall(source.read_text()), name


def test_the_mutants_are_those_of_the_code() -> None:
    listed = MUTANTS.split("#define DLBRIDGE_CUDA_MUTANT_LIST(X)")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)`", section("How it is tested without a GPU"), re.MULTILINE)
    assert rows == re.findall(r"X\((\w+)\)", listed)


def test_the_code_of_the_page_stands_in_the_example() -> None:
    blocks = re.findall(r"^```cpp\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        assert block in EXAMPLE

# SPDX-License-Identifier: Apache-2.0
"""Writes the column `tests` of docs/reference/rules.md from the tags of the tests.

    .venv/bin/python scripts/rule_table.py [--check]

A tag is `@pytest.mark.rule(74)` at a Python test, `// Rule: 74` above a C++ test, or a number in the column `rule` of
docs/reference/validation.md, whose rows are tests. --check writes nothing and ends with 1 where the page is stale.
"""

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "rules.md"
VALIDATION = ROOT / "docs" / "reference" / "validation.md"
WIDTH = 200  # of a row; further tests go to a row of their own
CPP_TEST = re.compile(r"^// Rule: ([\d, ]+)\n(?://.*\n)*TEST\w*\(\s*(\w+),\s*(\w+)\)", re.MULTILINE)


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def tags_of_python(path: Path) -> list[tuple[int, str]]:
    text = path.read_text(encoding="utf-8")
    if "pytest.mark.rule(" not in text:
        return []
    return [
        (int(ast.unparse(argument)), node.name)
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef)
        for mark in node.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.rule"
        for argument in mark.args
    ]


def tests_by_rule() -> dict[int, list[str]]:
    """The tagged tests, as one would name them to pytest -k, to ctest -R, or find them in validation.md."""
    found = defaultdict(list)
    for line in VALIDATION.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            for number in numbers(cells[-1]):
                found[number].append(cells[0].strip("`"))
    for path in sorted((ROOT / "tests").rglob("*_test.cpp")):
        for tag, suite, name in CPP_TEST.findall(path.read_text(encoding="utf-8")):
            for number in numbers(tag):
                found[number].append(f"{suite}.{name}")
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for number, name in tags_of_python(path):
            found[number].append(name)
    return found


def rows_of(rule: str, tests: list[str]) -> list[str]:
    """The row of a rule, given as all but its last cell, and rows for the tests that do not fit into it."""
    rows = [rule]
    for test in tests:
        separator = " " if rows[-1].endswith("|") else ", "
        if len(f"{rows[-1]}{separator}`{test}` |") > WIDTH:
            rows.append("| | | |")
            separator = " "
        rows[-1] += f"{separator}`{test}`"
    return [f"{row} |" for row in rows]


def page() -> str:
    """The page as it should be. Raises KeyError for a rule without a test, ValueError for a tag without a rule."""
    found = tests_by_rule()
    lines = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| | |"):
            continue
        if rule := re.match(r'(\| <a id="(\d+)"></a>\d+ \|[^|]*\|[^|]*\|)', line):
            lines += rows_of(rule[1], found.pop(int(rule[2])))
        else:
            lines.append(line)
    if found:
        raise ValueError(f"tags of rules that are not in {PAGE.name}: {dict(found)}")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Returns 1 where the page is not up to date and --check is given."""
    written = page()
    if "--check" not in sys.argv:
        PAGE.write_text(written, encoding="utf-8")
    elif written != PAGE.read_text(encoding="utf-8"):
        print("docs/reference/rules.md is not up to date: run scripts/rule_table.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

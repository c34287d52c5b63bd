# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of docs/reference/errors.md from core/include/dlbridge/detail/reasons.def.

    .venv/bin/python scripts/error_table.py [--check]

--check writes nothing and ends with 1 where the page is stale.
"""

import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "core" / "include" / "dlbridge" / "detail" / "reasons.def"
PAGE = ROOT / "docs" / "reference" / "errors.md"
ENTRY = re.compile(
    r"(?:^//= (?P<example>[^\n]*)\n)?^DLBRIDGE_(?P<kind>REASON|OTHER)\((?P<arguments>.*?)\)$", re.M | re.S
)
ARGUMENT = re.compile(r'"(?:[^"\\]|\\.)*"|\w+')
NOTHING = "–"


@dataclass
class Code:
    """One row of the table."""

    code: str
    fields: list[str]
    remedy_kind: str  # "" for codes that are no reasons
    finding: str
    remedy: str
    example: str  # "" where Python cannot raise it, or not on every machine


def codes() -> list[Code]:
    """The rows of the table, in order."""
    text = TABLE.read_text(encoding="utf-8").split("#endif\n\n")[-1]
    found = []
    for entry in ENTRY.finditer(text):
        arguments = ARGUMENT.findall(entry["arguments"])
        code, fields, *kind, finding, remedy = [ast.literal_eval(a) if a[0] == '"' else a for a in arguments]
        names = fields.split(", ") if fields else []
        found.append(Code(code, names, "".join(kind), finding, remedy, entry["example"] or ""))
    return found


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell or NOTHING for cell in line) + " |\n" for line in lines)


def ticked(words: list[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def page(old: str) -> str:
    """The page with its tables written anew."""
    reasons = [code for code in codes() if code.remedy_kind]
    others = [code for code in codes() if not code.remedy_kind]
    tables = {
        "Reasons of a plan": table(
            ["code", "field", "remedy kind", "finding", "remedy"],
            [
                [f"`{c.code}`", ticked(c.fields), c.remedy_kind.replace("never", ""), c.finding, c.remedy]
                for c in reasons
            ],
        ),
        "Arguments, foreign descriptors, the environment": table(
            ["code", "field", "meaning", "remedy"],
            [[f"`{c.code}`", ticked(c.fields), c.finding, c.remedy] for c in others],
        ),
        "Examples": table(
            ["code", "example"], [[f"`{c.code}`", f"`{c.example}`"] for c in reasons + others if c.example]
        ),
    }
    for title, written in tables.items():
        before, section = old.split(f"\n## {title}\n")
        text, _, after = section.partition("\n## ")
        prose = text[: text.index("\n| ")] + "\n"
        old = f"{before}\n## {title}\n{prose}{written}" + (f"\n## {after}" if after else "")
    return old


def main() -> int:
    old = PAGE.read_text(encoding="utf-8")
    new = page(old)
    if "--check" not in sys.argv:
        PAGE.write_text(new, encoding="utf-8")
    elif new != old:
        print(f"{PAGE.relative_to(ROOT)} is stale: run scripts/error_table.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

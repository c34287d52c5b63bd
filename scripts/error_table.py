# SPDX-License-Identifier: Apache-2.0
"""Writes the entries of docs/reference/errors.md from core/include/dlbridge/detail/reasons.def.

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


def entry(code: Code) -> str:
    """The section of a code."""
    fields = ", ".join(f"`{name}`" for name in code.fields) or NOTHING
    finding = code.finding.replace("__", r"\_\_")  # else bold
    lines = [("found" if code.remedy_kind else "means", finding), ("do", code.remedy), ("field", fields)]
    if code.remedy_kind not in ("", "never"):
        lines.append(("remedy kind", f"`{code.remedy_kind}`"))
    if code.example:
        lines.append(("example", f"`{code.example}`"))
    return f"### {code.code}\n\n" + "".join(f"- **{name}**: {text}\n" for name, text in lines)


def page(old: str) -> str:
    """The page with its entries written anew; what stands before the first entry of a section is kept."""
    sections = re.split(r"^(?=## )", old, flags=re.M)
    for title, reasons in (("Reasons of a plan", True), ("Arguments, foreign descriptors, the environment", False)):
        (place,) = (i for i, section in enumerate(sections) if section.startswith(f"## {title}\n"))
        prose = sections[place].partition("\n### ")[0].rstrip("\n")
        entries = [entry(code) for code in codes() if bool(code.remedy_kind) == reasons]
        sections[place] = "\n".join([prose + "\n", *entries, ""])
    return "".join(sections).rstrip("\n") + "\n"


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

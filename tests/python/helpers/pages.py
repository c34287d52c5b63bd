# SPDX-License-Identifier: Apache-2.0
"""Tables and code of the Markdown pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]


def page(name: str) -> str:
    """The text of a file, by its path in the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """What stands under a heading of the second level."""
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def tables(text: str) -> Iterator[list[dict[str, str]]]:
    """The tables from top to bottom: rows as cells by column."""
    for lines in re.findall(r"(?:^\|.*\n)+", f"{text}\n", re.MULTILINE):
        header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines()]
        yield [dict(zip(header, row, strict=True)) for row in rows]


def blocks(text: str, language: str) -> list[str]:
    """The fenced code of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

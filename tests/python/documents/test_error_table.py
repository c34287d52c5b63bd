"""The tables of docs/reference/errors.md against core/include/dlbridge/error.h; every example is run."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from capsules import Crafted
from torch._subclasses.fake_tensor import FakeTensorMode

import dlbridge
from isolated import run_isolated

ROOT = Path(__file__).parents[3]
HEADER = (ROOT / "core" / "include" / "dlbridge" / "error.h").read_text()
DOCUMENT = (ROOT / "docs" / "reference" / "errors.md").read_text()
# Codes that take C++, a tensor of another accelerator, a foreign exchange table, or the CUDA module.
WITHOUT_EXAMPLE = {
    "undefined_tensor",
    "unsupported_keys",
    "symbolic_shape",
    "framework_error",
    "null_descriptor",
    "no_driver",
    "driver_too_old",
    "no_device",
    "stream_invalid",
    "stream_capturing",
    "device_failed",
    "after_fork",
    "python_exception",
}
NOTHING = "–"


@dataclass
class Row:
    """One row of either table."""

    code: str
    fields: list[str]
    cured_by: str
    means: str
    remedy: str
    example: str


def codes_of_header(macro: str) -> list[list[str]]:
    """The arguments of every X(...) in a macro of the header."""
    body = HEADER.split(f"#define {macro}(X)")[1].split("\n\n")[0]
    return [[part.strip().strip('"') for part in entry.split(",")] for entry in re.findall(r"X\((.*?)\)", body)]


def rows_of(title: str) -> list[Row]:
    """The table under a title of the document."""
    section = DOCUMENT.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    head, _, *body = lines
    rows = []
    for cells in body:
        assert len(cells) == len(head), cells
        row = dict(zip(head, cells, strict=True))
        fields = [field.strip().strip("`") for field in row["field"].split(",")]
        rows.append(
            Row(row["code"].strip("`"), fields, row.get("cured by", ""), row["means"], row["remedy"], row["example"])
        )
    return rows


REASONS = rows_of("Reasons of a plan")
OTHERS = rows_of("Arguments, foreign descriptors, the environment")
EXAMPLES = [row for row in REASONS + OTHERS if row.example != NOTHING]


def test_the_header_was_read() -> None:
    assert codes_of_header("DLBRIDGE_REASON_CODES")[0] == ["undefined_tensor", "tensor", "never"]
    assert codes_of_header("DLBRIDGE_REASON_CODES")[-1][0] == "read_only"
    assert codes_of_header("DLBRIDGE_OTHER_CODES")[0] == ["invalid_argument"]
    assert codes_of_header("DLBRIDGE_OTHER_CODES")[-1] == ["python_exception"]


def test_the_reasons_are_those_of_the_header_in_order_with_field_and_cure() -> None:
    found = [[row.code, row.fields[0], {NOTHING: "never"}.get(row.cured_by, row.cured_by)] for row in REASONS]
    assert found == codes_of_header("DLBRIDGE_REASON_CODES")


def test_the_other_codes_are_those_of_the_header_in_order() -> None:
    assert [[row.code] for row in OTHERS] == codes_of_header("DLBRIDGE_OTHER_CODES")


@pytest.mark.parametrize("row", REASONS + OTHERS, ids=lambda row: row.code)
def test_every_code_says_what_it_means_and_what_works(row: Row) -> None:
    assert row.means.endswith("."), row.means
    assert row.remedy not in ("", NOTHING)


def test_only_what_python_cannot_meet_has_no_example() -> None:
    assert {row.code for row in REASONS + OTHERS if row.example == NOTHING} == WITHOUT_EXAMPLE


def names() -> dict[str, Any]:
    """What the examples use, as the document says."""
    kept: list[Any] = []

    def capsule(**fields: Any) -> Any:
        # Kept until the error is handled: its destructor is Python and must not run while the error is set.
        kept.append(Crafted(**fields).capsule())
        return kept[-1]

    functions = {name: getattr(dlbridge, name) for name in ("explain", "from_dlpack", "to_numpy", "to_torch")}
    modules = {"np": np, "torch": torch, "ml_dtypes": ml_dtypes, "sys": sys, "FakeTensorMode": FakeTensorMode}
    return {"a": np.arange(3, dtype="f4"), "capsule": capsule, **functions, **modules}


@pytest.mark.filterwarnings("ignore:.*(nested|prototype|Quantiz|quantiz|torch.ao).*")
@pytest.mark.parametrize("row", EXAMPLES, ids=lambda row: row.code)
def test_the_example_raises_the_code_with_its_field(row: Row) -> None:
    example = re.fullmatch(r"`(.*)`", row.example)
    assert example, row.example
    if row.code == "unsupported_type":  # the one code that Python knows by another name
        with pytest.raises(TypeError, match="^x is list; expected"):
            exec(example[1], names())
        return
    if "sys.modules" in example[1]:  # hides a package: for good, so elsewhere
        code = f"a = np.arange(3, dtype='f4')\ntry:\n    {example[1]}\nexcept dlbridge.ExchangeError as e:\n"
        answer = run_isolated(code + "    print(e.code, e.field)\n").split()
        assert answer == [row.code, row.fields[0]]
        return
    with pytest.raises(dlbridge.ExchangeError) as caught:
        exec(example[1], names())
    assert (caught.value.code, caught.value.field) == (row.code, row.fields[0])

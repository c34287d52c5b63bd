# SPDX-License-Identifier: Apache-2.0
"""What notebooks show: well-formed, escaped, with nothing to load, and every value in it."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import dlbridge
from dlbridge import _html

ARRAY = np.arange(12.0).reshape(3, 4)


def shown(x: Any) -> ElementTree.Element:
    """The representation, which an XML parser reads too."""
    text = x._repr_html_()
    assert not re.search(r"<script|<link|url\(|href|src=|http", text)
    return ElementTree.fromstring(text)


def rows(page: ElementTree.Element) -> dict[str, str]:
    return {name.text or "": value.text or "" for name, value in page.iter("tr")}


def plan(to: str = "numpy", x: Any = ARRAY, **request: Any) -> dlbridge.Plan:
    return dlbridge.explain(x, to, **request)


# What the drawing says, and how many of its cells are of x, of new memory, and missing.
PLANS: dict[str, tuple[dlbridge.Plan, set[str], tuple[int, int, int]]] = {
    "share": (plan(), {"x", "result", "one memory, two names"}, (8, 0, 0)),
    "copy": (plan(copy=True), {"x", "result", "copy", "96 bytes"}, (8, 8, 0)),
    "cast": (plan(dtype="int8"), {"x", "result", "cast", "12 bytes"}, (8, 8, 0)),
    "refuse": (plan(x=ARRAY.astype(">f4")), {"x", "no result", "refused"}, (8, 0, 8)),
}


@pytest.mark.parametrize("verdict", PLANS)
def test_plan_is_drawn(verdict: str) -> None:
    made, words, cells = PLANS[verdict]
    page = shown(made)
    drawing = page.find("svg")
    assert drawing is not None and made.verdict == verdict
    assert {text.text for text in drawing.iter("text")} == words
    fills = [cell.get("fill") for cell in drawing.iter("rect")]
    assert tuple(fills.count(colour) for colour in (_html._OLD, _html._NEW, None)) == cells
    assert rows(page)["message"] == made.message and rows(page)["verdict"] == verdict
    assert rows(page).get("path", "") == " → ".join(made.path)


def test_staged_plan_names_the_devices(gpu: Any) -> None:
    drawing = shown(plan("torch", device="cuda:0")).find("svg")
    assert drawing is not None
    assert {text.text for text in drawing.iter("text")} == {"x", "result", "stage", "96 bytes", "cpu", "cuda:0"}


def test_tensor_shows_its_attributes() -> None:
    tensor = dlbridge.from_dlpack(ARRAY)
    assert rows(shown(tensor)) == {
        "shape": "(3, 4)",
        "strides": "(4, 1) elements",
        "dtype": "float64",
        "device": "cpu",
        "size": "12",
        "read_only": "False",
        "is_copied": "False",
        "memory": f"96 bytes at {tensor.data_ptr:#x}",
    }


def test_pool_stats_have_units_where_they_are_bytes() -> None:
    stats = dlbridge.PoolStats(*range(2_097_152, 2_097_164))
    table = rows(shown(stats))
    assert tuple(table) == stats._fields
    assert table["registered"] == "2.1 MB (2,097,152 bytes)" and table["hits"] == "2,097,159"


def test_build_info_is_a_dict_with_a_table() -> None:
    info = dlbridge.build_info()
    assert type(info).__mro__[1] is dict and rows(shown(info)) == {name: str(value) for name, value in info.items()}


def test_text_is_escaped() -> None:
    assert "&lt;b&gt;&amp;" in _html.table("t", [("<b>&", "<b>&")]) and "<b>" not in _html.table(
        "<b>", [("<b>", "<b>")]
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB (1,000 bytes)"), (999_960, "1.0 MB (999,960 bytes)")],
)
def test_bytes_have_the_unit_of_messages(count: int, text: str) -> None:
    assert _html.bytes_text(count) == text

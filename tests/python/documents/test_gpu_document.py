# SPDX-License-Identifier: Apache-2.0
"""docs/gpu.md and docs/reference/staging.md: the rules have tests, the tables are complete."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from pages import ROOT, page, section, tables
from simulated_gpu import SimulatedGpu

import dlbridge
from dlbridge.testing.__main__ import parse
from dlbridge.testing.choice import all_cases

DOCUMENT = page("docs/gpu.md")
REFERENCE = page("docs/reference/staging.md")
CASES = [case.name for case in all_cases()]


def table(title: str, document: str = DOCUMENT) -> list[list[str]]:
    """The cells of the first table of a section."""
    return [list(row.values()) for row in next(tables(section(document, title)))]


RULES = table("The rules, and their tests", REFERENCE)


def exists(test: str) -> bool:
    return test in globals() or any(name == test or name.startswith(f"{test}[") for name in CASES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule[0])
def test_rules_have_tests(rule: list[str]) -> None:
    assert len(rule) == 3 and all(rule)
    named = re.findall(r"`([^`]+)`", rule[2])
    assert named and [test for test in named if not exists(test)] == []


def test_rule_names_differ() -> None:
    names = [rule[0] for rule in RULES]
    assert len(names) == len(set(names)) >= 25


def test_order_cases_have_a_rule() -> None:
    named = " ".join(rule[2] for rule in RULES)
    functions = {f"{case.topic}.{case.function}" for case in all_cases() if case.topic == "order"}
    assert [function for function in functions if f"`{function}`" not in named] == []


def test_options_are_complete() -> None:
    parser, _ = parse(["gpu"])
    options = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    described = set(re.findall(r"`(--\w+)", " ".join(row[0] for row in table("Testing your machine"))))
    assert described == options - {"--help"}


def test_codes_are_in_errors_md() -> None:
    errors = page("docs/reference/errors.md")
    for code in [row[0] for row in table("Without a GPU")] + ["`device_not_named`", "`after_fork`"]:
        assert f"\n### {code.strip('`')}\n" in errors, code


def test_examples_exist() -> None:
    for name in [row[0] for row in table("Examples")]:
        assert (ROOT / "docs" / re.search(r"\((.+)\)", name)[1]).exists(), name


# ---- rules that only the simulator's reports can show


def staged_then_written(gpu: SimulatedGpu, own: int, **options: Any) -> list[str]:
    """Stages an array that is then overwritten on its own stream; the kinds of reports."""
    held = gpu.hold(own)
    x = gpu.array(np.ones((256, 256), np.float32), stream=own, late=True)
    future = dlbridge.stage(x, device="cpu", **options)
    gpu.overwrite(x, 7, own)
    held.release()
    future.synchronize(10)
    gpu.synchronize(own)
    return gpu.take_reports()


def test_writes_race_without_snapshot(gpu: SimulatedGpu) -> None:
    stream = gpu.stream()
    assert staged_then_written(gpu, stream, stream=stream) == []
    assert "race" in staged_then_written(gpu, stream, stream=stream, snapshot=False)


def test_foreign_array_needs_its_stream(gpu: SimulatedGpu) -> None:
    stream = gpu.stream()
    assert staged_then_written(gpu, stream, stream=stream) == []
    assert "race" in staged_then_written(gpu, stream)


def test_stream_minus_one_orders_nothing(gpu: SimulatedGpu) -> None:
    stream = gpu.stream()
    assert "race" in staged_then_written(gpu, stream, stream=-1)

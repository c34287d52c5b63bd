# SPDX-License-Identifier: Apache-2.0
"""Reports of a run: lines and a table for people, JSON and JUnit XML for programs."""

from __future__ import annotations

import json
import platform
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dlbridge

from .runner import Outcome

STATES = ("passed", "failed", "skipped")


def counts(outcomes: Sequence[Outcome]) -> Counter[str]:
    """How many of each state."""
    return Counter(outcome.state for outcome in outcomes)


def by_framework(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Those of each framework."""
    own: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        own.setdefault(outcome.framework, []).append(outcome)
    return own


def summary(outcomes: Sequence[Outcome]) -> str:
    """The last line."""
    counted = counts(outcomes)
    return ", ".join(f"{counted[state]} {state}" for state in STATES)


def skips(outcomes: Sequence[Outcome]) -> list[str]:
    """A line for each framework and reason, with how many cases, and which."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for outcome in outcomes:
        if outcome.state == "skipped":
            reasons.setdefault((outcome.framework, outcome.message), []).append(outcome.name)
    lines = []
    for (framework, reason), names in reasons.items():
        functions = list(dict.fromkeys(name.split("[")[0] for name in names))
        shown = ", ".join(functions[:6]) + (f" and {len(functions) - 6} more" if len(functions) > 6 else "")
        lines.append(f"skipped {len(names)} of {framework}: {reason} ({shown})")
    return lines


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """A row for each framework and a column for each topic: what passed, and what did not."""
    topics = sorted(dict.fromkeys(outcome.topic for outcome in outcomes), key="provider".__eq__)
    rows = [["framework", *topics, *STATES]]
    for framework, own in by_framework(outcomes).items():
        cells = [_cell(counts([outcome for outcome in own if outcome.topic == topic])) for topic in topics]
        rows.append([framework, *cells, *(str(counts(own)[state]) for state in STATES)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "-+-".join("-" * width for width in widths), *lines[1:]]


def _cell(counted: Counter[str]) -> str:
    if counted["failed"]:
        return f"{counted['failed']} FAILED"
    return f"{counted['passed']} passed" if counted["passed"] else "-"


def to_json(outcomes: Sequence[Outcome], reasons: dict[str, str]) -> str:
    """Everything."""
    frameworks: dict[str, Any] = {}
    for name, own in by_framework(outcomes).items():
        counted = counts(own)
        frameworks[name] = {**{state: counted[state] for state in STATES}, "reason": reasons.get(name)}
    document = {
        "dlbridge": dict(dlbridge.build_info()),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
        **{state: counts(outcomes)[state] for state in STATES},
        "frameworks": frameworks,
        "cases": [
            {
                "framework": outcome.framework,
                "name": outcome.name,
                "state": outcome.state,
                "seconds": round(outcome.seconds, 6),
                "message": outcome.message,
            }
            for outcome in outcomes
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def to_junit(outcomes: Sequence[Outcome]) -> str:
    """A suite for each framework."""
    root = ElementTree.Element("testsuites", name="dlbridge.testing")
    for framework, own in by_framework(outcomes).items():
        counted = counts(own)
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=framework,
            tests=str(len(own)),
            failures=str(counted["failed"]),
            errors="0",
            skipped=str(counted["skipped"]),
            time=f"{sum(outcome.seconds for outcome in own):.3f}",
        )
        for outcome in own:
            name = outcome.name.partition(".")[2]
            made = ElementTree.SubElement(
                suite, "testcase", classname=f"{framework}.{outcome.topic}", name=name, time=f"{outcome.seconds:.6f}"
            )
            if outcome.state == "failed":
                ElementTree.SubElement(made, "failure", message=_plain(outcome.message)).text = _plain(outcome.details)
            elif outcome.state == "skipped":
                ElementTree.SubElement(made, "skipped", message=_plain(outcome.message))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _plain(text: str) -> str:
    """Without what XML cannot say."""
    return "".join(sign if sign in "\n\t" or sign.isprintable() else "?" for sign in text)


def write(path: Path | None, text: str) -> None:
    """Where it was asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

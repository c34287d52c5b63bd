# SPDX-License-Identifier: Apache-2.0
"""results.json and results.md of scripts/gpu: one document, written whole again whenever something was added."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

VERDICTS = ("passed", "FAILED", "BROKEN", "no bar", "skipped")


class Document:
    """What a run has found so far. Owns: the two files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.content: dict[str, Any] = {
            "found": "", "fingerprint": {}, "steps": [], "answers": [], "cases": [], "bars": []
        }  # fmt: skip

    def set_found(self, sentence: str) -> None:
        """The first line."""
        self.content["found"] = sentence
        self.write()

    def set_fingerprint(self, facts: dict[str, str]) -> None:
        """Facts about the machine; later ones are added."""
        self.content["fingerprint"].update(facts)
        self.write()

    def step(self, name: str, state: str, seconds: float, note: str) -> None:
        """One step that has ended: "done", "failed" or "skipped"."""
        self.content["steps"].append({"name": name, "state": state, "seconds": round(seconds, 1), "note": note})
        self.write()

    def answer(self, case: str, fact: str, value: str) -> None:
        """A fact that a probe has found out."""
        self.content["answers"].append({"case": case, "fact": fact, "value": value})
        self.write()

    def case(self, source: str, name: str, state: str, note: str) -> None:
        """A case of a test suite that did not go well. The others are counted by the step."""
        self.content["cases"].append({"source": source, "name": name, "state": state, "note": note})
        self.write()

    def set_bars(self, source: str, entries: list[dict[str, Any]]) -> None:
        """All bars so far of the program `source`, in place of what it had."""
        others = [entry for entry in self.content["bars"] if entry["source"] != source]
        self.content["bars"] = others + [{**entry, "source": source} for entry in entries]
        self.write()

    def failed(self) -> bool:
        """Whether a step failed, a bar was missed or a case was broken."""
        return any(step["state"] == "failed" for step in self.content["steps"]) or any(
            entry["verdict"] in ("FAILED", "BROKEN") for entry in self.content["bars"]
        )

    def write(self) -> None:
        """Both files, each whole at any moment."""
        for name, text in (
            ("results.json", json.dumps(self.content, indent=1) + "\n"),
            ("results.md", self.markdown()),
        ):
            partial = self._folder / (name + ".partial")
            partial.write_text(text)
            os.replace(partial, self._folder / name)

    def markdown(self) -> str:
        """Tables for people."""
        content = self.content
        parts = [content["found"], "", "# Staging, measured"]
        rows = [(one["name"], one["state"], f"{one['seconds']:.0f}", one["note"]) for one in content["steps"]]
        parts += _section("Steps", ("Step", "State", "Seconds", ""), rows)
        parts += _section("Machine", ("", ""), list(content["fingerprint"].items()))
        rows = [(one["case"], one["fact"], one["value"]) for one in content["answers"]]
        parts += _section("Answers", ("Case", "Fact", "Value"), rows)
        rows = [(one["source"], one["name"], one["state"], one["note"]) for one in content["cases"]]
        parts += _section("Cases that failed", ("Suite", "Case", "State", ""), rows)
        bars = content["bars"]
        counts = {verdict: sum(entry["verdict"] == verdict for entry in bars) for verdict in VERDICTS}
        summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        parts += _section(
            "Bars",
            ("Bar", "Figure", "Measured", "95 % interval", "Target", "Goal", "Verdict", "p50 / p99 in µs", ""),
            [_row(entry) for entry in bars],
            summary,
        )
        if not bars and not content["answers"]:
            parts += ["", "Nothing was measured."]
        return "\n".join(parts) + "\n"


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    measured = interval = ""
    if "value" in entry:
        measured = f"{_number(entry['value'])} {entry['unit']}"
        interval = f"{_number(entry['low'])} to {_number(entry['high'])}"
    target = "" if entry["target"] is None else f"{entry['sense']} {entry['target']:g}"
    goal = "" if entry["goal"] is None else f"{entry['goal']:g}"
    times = "; ".join(
        f"{one['name']}: {one['p50'] * 1e6:.1f} / {one['p99'] * 1e6:.1f}" for one in entry.get("series", ())
    )
    return (entry["name"], entry["figure"], measured, interval, target, goal, entry["verdict"], times, entry["note"])


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def _section(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]], summary: str = "") -> list[str]:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    if not rows:
        return []
    lead = [summary, ""] if summary else []
    return ["", f"## {title}", "", *lead, line(head), "|" + "---|" * len(head), *(line(row) for row in rows)]

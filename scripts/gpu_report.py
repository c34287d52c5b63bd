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
        self.content: dict[str, Any] = {"fingerprint": {}, "steps": [], "bars": []}

    def set_fingerprint(self, facts: dict[str, str]) -> None:
        """Facts about the machine; later ones are added."""
        self.content["fingerprint"].update(facts)
        self.write()

    def step(self, name: str, state: str, seconds: float, note: str) -> None:
        """One step that has ended: "done", "failed" or "skipped"."""
        self.content["steps"].append({"name": name, "state": state, "seconds": round(seconds, 1), "note": note})
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
        parts = ["# Staging, measured", "", *_table(("", ""), list(self.content["fingerprint"].items()))]
        if self.content["steps"]:
            rows = [(one["name"], one["state"], f"{one['seconds']:.0f}", one["note"]) for one in self.content["steps"]]
            parts += ["", "## Steps", "", *_table(("Step", "State", "Seconds", ""), rows)]
        bars = self.content["bars"]
        if bars:
            counts = {verdict: sum(entry["verdict"] == verdict for entry in bars) for verdict in VERDICTS}
            summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
            parts += ["", "## Bars", "", summary, ""]
            parts += _table(
                ("Bar", "Figure", "Measured", "95 % interval", "Target", "Goal", "Verdict", "p50 / p99 in µs", ""),
                [_row(entry) for entry in bars],
            )
        else:
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


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *(line(row) for row in rows)]

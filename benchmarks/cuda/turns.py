# SPDX-License-Identifier: Apache-2.0
"""Takes turns and judges them. bars.py judges what the C++ programs measured. Needs the standard library alone.

A bar is passed where the whole 95 % interval of its figure is on the right side of the target.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Rounds of which every time is written; of more, such as latency samples, the percentiles alone.
MAX_TIMES = 100
#: Samples of latencies of which one median is made.
BLOCK = 500


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, interpolated linearly between neighbours."""
    if not values:
        raise ValueError("no values: there is no quantile of nothing")
    if not 0 <= share <= 1:
        raise ValueError("a share lies between 0 and 1")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return quantile(values, 0.5)


def bootstrap_median(values: Sequence[float], seed: int, resamples: int = 10_000) -> tuple[float, float, float]:
    """The median, and the 2.5 and 97.5 percentiles of medians of as many values drawn with replacement."""
    middle = median(values)
    draw = random.Random(seed).choices
    medians = [median(draw(values, k=len(values))) for _ in range(resamples)]
    return middle, quantile(medians, 0.025), quantile(medians, 0.975)


def medians_of_blocks(samples: Sequence[float]) -> list[float]:
    """Times of calls that follow one another depend on each other; medians of blocks hardly do."""
    return [median(samples[begin : begin + BLOCK]) for begin in range(0, len(samples) - BLOCK + 1, BLOCK)]


def interleave(
    contenders: dict[str, Callable[[], float]], warm_ups: int, rounds: int, order: random.Random
) -> dict[str, list[float]]:
    """Every contender once a round, in an order chosen anew for each; the seconds that each answers with."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(-warm_ups, rounds):
        order.shuffle(names)
        for name in names:
            took = contenders[name]()
            if turn >= 0:
                seconds[name].append(took)
    return seconds


@dataclass(frozen=True)
class Bar:
    """One promise: the figure of every round, and which side of the target is the right one."""

    name: str
    figure: str
    sense: str  # "at least" or "at most"
    target: float | None
    goal: float | None = None
    unit: str = "x"


def judge(bar: Bar, low: float, high: float) -> str:
    """What the interval says about the bar."""
    if bar.target is None:
        return "no bar"
    right = low >= bar.target if bar.sense == "at least" else high <= bar.target
    return "passed" if right else "FAILED"


def outcome(
    bar: Bar, values: Sequence[float], series: dict[str, list[float]], seed: int, note: str = ""
) -> dict[str, Any]:
    """One entry of the JSON."""
    middle, low, high = bootstrap_median(values, seed)
    entry = _head(bar, judge(bar, low, high), note)
    entry.update(
        value=middle, low=low, high=high, values=list(values), series=[_series(*one) for one in series.items()]
    )
    return entry


def not_measured(bar: Bar, verdict: str, why: str) -> dict[str, Any]:
    """One that is "skipped" for a reason that is no mistake, or "BROKEN"."""
    return _head(bar, verdict, why)


def _head(bar: Bar, verdict: str, note: str) -> dict[str, Any]:
    return {
        "name": bar.name,
        "figure": bar.figure,
        "unit": bar.unit,
        "sense": bar.sense,
        "target": bar.target,
        "goal": bar.goal,
        "verdict": verdict,
        "note": note,
    }


def _series(name: str, seconds: list[float]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": name,
        "count": len(seconds),
        "p50": median(seconds),
        "p99": quantile(seconds, 0.99),
    }
    if len(seconds) <= MAX_TIMES:
        entry["seconds"] = seconds
    return entry


def line_of(entry: dict[str, Any]) -> str:
    """ "d2h, 64 MiB: 8.4 x [8.2, 8.5], at least 8: passed" """
    if "value" not in entry:
        return f"{entry['name']}: {entry['verdict']}: {entry['note']}"
    line = f"{entry['name']}: {entry['value']:.4g} {entry['unit']} [{entry['low']:.4g}, {entry['high']:.4g}]"
    if entry["target"] is not None:
        line += f", {entry['sense']} {entry['target']:g}"
    if entry["goal"] is not None:
        line += f" (goal {entry['goal']:g})"
    line += f": {entry['verdict']}"
    return line + (f" ({entry['note']})" if entry["note"] else "")


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is whole at any moment."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


class Report:
    """The entries so far: a line each, and the JSON anew after each."""

    def __init__(self, path: Path | None, facts: dict[str, str]) -> None:
        self.entries: list[dict[str, Any]] = []
        self._path = path
        self._facts = facts
        self._write()

    def add(self, entry: dict[str, Any]) -> None:
        """Prints the line once the file has it."""
        self.entries.append(entry)
        self._write()
        print(line_of(entry), flush=True)

    def any_failed(self) -> bool:
        """Whether a bar was missed or a case was broken."""
        return any(entry["verdict"] in ("FAILED", "BROKEN") for entry in self.entries)

    def _write(self) -> None:
        if self._path is not None:
            write_whole(self._path, json.dumps({**self._facts, "bars": self.entries}, indent=1) + "\n")

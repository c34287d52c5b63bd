# SPDX-License-Identifier: Apache-2.0
"""Plots of what overhead.py and copies.py have measured.

    .venv/bin/python benchmarks/plots.py OVERHEAD.json COPIES.json [--into FOLDER]

Writes overhead.svg (cost against rank and size) and copies.svg (each race of host copies). Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update(
    {"svg.hashsalt": "dlbridge", "svg.fonttype": "none", "axes.grid": True, "grid.alpha": 0.3, "font.size": 8}
)
import matplotlib.pyplot as plt  # noqa: E402

NO_DATE = {"Date": None}


def overhead(flatness: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """Nanoseconds of a conversion that shares memory."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.6), sharey=True, layout="constrained")
    for axis, by in zip(axes, ("rank", "bytes"), strict=True):
        for name, points in flatness.items():
            if name.endswith(by):
                axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name.split()[0])
        axis.set_xlabel("dimensions" if by == "rank" else "bytes")
        if by == "bytes":
            axis.set_xscale("log", base=2)
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("ns a call")
    axes[0].legend()
    figure.savefig(path, metadata=NO_DATE)


def copies(tables: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """The ratio of every race; right of 1 dlbridge is faster."""
    rows: dict[str, dict[str, dict[str, list[float]]]] = {}  # table -> label -> size -> ratios
    for table, races in tables.items():
        for race in races:
            call, kind, size = race["name"].rsplit(", ", 2)
            label = kind if table == "casts" else call
            rows.setdefault(table, {}).setdefault(label, {}).setdefault(size, []).append(race["ratio"])
    heights = [len(labels) for labels in rows.values()]
    figure, axes = plt.subplots(
        len(rows), 1, figsize=(8, 0.24 * sum(heights) + 1.5), height_ratios=heights, sharex=True, layout="constrained"
    )
    for axis, (table, labels) in zip(axes, rows.items(), strict=True):
        sizes = list(dict.fromkeys(size for found in labels.values() for size in found))
        for place, size in enumerate(sizes):
            points = [
                (ratio, y - 0.3 + 0.6 * place / max(len(sizes) - 1, 1))
                for y, found in enumerate(labels.values())
                for ratio in found.get(size, ())
            ]
            axis.plot(*zip(*points, strict=True), "o", markersize=2.5, label=size)
        axis.set_yticks(range(len(labels)), labels)
        axis.invert_yaxis()
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_title(table, loc="left", fontsize=8, fontweight="bold")
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    ticks = (0.5, 1, 2, 5, 10, 20)
    axes[-1].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes[-1].set_xlabel("best peer's time by dlbridge's")
    figure.savefig(path, metadata=NO_DATE)


def main() -> None:
    """Reads the results, writes the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overhead", type=Path)
    parser.add_argument("copies", type=Path)
    parser.add_argument("--into", type=Path, default=Path())
    options = parser.parse_args()
    options.into.mkdir(parents=True, exist_ok=True)
    overhead(json.loads(options.overhead.read_text())["flatness"], options.into / "overhead.svg")
    copies(json.loads(options.copies.read_text())["tables"], options.into / "copies.svg")


if __name__ == "__main__":
    main()

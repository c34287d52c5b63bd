# SPDX-License-Identifier: Apache-2.0
"""Plots and tables of what overhead.py and copies.py have measured.

    .venv/bin/python benchmarks/plots.py OVERHEAD.json COPIES.json [--into FOLDER]

Writes overhead.svg (cost against rank and size), copies.svg (each race of host copies) and tables.md, the tables of
docs/performance.md. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Iterator
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


def _table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    head = list(head)
    for cells in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(str(cell) for cell in cells) + " |"
    yield ""


def _number(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 2 else f"{ratio:.1f}"


def _grid(corner: str, cells: dict[tuple[str, str], list[float]], pick: str) -> Iterator[str]:
    """A row for each first part of a key, a column for each second one."""
    rows, columns = dict.fromkeys(row for row, _ in cells), dict.fromkeys(column for _, column in cells)

    def text(ratios: list[float]) -> str:
        return " / ".join(map(_number, ratios)) if pick == "all" else _number(statistics.median(ratios))

    yield from _table([corner, *columns], [[row, *(text(cells[row, column]) for column in columns)] for row in rows])


def tables(overhead: dict[str, Any], copies: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Lines of Markdown."""
    rows = overhead["rows"]
    yield from _table(
        ("conversion", "dlbridge, ns", "floor, ns", "dlbridge / floor"),
        (
            (row["name"], f"{row['dlbridge_ns']:.0f}", f"{row['peer_ns']:.0f}", f"{1 / row['ratio']:.2f}")
            for row in rows
            if row["peer"] == "floor"
        ),
    )
    yield from _table(
        ("conversion", "beside", "ratio"),
        ((row["name"], row["peer"], f"{row['ratio']:.2f}") for row in rows if row["peer"] != "floor"),
    )
    for by in ("rank", "bytes"):
        found = {name: points for name, points in overhead["flatness"].items() if name.endswith(by)}
        yield from _table(
            (by, *(x for x, _ in next(iter(found.values())))),
            ((f"`{name.split()[0]}`, ns", *(f"{y:.0f}" for _, y in points)) for name, points in found.items()),
        )
    ratios = {table: [race["ratio"] for race in races] for table, races in copies.items()}
    yield from _table(
        ("table", "races", "lost", "median"),
        (
            (name, len(all_), sum(r < 1 for r in all_), _number(statistics.median(all_)))
            for name, all_ in ratios.items()
        ),
    )
    for table, corner, pick in (
        ("layouts", "layout", "all"),
        ("contiguous", "call", "median"),
        ("casts", "cast", "median"),
    ):
        cells: dict[tuple[str, str], list[float]] = {}
        for race in copies[table]:
            call, kind, size = race["name"].rsplit(", ", 2)
            key = (kind, f"{call.partition('(')[0]}, {size}") if table == "casts" else (call, size)
            cells.setdefault(key, []).append(race["ratio"])
        yield from _grid(corner, cells, pick)


def main() -> None:
    """Reads the results, writes plots and tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overhead", type=Path)
    parser.add_argument("copies", type=Path)
    parser.add_argument("--into", type=Path, default=Path())
    options = parser.parse_args()
    options.into.mkdir(parents=True, exist_ok=True)
    exchange, races = json.loads(options.overhead.read_text()), json.loads(options.copies.read_text())["tables"]
    overhead(exchange["flatness"], options.into / "overhead.svg")
    copies(races, options.into / "copies.svg")
    (options.into / "tables.md").write_text("\n".join(tables(exchange, races)))


if __name__ == "__main__":
    main()

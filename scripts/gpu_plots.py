# SPDX-License-Identifier: Apache-2.0
"""Tables and plots of what scripts/gpu has measured, for docs/measurements.

    .venv/bin/python scripts/gpu_plots.py OUTDIR/results.json [--into docs/measurements/gpu-NAME] [--tables-only]

Writes staging.md, and bandwidth.svg, latency.svg and strided.svg where the results have such figures. Needs matplotlib
for the plots. Every number comes from the results; nothing is computed but the limit of the bus, which follows from
its generation and width and is called so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gpu_report

#: Gigabytes a second and lane in one direction: the line rate and its coding, without what packets' heads take.
LANE = {"1": 0.25, "2": 0.5, "3": 0.985, "4": 1.969, "5": 3.938, "6": 7.563}
SHOWN_FACTS = ("GPU", "driver", "PCIe generation, now", "PCIe width, now", "CPU", "kernel", "torch", "commit")


@dataclass
class Figures:
    """What the plots show, out of the entries of one results.json."""

    #: contender -> bytes -> seconds, p50
    bandwidth: dict[str, dict[int, float]] = field(default_factory=dict)
    #: contender -> bytes -> (p50, p99) in seconds
    latency: dict[str, dict[int, tuple[float, float]]] = field(default_factory=dict)
    #: layout -> contender -> (bytes, seconds)
    strided: dict[str, dict[str, tuple[int, float]]] = field(default_factory=dict)


def figures(bars: list[dict[str, Any]]) -> Figures:
    """Of those entries that say what they are about: those of staging_python.py."""
    found = Figures()
    for entry in bars:
        size = entry.get("bytes")
        for one in entry.get("series", ()) if size else ():
            if entry["kind"] == "bandwidth":
                found.bandwidth.setdefault(one["name"], {})[size] = one["p50"]
            elif entry["kind"] == "latency":
                found.latency.setdefault(one["name"], {})[size] = (one["p50"], one["p99"])
            elif entry["kind"] == "strided":
                found.strided.setdefault(entry["layout"], {})[one["name"]] = (size, one["p50"])
    return found


def bus_limit(fingerprint: dict[str, str]) -> tuple[float, str] | None:
    """Gigabytes a second that the bus allows, and its name; None where the fingerprint does not say."""
    generation = fingerprint.get("PCIe generation, now after the bars") or fingerprint.get("PCIe generation, now", "")
    width = fingerprint.get("PCIe width, now after the bars") or fingerprint.get("PCIe width, now", "")
    if generation not in LANE or not width.isdigit():
        return None
    return LANE[generation] * int(width), f"PCIe {generation}.0 x{width}"


def size_name(size: int) -> str:
    """ "64 MiB" """
    for power, name in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << power and size % (1 << power) == 0:
            return f"{size >> power} {name}"
    return f"{size} B"


# ---- Tables


def markdown(content: dict[str, Any], found: Figures, plots: list[str]) -> str:
    """staging.md."""
    facts = content["fingerprint"]
    parts = ["# Staging from Python, measured", ""]
    parts += gpu_report._table(("", ""), [(name, facts[name]) for name in SHOWN_FACTS if name in facts])
    limit = bus_limit(facts)
    if limit is not None:
        parts += ["", f"The bus is {limit[1]}: at most {limit[0]:.1f} GB/s in one direction, by its line rate."]
    if found.bandwidth:
        parts += ["", "## GPU to NumPy: gigabytes a second", "", *_image("bandwidth.svg", plots)]
        parts += _by_size(found.bandwidth, lambda size, seconds: f"{size / seconds / 1e9:.2f}")
    if found.latency:
        parts += ["", "## Small arrays: microseconds, p50 / p99", "", *_image("latency.svg", plots)]
        parts += _by_size(found.latency, lambda size, times: f"{times[0] * 1e6:.1f} / {times[1] * 1e6:.1f}")
    if found.strided:
        names = list(dict.fromkeys(name for row in found.strided.values() for name in row))
        rows = [
            (layout, *(f"{row[name][0] / row[name][1] / 1e9:.2f}" if name in row else "" for name in names))
            for layout, row in found.strided.items()
        ]
        parts += ["", "## Layouts: gigabytes a second", "", *_image("strided.svg", plots)]
        parts += gpu_report._table(("layout", *names), rows)
    parts += ["", "## Bars", ""]
    measured = [entry for entry in content["bars"] if entry["verdict"] != "skipped"]
    parts += gpu_report._table(
        ("Bar", "Figure", "Measured", "95 % interval", "Target", "Goal", "Verdict", "p50 / p99 in µs", ""),
        [gpu_report._row(entry) for entry in measured],
    )
    left_out = len(content["bars"]) - len(measured)
    parts += ["", f"{left_out} bars were skipped; results.json says why.", ""] if left_out else [""]
    return "\n".join(parts)


def _image(name: str, plots: list[str]) -> list[str]:
    return [f"![{name.removesuffix('.svg')}]({name})", ""] if name in plots else []


def _by_size(table: dict[str, dict[int, Any]], cell: Any) -> list[str]:
    sizes = sorted({size for column in table.values() for size in column})
    rows = [
        (size_name(size), *(cell(size, column[size]) if size in column else "" for column in table.values()))
        for size in sizes
    ]
    return gpu_report._table(("size", *table), rows)


# ---- Plots


def draw(found: Figures, fingerprint: dict[str, str], folder: Path) -> list[str]:
    """The plots for which there are figures; the names of their files."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "dlbridge", "axes.grid": True, "grid.alpha": 0.3})
    import matplotlib.pyplot as plt

    drawn = []
    for name, chosen, plot in (
        ("bandwidth.svg", found.bandwidth, _draw_bandwidth),
        ("latency.svg", found.latency, _draw_latency),
        ("strided.svg", found.strided, _draw_strided),
    ):
        if not chosen:
            continue
        figure, axes = plt.subplots(figsize=(8, 4.5))
        plot(axes, chosen, fingerprint)
        axes.set_title(fingerprint.get("GPU", ""))
        axes.legend(fontsize="small")
        figure.savefig(folder / name, bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
        drawn.append(name)
    return drawn


def _size_axis(axes: Any, table: dict[str, dict[int, Any]]) -> None:
    sizes = sorted({size for column in table.values() for size in column})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [size_name(size) for size in sizes], rotation=30, fontsize="small")
    axes.set_xlabel("bytes of the array")


def _draw_bandwidth(axes: Any, table: dict[str, dict[int, float]], fingerprint: dict[str, str]) -> None:
    for name, column in table.items():
        sizes = sorted(column)
        axes.plot(sizes, [size / column[size] / 1e9 for size in sizes], marker="o", label=name)
    if (limit := bus_limit(fingerprint)) is not None:
        axes.axhline(limit[0], linestyle="--", color="black", label=f"limit of the bus, {limit[1]}")
    _size_axis(axes, table)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("GB/s, GPU to NumPy")


def _draw_latency(axes: Any, table: dict[str, dict[int, tuple[float, float]]], _: dict[str, str]) -> None:
    for name, column in table.items():
        sizes = sorted(column)
        (line,) = axes.plot(sizes, [column[size][0] * 1e6 for size in sizes], marker="o", label=f"{name}, p50")
        axes.plot(sizes, [column[size][1] * 1e6 for size in sizes], linestyle=":", color=line.get_color())
    _size_axis(axes, table)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("µs (dotted: p99)")


def _draw_strided(axes: Any, table: dict[str, dict[str, tuple[int, float]]], fingerprint: dict[str, str]) -> None:
    names = list(dict.fromkeys(name for row in table.values() for name in row))
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        rows = [(number, *row[name]) for number, row in enumerate(table.values()) if name in row]
        where = [number + (place - (len(names) - 1) / 2) * width for number, _, _ in rows]
        axes.bar(where, [size / seconds / 1e9 for _, size, seconds in rows], width, label=name)
    if (limit := bus_limit(fingerprint)) is not None:
        axes.axhline(limit[0], linestyle="--", color="black", label=f"limit of the bus, {limit[1]}")
    axes.set_xticks(range(len(table)), list(table))
    axes.set_ylabel("GB/s, GPU to NumPy")


# ---- The command


def default_folder(content: dict[str, Any]) -> Path:
    """docs/measurements/gpu-NAME, after the GPU."""
    name = re.sub(r"[^a-z0-9]+", "-", content["fingerprint"].get("GPU", "unknown").lower()).strip("-")
    return Path(__file__).resolve().parent.parent / "docs" / "measurements" / f"gpu-{name}"


def main(arguments: list[str] | None = None) -> int:
    """Ends with 0, with 2 where the results or matplotlib are missing, with 3 where nothing was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results.json of scripts/gpu")
    parser.add_argument("--into", type=Path, metavar="FOLDER")
    parser.add_argument("--tables-only", action="store_true", help="no plots: needs no matplotlib")
    options = parser.parse_args(arguments)
    if not options.results.is_file():
        parser.error(f"{options.results} is no file; expected results.json of scripts/gpu")
    if not options.tables_only and importlib.util.find_spec("matplotlib") is None:
        parser.error("matplotlib is not installed: pip install matplotlib, or pass --tables-only")
    content = json.loads(options.results.read_text())
    if not any("value" in entry for entry in content["bars"]):
        print("these results hold no measurement: nothing written", file=sys.stderr)
        return 3
    folder = options.into or default_folder(content)
    folder.mkdir(parents=True, exist_ok=True)
    found = figures(content["bars"])
    plots = [] if options.tables_only else draw(found, content["fingerprint"], folder)
    (folder / "staging.md").write_text(markdown(content, found, plots))
    print(f"written: {', '.join(str(folder / name) for name in ('staging.md', *plots))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Runs a C++ program that measures, dlbridge_cuda_bars or dlbridge_cuda_pool_bars, and judges its figures.

    python3 benchmarks/cuda/bars.py PROGRAM [--json PATH] [arguments of the program]

Ends with 0 if no bar was missed, 1 if one was or a case was broken; otherwise as the program does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from turns import Bar, Report, medians_of_blocks, not_measured, outcome


def entry_of(line: dict[str, Any], seed: int) -> dict[str, Any]:
    """The judged entry of a line that the program wrote of one bar (report.h)."""
    bar = Bar(**{key: line[key] for key in ("name", "figure", "sense", "target", "goal", "unit")})
    if "verdict" in line:
        return not_measured(bar, line["verdict"], line["note"])
    series = {one["name"]: one["seconds"] for one in line.get("series", [])}
    if "values" in line:
        values = line["values"]
    elif line["ratio"] == "speed":
        values = [baseline / ours for ours, baseline in zip(*series.values(), strict=True)]
    else:
        values = [ours / baseline for ours, baseline in zip(*map(medians_of_blocks, series.values()), strict=True)]
    return outcome(bar, values, series, seed, line["note"])


def main() -> int:
    """See the module's text."""
    command_line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command_line.add_argument("program", type=Path)
    command_line.add_argument("--json", type=Path)
    options, arguments = command_line.parse_known_args()
    report, seed = None, 0
    with subprocess.Popen([options.program, *arguments], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        for text in program.stdout:
            if not text.startswith("{"):
                print(text, end="")
                continue
            line = json.loads(text)
            if report is None:
                report, seed = Report(options.json, line["facts"]), int(line["facts"]["seed"])
            else:
                report.add(entry_of(line, seed))
    if report is not None and program.returncode == 0 and report.any_failed():
        return 1
    return program.returncode


if __name__ == "__main__":
    sys.exit(main())

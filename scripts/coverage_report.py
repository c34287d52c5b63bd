# SPDX-License-Identifier: Apache-2.0
"""Adds up gcov's counts of a build: line coverage by module and file, and whether the bars are reached.

    python scripts/coverage_report.py BUILD_FOLDER [--lines]

--lines prints the lines that never ran. A line counts as run where any test program ran it, in any template instance.
Ends with status 1 where a module stays below its bar. gcov must be of the version of the compiler (GCOV names another).
"""

import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What a module needs, in per cent of its lines; None where there is no bar.
BARS = {"core": 95.0, "adapters/numpy": 90.0, "adapters/torch": 90.0, "cuda": None, "python/src": None}

# File, relative to the repository -> line -> how often it ran.
Counts = dict[str, dict[int, int]]


def counts_of(build: Path) -> Counts:
    """Runs gcov over every object file of the build: what no program loaded counts as never run."""
    notes = [str(note) for note in sorted(build.resolve().rglob("*.gcno"))]
    if not notes:
        sys.exit(f"{build} has no .gcno files: build it with the preset coverage")
    counts: Counts = defaultdict(lambda: defaultdict(int))
    with tempfile.TemporaryDirectory() as folder:
        for note in notes:
            data = Path(note).with_suffix(".gcda")
            command = [os.environ.get("GCOV", "gcov"), "--json-format", str(data if data.exists() else note)]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            for report in Path(folder).glob("*.gcov.json.gz"):
                add(json.loads(gzip.decompress(report.read_bytes())), counts)
                report.unlink()
    return counts


def add(report: dict, counts: Counts) -> None:
    """Adds one object file's report."""
    for file in report["files"]:
        path = (ROOT / file["file"]).resolve()  # -ffile-prefix-map makes them relative to the repository
        if not path.is_relative_to(ROOT):
            continue
        name = str(path.relative_to(ROOT))
        if module_of(name) is not None:
            for line in file["lines"]:
                counts[name][line["line_number"]] += line["count"]


def module_of(name: str) -> str | None:
    """The module that a file belongs to, if it is one of ours."""
    return next((module for module in BARS if name.startswith(module + "/")), None)


def row(name: str, lines: list[int], note: str = "") -> str:
    """One line of the table. `lines` holds how often each line ran."""
    run = sum(count > 0 for count in lines)
    return f"{name:<48} {run:>5} of {len(lines):>5}  {percent(lines):>6.1f} %  {note}".rstrip()


def percent(lines: list[int]) -> float:
    """Share of the lines that ran."""
    return 100.0 * sum(count > 0 for count in lines) / len(lines) if lines else 0.0


def main() -> int:
    """Returns 1 where a bar is missed."""
    counts = counts_of(Path(sys.argv[1]))
    below = False
    for module, bar in BARS.items():
        files = {name: lines for name, lines in sorted(counts.items()) if module_of(name) == module}
        total = [count for lines in files.values() for count in lines.values()]
        missed = bar is not None and percent(total) < bar
        below |= missed
        note = "" if bar is None else f"{'BELOW' if missed else 'reaches'} the bar of {bar:.0f} %"
        print(row(module, total, note))
        for name, lines in files.items():
            print(row("  " + name, list(lines.values())))
            if "--lines" in sys.argv:
                for number in sorted(number for number, count in lines.items() if count == 0):
                    print(f"{number:>10}  {(ROOT / name).read_text().splitlines()[number - 1]}")
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())

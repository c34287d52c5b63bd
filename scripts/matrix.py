# SPDX-License-Identifier: Apache-2.0
"""Tests the wheel with other versions, writes docs/compatibility.md. scripts/matrix says how to call it."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import wheel

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "matrix"
WHEELS = FOLDER / "wheels"
DOCUMENT = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- written by scripts/matrix: begin -->", "<!-- written by scripts/matrix: end -->"
TOOLS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis")
# What torch needs on a CPU.
TORCH_NEEDS = ("filelock", "typing-extensions", "setuptools", "sympy", "networkx", "jinja2", "fsspec")
# What depends on the versions: conversions between the frameworks, their lifetimes, tiers and refusals.
CORE = [
    f"tests/python/{name}.py"
    for name in (
        *("adapters/test_modes", "convert/test_containers", "convert/test_copies", "convert/test_explain"),
        *("convert/test_lifetime", "convert/test_order", "convert/test_refusals", "convert/test_shares_memory"),
        *("convert/test_sharing", "tensor/test_tensor"),
    )
]
WITHOUT_TORCH = ["tests/python/core", "tests/python/sources", "tests/python/tensor"]
HEAD = ["combination", "Python", "torch", "NumPy", "torch tier", "passed", "failed", "skipped", "speed", "date"]
NUMPY_1, NUMPY_2_0, NEWEST = "1.26.4", "2.0.2", ""
FACTS = """
import json, platform
import numpy
import dlbridge
info = dlbridge.build_info()
print(json.dumps([platform.python_version(), info["torch"] or "–", numpy.__version__, info["torch_tier"]]))
print(info["torch_tier_reason"])
"""
# torch.from_numpy's CPU time divided by to_torch's: the median of 400 pairs. Other processes add little to CPU time.
SPEED = """
import statistics, time, timeit
import numpy as np, dlbridge, torch
a = np.zeros((4, 5))
def measure(function):
    return timeit.timeit("f(a)", globals={"f": function, "a": a}, number=500, timer=time.thread_time)
pairs = [(measure(torch.from_numpy), measure(dlbridge.to_torch)) for _ in range(410)][10:]
print(f"{statistics.median(theirs / ours for theirs, ours in pairs):.2f}")
"""


@dataclass
class Combination:
    """One environment. `numpy`: empty for the newest; `torch`: empty for none."""

    name: str
    torch: str
    python: str = "3.11"
    numpy: str = NEWEST

    @property
    def interpreter(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def folder(self) -> Path:
        return FOLDER / "environments" / self.name


TORCHES = [f"2.{minor}" for minor in range(6, 16)]
COMBINATIONS = [
    *(Combination(f"torch-{torch}", torch) for torch in TORCHES),
    Combination("numpy-1", "2.9", numpy=NUMPY_1),
    Combination("numpy-2.0", "2.11", numpy=NUMPY_2_0),
    Combination("python-3.10", "2.14", python="3.10"),  # the last one for it
    Combination("python-3.12", "2.15", python="3.12"),
    Combination("python-3.13", "2.15", python="3.13"),
    Combination("no-torch", ""),
]


def wheel_for(python: str) -> Path:
    """The wheel for a version of Python, built where there is none."""
    tag = f"cp{python.replace('.', '')}"
    pattern = f"dlbridge-*-{tag}-{tag}-*.whl"
    if not list(WHEELS.glob(pattern)):
        wheel.say(f"building the wheel for Python {python}")
        wheel.run("scripts/wheel", WHEELS, "--python", python)
    return max(WHEELS.glob(pattern))


def install(combination: Combination) -> None:
    """Makes the environment; torch comes after the wheel, which is not installed again."""
    python = combination.interpreter
    wheel.run(wheel.find_python(combination.python), "-m", "venv", "--clear", combination.folder)
    pip = (python, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check")
    numpy = f"numpy=={combination.numpy}" if combination.numpy else "numpy"
    wheel.run(*pip, wheel_for(combination.python), numpy, "ml_dtypes", *TOOLS)
    if combination.torch:
        wheel.run(*pip, "--no-cache-dir", "--no-deps", f"torch=={combination.torch}.*")
        wheel.run(*pip, *TORCH_NEEDS)
        provide_cuda_libraries(python)


def provide_cuda_libraries(python: Path) -> None:
    """Lets torch find the CUDA libraries that it is linked with; they do nothing without a GPU."""
    platlib = Path(wheel.run(python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))").strip())
    version = re.search(r"^cuda\b.*'(\d+)\.", (platlib / "torch" / "version.py").read_text(), re.MULTILINE)
    if version is None:
        return
    shared = FOLDER / f"cuda-{version[1]}"
    asks = "import importlib.metadata as m; print(*(r.split(';')[0].strip() for r in m.requires('torch')), sep='\\n')"
    needs = [line for line in wheel.run(python, "-c", asks).splitlines() if line.startswith(("nvidia", "cuda"))]
    pip = (python, "-m", "pip", "install", "--quiet", "--no-compile", "--no-cache-dir")
    if not shared.exists():
        wheel.say(f"installing NVIDIA's libraries for CUDA {version[1]}")
        wheel.run(*pip, "--target", shared, *needs)
    link = platlib / "nvidia"
    link.symlink_to(shared / "nvidia")
    (platlib / "cusparselt").symlink_to(shared / "nvidia" / "cusparselt")  # where torch 2.7 looks for it
    check = subprocess.run([python, "-c", "import torch"], capture_output=True, text=True, check=False)
    if check.returncode != 0:
        wheel.say(f"those of another torch do not fit ({check.stderr.splitlines()[-1]}); installing its own")
        link.unlink()
        (platlib / "cusparselt").unlink()
        wheel.run(*pip, *needs)


def test(combination: Combination, tests: list[str]) -> list[str]:
    """Runs the tests; returns the row of the table from the second column on."""
    # No build tree: the package is the installed one, and what tests need beside it is skipped.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DLBRIDGE_", "PYTHONPATH"))}
    environment["DLBRIDGE_BUILD_DIR"] = str(FOLDER / "no-build-tree")
    python = str(combination.interpreter)

    def run(code: str) -> str:
        return subprocess.run(
            [python, "-c", code], env=environment, cwd=FOLDER, capture_output=True, text=True, check=True
        ).stdout

    facts, reason = run(FACTS).splitlines()
    wheel.say(f"{combination.name}: {facts}, {reason}")
    *versions, tier = json.loads(facts)
    today = datetime.date.today().isoformat()
    if combination.torch and tier == "none":  # a refusal that says why: nothing to test
        return [*versions, tier, "–", "0", "–", "–", today]
    report = FOLDER / f"{combination.name}.xml"
    report.unlink(missing_ok=True)
    log = FOLDER / f"{combination.name}.log"
    with log.open("w") as output:
        options = ["-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "worksteal", f"--junit-xml={report}"]
        command = [python, "-m", "pytest", *options, *tests]
        subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
    if not report.exists():
        sys.exit(f"{combination.name}: the tests did not run: {log}")
    speed = run(SPEED).strip() if tier != "none" else "–"
    return [*versions, tier, *map(str, counts_of(report)), speed, today]


def counts_of(report: Path) -> list[int]:
    """How many cases passed, failed and were skipped."""
    suite = next(ElementTree.parse(report).iter("testsuite"))
    total, failures, errors, skipped = (int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped"))
    return [total - failures - errors - skipped, failures + errors, skipped]


def rows_of_document() -> dict[str, list[str]]:
    """The rows that stand in the document, by combination."""
    written = DOCUMENT.read_text().split(BEGIN)[1].split(END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in written.splitlines() if line[:1] == "|"]
    return {row[0]: row for row in rows[2:] if len(row) == len(HEAD)}


def write(rows: dict[str, list[str]]) -> None:
    """Puts the table between the marker comments, rows in the order of COMBINATIONS."""
    table = [HEAD, *(rows[c.name] for c in COMBINATIONS if c.name in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEAD))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in table
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    before, rest = DOCUMENT.read_text().split(BEGIN)
    after = rest.split(END)[1]
    DOCUMENT.write_text(before + BEGIN + f"\n\nMachine: {machine}.\n\n" + "\n".join(lines) + "\n\n" + END + after)


def main() -> int:
    """Returns 1 where a test failed."""
    parser = argparse.ArgumentParser(prog="scripts/matrix", description="Tests the wheel with other versions.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="combinations; all without")
    parser.add_argument("--list", action="store_true", help="says which combinations there are")
    parser.add_argument("--tests", nargs="+", default=CORE, help="what pytest runs; the table stays as it is")
    arguments = parser.parse_args()
    known = {c.name: c for c in COMBINATIONS}
    if arguments.list:
        for c in COMBINATIONS:
            print(f"{c.name:<12} Python {c.python}, torch {c.torch or '–':<4}, NumPy {c.numpy or 'newest'}")
        return 0
    if unknown := set(arguments.names) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; expected {', '.join(known)}")
    WHEELS.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in arguments.names or known:
        wheel.say(f"{name}: installing")
        install(known[name])
        row = test(known[name], arguments.tests if known[name].torch else WITHOUT_TORCH)
        wheel.say(f"{name}: {', '.join(row)}")
        failed += int(row[5])
        if arguments.tests == CORE:
            write(rows_of_document() | {name: [name, *row]})
        shutil.rmtree(known[name].folder)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Runs the Python tests in several environments and writes docs/compatibility.md. scripts/matrix says how to call it.

Every combination has a folder build/matrix/NAME with a virtual environment, a build made in it, and the logs. The CUDA
wheels that torch asks for are gigabytes and do nothing without a GPU: torch is installed without them, and those of
.venv are linked in.
"""

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
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "matrix"
DOCUMENT = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- written by scripts/matrix: begin -->", "<!-- written by scripts/matrix: end -->"
TOOLS = ("nanobind", "apache-tvm-ffi", "pytest", "pytest-timeout", "pytest-xdist", "hypothesis")
# What torch needs on a CPU.
TORCH_NEEDS = ("filelock", "typing-extensions", "setuptools", "sympy", "networkx", "jinja2", "fsspec")
HEAD = [
    "combination", "Python", "torch", "NumPy", "ml_dtypes", "JAX", "built for torch", "torch tier",
    "passed", "failed", "skipped", "build", "tests", "date",
]  # fmt: skip
FACTS = """
import importlib.metadata, json, platform
import dlbridge
from dlbridge import _build_facts
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "–"
info = dlbridge.build_info()
print(json.dumps([platform.python_version(), info["torch"] or "–", version("numpy"), version("ml_dtypes"),
                  version("jax"), _build_facts.TORCH_VERSION or "–", info["torch_tier"]]))
"""


def pins() -> dict[str, str]:
    """What requirements.txt and requirements-test.txt pin."""
    lists = (ROOT / name for name in ("requirements.txt", "requirements-test.txt"))
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", "".join(path.read_text() for path in lists), re.M))


@dataclass
class Combination:
    """One environment. Versions that it does not name are those of requirements.txt; None leaves the package out."""

    name: str
    says: str
    python: str = "3.11"
    versions: dict[str, str | None] = field(default_factory=dict)
    package_of: str = ""  # another combination, whose build is used instead of one of its own
    tier: str = ""  # DLBRIDGE_TORCH_TIER, where not the package's own choice

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @property
    def interpreter(self) -> Path:
        if self.name == "base":
            return ROOT / ".venv" / "bin" / "python"
        return (FOLDER / (self.name if not self.package_of else "older")) / "venv" / "bin" / "python"

    @property
    def build(self) -> Path:
        return FOLDER / (self.package_of or self.name) / "build"

    def version(self, package: str) -> str | None:
        return self.versions.get(package, pins().get(package))


OLDER = {"torch": "2.13.0", "numpy": "1.26.4", "ml_dtypes": "0.5.4", "jax": "0.7.1"}
COMBINATIONS = [
    Combination("base", "what requirements.txt pins"),
    Combination("older", "torch two releases back, NumPy 1, built with the headers of NumPy 2", versions=OLDER),
    Combination("newer-python", "the newest Python", python="3.13"),
    Combination("no-torch", "without torch", versions={"torch": None}),
    Combination(
        "other-torch", "built for the torch of base, run with the one of older", versions=OLDER, package_of="base"
    ),
]


def say(text: str) -> None:
    print(f"== {text}", file=sys.stderr, flush=True)


def run(command: list[str], log: Path, **settings: object) -> None:
    """Runs a command; ends with its output where it fails."""
    with log.open("w") as output:
        done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False, **settings)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{log.read_text()[-4000:]}")


def find_python(version: str) -> str:
    """An interpreter of a version: on PATH, or the highest one that pyenv has."""
    found = shutil.which(f"python{version}")
    candidates = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    if candidates:
        return str(candidates[-1])
    if found:
        return found
    sys.exit(f"no Python {version}: expected python{version} on PATH, or pyenv install {version}")


def site_packages(python: Path) -> Path:
    """Where an environment has its packages."""
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('platlib'))"]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def install(combination: Combination) -> None:
    """Makes the environment, where it is not there."""
    wanted = {name: combination.version(name) for name in ("torch", "numpy", "ml_dtypes", "jax", *TOOLS)}
    stamp = combination.folder / "installed.json"
    if stamp.exists() and json.loads(stamp.read_text()) == wanted:
        return
    say(f"{combination.name}: installing")
    log = combination.folder / "install.log"
    run([find_python(combination.python), "-m", "venv", "--clear", str(combination.folder / "venv")], log)
    pip = [str(combination.interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    requirements = [f"{name}=={version}" for name, version in wanted.items() if version and name != "torch"]
    if wanted["torch"]:
        run([*pip, "--no-deps", f"torch=={wanted['torch']}"], log)
        requirements += TORCH_NEEDS
    run([*pip, *requirements], log)
    if wanted["torch"]:
        provide_cuda_libraries(combination, pip, log)
    if str(wanted["numpy"]).startswith("1."):  # which builds with the headers of NumPy 2
        run([*pip, "--no-deps", "--target", str(combination.folder / "headers"), f"numpy=={pins()['numpy']}"], log)
    stamp.write_text(json.dumps(wanted))


def provide_cuda_libraries(combination: Combination, pip: list[str], log: Path) -> None:
    """Lets torch find the CUDA libraries that it is linked with: those of .venv, or its own where these do not fit."""
    shared = site_packages(ROOT / ".venv" / "bin" / "python") / "nvidia"
    link = site_packages(combination.interpreter) / "nvidia"
    if shared.exists() and not link.exists():
        link.symlink_to(shared)
    check = [str(combination.interpreter), "-c", "import torch; torch.ones(3).numpy()"]
    if subprocess.run(check, capture_output=True, check=False).returncode != 0:
        if link.is_symlink():
            link.unlink()
        say(f"{combination.name}: the CUDA libraries of .venv do not fit; installing torch's own")
        run([*pip, f"torch=={combination.version('torch')}"], log)


def build(combination: Combination) -> float:
    """Configures and builds; returns the seconds."""
    say(f"{combination.name}: building")
    headers = combination.folder / "headers"
    environment = os.environ | ({"PYTHONPATH": str(headers)} if headers.exists() else {})
    begin = time.monotonic()
    configure = [
        "cmake", "-S", str(ROOT), "-B", str(combination.build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
        f"-DPython_EXECUTABLE={combination.interpreter}", "-DDLBRIDGE_TESTS=OFF",
        f"-DDLBRIDGE_TORCH={'ON' if combination.version('torch') else 'OFF'}",
    ]  # fmt: skip
    run(configure, combination.folder / "configure.log", env=environment)
    run(["cmake", "--build", str(combination.build)], combination.folder / "build.log")
    return time.monotonic() - begin


def test(combination: Combination, tests: list[str]) -> tuple[list[str], list[int], float]:
    """Runs the tests; returns the facts of the environment, how many passed, failed and were skipped, and seconds."""
    say(f"{combination.name}: testing")
    environment = os.environ | {"PYTHONPATH": str(combination.build / "package")}
    if combination.tier:
        environment["DLBRIDGE_TORCH_TIER"] = combination.tier
    python = str(combination.interpreter)
    facts = subprocess.run([python, "-c", FACTS], env=environment, capture_output=True, text=True, check=True).stdout
    report = combination.folder / "pytest.xml"
    report.unlink(missing_ok=True)
    begin = time.monotonic()
    with (combination.folder / "pytest.log").open("w") as log:
        options = ["-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "worksteal", f"--junit-xml={report}"]
        command = [python, "-m", "pytest", *options, *tests]
        subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    seconds = time.monotonic() - begin
    if not report.exists():
        sys.exit(f"{combination.name}: the tests did not run: {combination.folder / 'pytest.log'}")
    return json.loads(facts), counts_of(report), seconds


def counts_of(report: Path) -> list[int]:
    """How many cases passed, failed and were skipped."""
    suite = next(ElementTree.parse(report).iter("testsuite"))
    total, failures, errors, skipped = (int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped"))
    return [total - failures - errors - skipped, failures + errors, skipped]


def rows_of_document() -> dict[str, list[str]]:
    """The rows that stand in the document, by combination."""
    if not DOCUMENT.exists():
        return {}
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
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {compiler()}"
    before, rest = DOCUMENT.read_text().split(BEGIN)
    after = rest.split(END)[1]
    DOCUMENT.write_text(before + BEGIN + f"\n\nMachine: {machine}.\n\n" + "\n".join(lines) + "\n\n" + END + after)


def compiler() -> str:
    """Name and version of the compiler."""
    return subprocess.run(["c++", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def main() -> int:
    """Returns 1 where a test failed."""
    parser = argparse.ArgumentParser(
        prog="scripts/matrix", description="Runs the Python tests with other versions of everything."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="combinations; all without")
    parser.add_argument("--list", action="store_true", help="says which combinations there are")
    parser.add_argument(
        "--tests", nargs="+", default=["tests/python"], help="what pytest runs; the table stays as it is"
    )
    arguments = parser.parse_args()
    known = {c.name: c for c in COMBINATIONS}
    if arguments.list:
        for c in COMBINATIONS:
            print(f"{c.name:<14} {c.says}")
        return 0
    if unknown := set(arguments.names) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; expected {', '.join(known)}")
    failed = 0
    for name in arguments.names or known:
        combination = known[name]
        combination.folder.mkdir(parents=True, exist_ok=True)
        if name != "base" and not combination.package_of:
            install(combination)
        for needed in (combination.interpreter, combination.build if combination.package_of else ROOT):
            if not needed.exists():
                sys.exit(f"{name}: {needed} is missing: run scripts/matrix base older first")
        built = f"{build(combination):.0f} s" if not combination.package_of else f"of {combination.package_of}"
        facts, counts, seconds = test(combination, arguments.tests)
        say(f"{name}: {counts[0]} passed, {counts[1]} failed, {counts[2]} skipped")
        failed += counts[1]
        if arguments.tests == ["tests/python"]:
            today = datetime.date.today().isoformat()
            row = [name, *facts, *map(str, counts), built, f"{seconds:.0f} s", today]
            write(rows_of_document() | {name: row})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

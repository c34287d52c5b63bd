# SPDX-License-Identifier: Apache-2.0
"""The checklist of a release. scripts/release says how to call it."""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from wheel import MOST_BYTES

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("cp310", "cp311", "cp312", "cp313", "cp314")
# Files that repeat the version of CMakeLists.txt, from which pyproject.toml takes it.
REPEATED = {
    "CITATION.cff": r"^version: (.+)$",
    "packaging/conda/recipe.yaml": r'^  version: "(.+)"$',
}
PUBLISH = """
Then, by hand:
  python -m dlbridge.testing gpu                 on a machine with a GPU, with each framework
  git tag -a v{version} && git push origin v{version}
  python -m twine upload build/wheels/dlbridge-{version}*
  url and sha256 of the sdist in packaging/conda/recipe.yaml, for the channel"""

# What a check finds: texts by whether they are in order.
Findings = Iterator[tuple[bool, str]]


def attempt(top: Path, *command: str | Path) -> tuple[bool, str]:
    """Whether a command succeeds, and what it writes."""
    done = subprocess.run(list(map(str, command)), cwd=top, capture_output=True, text=True, check=False)
    return done.returncode == 0, (done.stdout + done.stderr).strip()


def last_line(text: str) -> str:
    return text.splitlines()[-1] if text else "no output"


def version_of(top: Path) -> str:
    found = re.search(r"project\(dlbridge VERSION ([\d.]+)", (top / "CMakeLists.txt").read_text())
    return found[1] if found else "unknown"


def check_version(top: Path) -> Findings:
    """The same version everywhere."""
    version = version_of(top)
    wrong = []
    for name, pattern in REPEATED.items():
        found = re.search(pattern, (top / name).read_text(), re.MULTILINE)
        if found is None or found[1] != version:
            wrong.append(f"{name} has {found[1] if found else 'none'}")
    yield not wrong, f"version {version}: " + (", ".join(wrong) or f"the same in {', '.join(REPEATED)}")


def check_changelog(top: Path) -> Findings:
    """The newest entry is this version's, with a date."""
    version = version_of(top)
    found = re.search(r"^## \[(.+?)\] - (.+)$", (top / "CHANGELOG.md").read_text(), re.MULTILINE)
    name, date = found.groups() if found else ("none", "none")
    try:
        dated = datetime.date.fromisoformat(date) <= datetime.date.today()
    except ValueError:
        dated = False
    yield name == version and dated, f"CHANGELOG.md: the newest entry is [{name}] - {date}"


def check_tree(top: Path) -> Findings:
    """All is committed, and the tag is new."""
    changed = attempt(top, "git", "status", "--porcelain")[1].splitlines()
    yield not changed, f"git: {len(changed) or 'no'} files changed or new"
    tag = f"v{version_of(top)}"
    exists, _ = attempt(top, "git", "rev-parse", "--verify", "--quiet", f"refs/tags/{tag}")
    yield not exists, f"git: the tag {tag} {'exists already' if exists else 'is new'}"


def check_files(top: Path) -> Findings:
    """What is uploaded, made of this version."""
    folder, version = top / "build" / "wheels", version_of(top)
    for python in PYTHONS:
        wheels = sorted(folder.glob(f"dlbridge-{version}-{python}-{python}-*.whl"))
        if not wheels:
            yield False, f"wheel for {python}: scripts/wheel --python 3.{python[3:]}"
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                names = archive.namelist()
            size = wheel.stat().st_size
            wrong = ["no manylinux tag"] if "manylinux" not in wheel.name else []
            wrong += [f"{size / 2**20:.1f} MB, more than {MOST_BYTES >> 20}"] if size > MOST_BYTES else []
            wrong += [f"bundles {name}" for name in names if re.search(r"lib(torch|c10|cuda|cudart)\b[^/]*\.so", name)]
            adapters = sum(bool(re.match(r"dlbridge/_torch_\d", name)) for name in names)
            yield (
                not wrong,
                f"{wheel.name}: " + (", ".join(wrong) or f"{size / 2**20:.1f} MB, {adapters} torch adapters"),
            )
            for auditwheel in sorted((top / "build" / "wheel-tools").glob("*/bin/auditwheel"))[:1]:
                passed, said = attempt(top, auditwheel, "show", wheel)
                consistent = re.search(r'following platform tag:\s*"(.+?)"', said)
                yield (
                    passed and consistent is not None,
                    f"auditwheel: {consistent[1] if consistent else last_line(said)}",
                )
    sdists = list(folder.glob(f"dlbridge-{version}.tar.gz"))
    yield bool(sdists), "sdist" if sdists else "sdist: python -m build --sdist --outdir build/wheels"


def check_documents(top: Path) -> Findings:
    """Documents say what the code does; static checks."""
    python = sys.executable
    for name in ("error_table", "rule_table"):
        passed, said = attempt(top, python, f"scripts/{name}.py", "--check")
        yield passed, f"scripts/{name}.py --check" + ("" if passed else f": {last_line(said)}")
    passed, said = attempt(top, python, "scripts/lint.py")
    yield passed, "scripts/lint.py" + ("" if passed else f": {last_line(said)}")
    yield from check_tests(top, "tests/python/documents")


def check_tests(top: Path, *arguments: str) -> Findings:
    passed, said = attempt(top, sys.executable, "-m", "pytest", "-q", "-n", "2", *arguments)
    yield passed, f"pytest {' '.join(arguments)}: {last_line(said)}"


QUICK: tuple[Callable[[Path], Findings], ...] = (check_version, check_changelog, check_tree, check_files)
SLOW: tuple[Callable[[Path], Findings], ...] = (check_documents,)


def main(arguments: list[str] | None = None, top: Path = ROOT) -> int:
    """Prints the checklist. Returns 1 if something is missing."""
    parser = argparse.ArgumentParser(prog="scripts/release", description="Says what a release still lacks.")
    parser.add_argument("--dry-run", action="store_true", help="needed: nothing is published by this script")
    parser.add_argument("--quick", action="store_true", help="without the tests, which take minutes")
    options = parser.parse_args(arguments)
    if not options.dry_run:
        parser.error("nothing is published by this script; expected --dry-run")
    missing = 0
    for check in QUICK if options.quick else QUICK + SLOW:
        for in_order, text in check(top):
            missing += not in_order
            print(f"{'ok     ' if in_order else 'missing'}  {text}", flush=True)
    print(f"\n{missing} missing" if missing else PUBLISH.format(version=version_of(top)))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Formatting and static checks: clang-format, ruff, mypy on the package and its stub, layers, licence lines.

    .venv/bin/python scripts/lint.py [--fix] [--tidy]

--fix formats and adds licence lines instead of reporting; --tidy also runs clang-tidy over core (needs clang-tidy and
build/release).
"""

import subprocess
import sys
from pathlib import Path

import layers

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent
CPP_FOLDERS = ("core", "adapters", "python", "tests", "examples", "benchmarks", "cuda")
PYTHON_FOLDERS = ("python", "tests", "examples", "benchmarks", "scripts", "packaging", "docs")
LICENCE = "SPDX-License-Identifier: Apache-2.0"
CPP_SUFFIXES = {".h", ".cpp", ".cu", ".c", ".def"}


def cpp_files() -> list[str]:
    """Every C++ file of ours."""
    suffixes = {".h", ".cpp", ".cu"}
    return [str(p) for folder in CPP_FOLDERS for p in sorted((ROOT / folder).rglob("*")) if p.suffix in suffixes]


def run(*command: str) -> bool:
    """Runs one check; says which one failed."""
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode != 0:
        print(f"lint: {Path(command[0]).name} failed", file=sys.stderr)
    return done.returncode == 0


def report(messages: list[str]) -> bool:
    """Prints them; returns whether there are none."""
    print("".join(message + "\n" for message in messages), end="", file=sys.stderr)
    return not messages


def licences(top: Path, fix: bool) -> list[str]:
    """Each source file without a licence line at its start. `fix` adds the line."""
    folders = {*CPP_FOLDERS, *PYTHON_FOLDERS, "cmake", ".ci"}
    messages = []
    for path in sorted([*top.glob("*"), *(path for folder in folders for path in (top / folder).rglob("*"))]):
        if not path.is_file():
            continue
        cpp = path.suffix in CPP_SUFFIXES
        if cpp or path.suffix in (".py", ".cmake", "") or path.name == "CMakeLists.txt":
            lines = path.read_text().splitlines(keepends=True)
            script = bool(lines) and lines[0].startswith("#!")
            if (path.suffix or script) and not any(LICENCE in line for line in lines[:3]):
                if fix:
                    lines.insert(script, f"{'//' if cpp else '#'} {LICENCE}\n")
                    path.write_text("".join(lines))
                else:
                    messages.append(f"{path.relative_to(top)}:1: no line with {LICENCE}")
    return messages


def main() -> int:
    """Returns 0 where everything is in order."""
    fix = "--fix" in sys.argv
    python = [folder for folder in PYTHON_FOLDERS if (ROOT / folder).exists()]
    package = ROOT / "build" / "release" / "package" / "dlbridge"
    checks = [
        report(layers.check(ROOT, CPP_FOLDERS)),
        run(str(TOOLS / "clang-format"), *(["-i"] if fix else ["--dry-run", "--Werror"]), *cpp_files()),
        run(str(TOOLS / "ruff"), "check", "--quiet", *(["--fix"] if fix else []), *python),
        run(str(TOOLS / "ruff"), "format", "--quiet", *([] if fix else ["--check"]), *python),
        run(str(TOOLS / "mypy"), "--no-error-summary", str(package)),
    ]
    checks.append(report(licences(ROOT, fix)))
    checks.append(run(sys.executable, str(ROOT / "scripts" / "ptx.py"), "--check"))
    if "--tidy" in sys.argv:
        sources = [path for path in cpp_files() if "/core/src/" in path]
        checks.append(run("clang-tidy", "-p", "build/release", "--quiet", *sources))
    return 0 if all(checks) else 1


if __name__ == "__main__":
    sys.exit(main())

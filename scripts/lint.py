"""Formatting and static checks over the whole tree: clang-format, ruff, mypy on the package and its stubs.

    .venv/bin/python scripts/lint.py [--fix] [--tidy]

--fix formats instead of complaining; --tidy runs clang-tidy over core as well (needs clang-tidy and build/release).
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent
CPP_FOLDERS = ("core", "adapters", "python", "tests", "examples", "benchmarks", "cuda")
PYTHON_FOLDERS = ("python", "tests", "examples", "benchmarks", "scripts")


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


def main() -> int:
    """Returns 0 where everything is in order."""
    fix = "--fix" in sys.argv
    python = [folder for folder in PYTHON_FOLDERS if (ROOT / folder).exists()]
    package = ROOT / "build" / "release" / "package" / "dlbridge"
    checks = [
        run(str(TOOLS / "clang-format"), *(["-i"] if fix else ["--dry-run", "--Werror"]), *cpp_files()),
        run(str(TOOLS / "ruff"), "check", "--quiet", *(["--fix"] if fix else []), *python),
        run(str(TOOLS / "ruff"), "format", "--quiet", *([] if fix else ["--check"]), *python),
        run(str(TOOLS / "mypy"), "--no-error-summary", str(package)),
    ]
    if "--tidy" in sys.argv:
        sources = [path for path in cpp_files() if "/core/src/" in path]
        checks.append(run("clang-tidy", "-p", "build/release", "--quiet", *sources))
    return 0 if all(checks) else 1


if __name__ == "__main__":
    sys.exit(main())

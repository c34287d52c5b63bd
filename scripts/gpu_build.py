# SPDX-License-Identifier: Apache-2.0
"""Builds what scripts/gpu runs, into a folder that is carried to the machine with the GPU; finds it there."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import gpu_fingerprint
from gpu_calls import LATE, ROOT, StepFailed, StepSkipped, call, environment

BUILD = ROOT / "build" / "gpu"
PREPARED = ROOT / "build" / "gpu-prepared"
TESTS, PROBE = "dlbridge_cuda_gpu_tests", "dlbridge_cuda_probe"
BARS = ("dlbridge_cuda_bars", "dlbridge_cuda_pool_bars")
PROGRAMS = (TESTS, PROBE, *BARS)
PACKAGE_TARGETS = (
    "dlbridge_package",
    "dlbridge_libraries",
    "_core",
    "_core_stub",
    "_numpy",
    "_torch_exchange",
    "_cuda",
)
MOST_BYTES = 48 << 20  # the tree, which is carried too, has the rest of 64 MiB
MOST_SECONDS = 3600

folder = PREPARED  # where programs and packages are looked for


def abi(python: str = sys.executable) -> str:
    """What that Python calls its ABI ("cpython-312-x86_64-linux-gnu"); empty where there is none or it fails."""
    code = "import sysconfig; print(sysconfig.get_config_var('SOABI'))"
    return gpu_fingerprint.run(python, "-c", code, timeout=60).strip()


def program(name: str) -> Path:
    """A program that was prepared."""
    if not (folder / name).is_file():
        raise StepSkipped(f"{name} was not prepared")
    return folder / name


def package_folder() -> Path:
    """The folder to put into sys.path to import dlbridge."""
    found = folder / abi()
    if not found.is_dir():
        raise StepSkipped(f"no package was prepared for this Python, {found.name}")
    return found


def use(prepared: Path) -> dict[str, str]:
    """Chooses a folder that prepare() has made. Returns its facts; without one there are none."""
    global folder
    folder = prepared
    try:
        facts: dict[str, str] = json.loads((folder / "prepared.json").read_text())
    except OSError:
        return {}
    # The programs' own paths lead to where they were built.
    libraries = [*map(str, sorted(folder.glob("*/dlbridge/lib"))), os.environ.get("LD_LIBRARY_PATH", "")]
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
    return facts


# ---- Beforehand


def must(command: list[str], log: Path) -> None:
    """A call that has to succeed."""
    if shutil.which(command[0], path=environment()["PATH"]) is None:
        raise StepFailed(f"there is no {command[0]}")
    status = call(command, log, MOST_SECONDS)
    if status != 0:
        print("\n".join(log.read_text().splitlines()[-40:]))
        how = "did not end" if status == LATE else f"ended with {status}"
        raise StepFailed(f"{' '.join(command[:3])} {how}: see {log}")


def build(python: str, with_programs: bool, log: Path) -> None:
    """Builds the package for that Python, and the programs, and installs them in `folder`."""
    if not (tag := abi(python)):
        raise StepFailed(f"there is no {python}")
    tree = str(BUILD / tag)
    parts = "ON" if with_programs else "OFF"
    must(
        [
            "cmake", "-S", ".", "-B", tree, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
            f"-DPython_EXECUTABLE={python}", "-DDLBRIDGE_TORCH=OFF", f"-DDLBRIDGE_TESTS={parts}",
            f"-DDLBRIDGE_BENCHMARKS={parts}", *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ],
        log,
    )  # fmt: skip
    jobs = os.environ.get("DLBRIDGE_JOBS") or str(os.cpu_count() or 2)
    must(
        ["cmake", "--build", tree, "-j", jobs, "--target", *PACKAGE_TARGETS, *(PROGRAMS if with_programs else ())], log
    )
    must(["cmake", "--install", tree, "--component", "python", "--prefix", str(folder / tag), "--strip"], log)
    for name in PROGRAMS if with_programs else ():
        (built,) = Path(tree).glob(f"**/{name}")
        copy(built, folder / name)


def copy(source: Path, target: Path) -> None:
    """A program, without what only a debugger needs."""
    shutil.copy2(source, target)
    subprocess.run(["strip", str(target)], check=False)


def prepare(prepared: Path, pythons: list[str]) -> int:
    """Builds everything into an empty folder. The exit status."""
    shutil.rmtree(prepared, ignore_errors=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    log = BUILD / "prepare.log"
    log.unlink(missing_ok=True)
    use(prepared)
    try:
        for number, python in enumerate(pythons):
            build(python, number == 0, log)
    except StepFailed as failure:
        print(failure)
        return 1
    facts = {"packages": ", ".join(map(abi, pythons)), **gpu_fingerprint.commit()}
    (prepared / "prepared.json").write_text(json.dumps(facts) + "\n")
    size = sum(path.stat().st_size for path in prepared.rglob("*") if path.is_file())
    print(f"{prepared}: {size / 2**20:.1f} MiB, {facts}")
    return 1 if size > MOST_BYTES else 0

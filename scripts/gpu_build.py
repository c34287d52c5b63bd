# SPDX-License-Identifier: Apache-2.0
"""Builds what scripts/gpu runs: beforehand into a folder that is carried to the machine, or there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_fingerprint
from gpu_calls import LATE, ROOT, StepFailed, StepSkipped, call, environment

BUILD = ROOT / "build" / "gpu"
PREPARED = ROOT / "build" / "gpu-prepared"
TESTS, PROBE = "dlbridge_cuda_gpu_tests", "dlbridge_cuda_probe"
BARS = ("dlbridge_cuda_bars", "dlbridge_cuda_pool_bars")
PACKAGE_TARGETS = ("dlbridge_package", "_core", "_numpy", "_torch_exchange", "_cuda")
LEAST_DLPACK = (1, 3)  # cmake/FindDlpackHeader.cmake says so
MOST_BYTES = 64 << 20

folders = [BUILD]  # where programs and the package are looked for; a prepared one comes first


def find(pattern: str) -> Path | None:
    """The first file that was built and matches."""
    return next((path for folder in folders for path in sorted(folder.glob(pattern)) if path.is_file()), None)


def program(name: str) -> Path:
    """A program that was built."""
    found = find(f"**/{name}")
    if found is None:
        raise StepSkipped(f"{name} was not built")
    return found


def answer_of(python: str, code: str) -> str:
    """What that Python prints; empty where there is none or it fails."""
    return gpu_fingerprint.run(python, "-c", code, timeout=60).strip()


def extension(python: str = sys.executable) -> str:
    """How the names of that Python's extension modules end."""
    return answer_of(python, "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))")


def package_folder() -> Path:
    """The folder to put into sys.path to import dlbridge."""
    given = os.environ.get("DLBRIDGE_PACKAGE")
    if given:
        folder = Path(os.environ.get("DLBRIDGE_CALLED_FROM", "."), given)
        if any((folder / "dlbridge").glob("_core*.so")):
            return folder
        raise StepFailed(f"DLBRIDGE_PACKAGE is {given}, which holds no built dlbridge")
    found = find(f"package/dlbridge/_core{extension()}")
    if found is None:
        raise StepSkipped(f"the package was not built for this Python: there is no _core{extension()}")
    return found.parent.parent


# ---- What a build needs


def dlpack_folder(site_folders: list[Path]) -> Path:
    """A folder that holds dlpack/dlpack.h of a version that the build takes: carried along, or of a Python package."""
    if given := os.environ.get("DLPACK_INCLUDE_DIR"):
        return Path(given)
    places = (
        "tvm_ffi/include/dlpack/dlpack.h",
        "torch/include/ATen/dlpack.h",
        "cupy/_core/include/cupy/_dlpack/dlpack.h",
        "jaxlib/include/dlpack/dlpack.h",
    )
    headers = [folder / "dlpack" / "dlpack" / "dlpack.h" for folder in folders]
    headers += [folder / place for place in places for folder in site_folders]
    seen = []
    for header in filter(Path.is_file, headers):
        numbers = re.findall(r"define DLPACK_(?:MAJOR|MINOR)_VERSION +(\d+)", header.read_text())
        if tuple(map(int, numbers)) >= LEAST_DLPACK:
            folder = BUILD / "dlpack" / "dlpack"
            folder.mkdir(parents=True, exist_ok=True)
            if header != folder / "dlpack.h":
                shutil.copyfile(header, folder / "dlpack.h")
            return folder.parent
        seen.append(f"{header} is {'.'.join(numbers) or 'none'}")
    raise StepFailed(
        f"no dlpack.h of version {LEAST_DLPACK[0]}.{LEAST_DLPACK[1]} or later ({'; '.join(seen) or 'none at all'}): "
        "set DLPACK_INCLUDE_DIR to the folder that holds dlpack/dlpack.h"
    )


def jobs() -> str:
    """How many compilers at once."""
    return os.environ.get("DLBRIDGE_JOBS") or str(os.cpu_count() or 2)


def must(command: list[str], log: Path, seconds: float) -> None:
    """A call that has to succeed. The build makes warnings errors: those of a newer host compiler are off."""
    if shutil.which(command[0], path=environment()["PATH"]) is None:
        raise StepFailed(f"there is no {command[0]}")
    status = call(command, log, seconds, NVCC_APPEND_FLAGS="-Xcompiler=-w")
    if status == LATE:
        raise StepFailed(f"{Path(command[0]).name} did not end in {seconds:.0f} s")
    if status != 0:
        print("\n".join(log.read_text().splitlines()[-40:]))
        raise StepFailed(f"{' '.join(command[:3])} ended with {status}: see {log.name}")


# ---- Building


def build_probe(log: Path, left: Callable[[], float]) -> None:
    """The probe needs nothing but nvcc."""
    toolkit = os.environ.get("DLBRIDGE_CUDA_TOOLKIT_DIR")
    nvcc = f"{toolkit}/bin/nvcc" if toolkit else "nvcc"
    source = str(ROOT / "benchmarks" / "cuda" / "probe.cpp")
    must([nvcc, "-std=c++20", "-O2", "-cudart=static", source, "-o", str(BUILD / PROBE)], log, left())


def googletest(log: Path, left: Callable[[], float]) -> list[str]:
    """Arguments by which CMake finds GoogleTest: built from sources where it is not installed."""
    given = os.environ.get("DLBRIDGE_GTEST_DIR")
    places = ("usr/lib*/cmake", "usr/lib*/*/cmake", "usr/local/lib*/cmake", "usr/local/lib/*/cmake")
    if not given and any(any(Path("/").glob(f"{place}/GTest/GTestConfig.cmake")) for place in places):
        return []
    sources = Path(given or "/usr/src/googletest")
    if not (sources / "CMakeLists.txt").is_file():
        raise StepSkipped("no GoogleTest, so no tests: set DLBRIDGE_GTEST_DIR to its sources")
    prefix = BUILD / "googletest"
    if not (prefix / "done").is_file():
        folder = BUILD / "googletest-build"
        must(
            ["cmake", "-S", str(sources), "-B", str(folder), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
             f"-DCMAKE_INSTALL_PREFIX={prefix}", "-DCMAKE_INSTALL_LIBDIR=lib"],
            log, left(),
        )  # fmt: skip
        must(["cmake", "--build", str(folder), "--target", "install", "-j", jobs()], log, left())
        (prefix / "done").touch()
    return [f"-DCMAKE_PREFIX_PATH={prefix}"]


def build(log: Path, left: Callable[[], float], python: str, programs: bool = True) -> list[str]:
    """Builds in build/gpu what this machine can build, in the seconds `left`. Returns what is left out, and why.
    Raises StepFailed where something that was tried failed; the rest is there nevertheless."""
    BUILD.mkdir(parents=True, exist_ok=True)
    problems: list[StepSkipped | StepFailed] = []

    def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (StepSkipped, StepFailed) as problem:
            problems.append(problem)
            return None

    options, targets = [], []
    if programs:
        attempt(build_probe, log, left)
        found = attempt(googletest, log, left)
        options += [f"-DDLBRIDGE_TESTS={'OFF' if found is None else 'ON'}", "-DDLBRIDGE_BENCHMARKS=ON", *(found or [])]
        targets += ["dlbridge_cuda", *BARS, *([] if found is None else [TESTS])]
    given = os.environ.get("DLBRIDGE_PACKAGE")
    package = not given and bool(answer_of(python, "import nanobind, numpy; print(True)"))
    if package:
        targets += PACKAGE_TARGETS
    elif not given:
        why = f"no package: there is no {python}, or it lacks nanobind or NumPy"
        problems.append(StepSkipped(f"{why}; set DLBRIDGE_PACKAGE to a folder with a built one"))
    options += [f"-DDLBRIDGE_{part}={'ON' if package else 'OFF'}" for part in ("NUMPY", "PYTHON")]
    toolkit = os.environ.get("DLBRIDGE_CUDA_TOOLKIT_DIR")
    site_folders = [Path(entry) for entry in sys.path if entry and Path(entry).is_dir()]
    dlpack = attempt(dlpack_folder, site_folders)
    if targets and dlpack is not None:
        configure = [
            "cmake", "-S", ".", "-B", str(BUILD), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
            f"-DPython_EXECUTABLE={python}", f"-DDLPACK_INCLUDE_DIR={dlpack}", "-DDLBRIDGE_TORCH=OFF",
            "-DDLBRIDGE_CUDA=ON", "-DDLBRIDGE_WERROR=OFF", *([f"-DCUDAToolkit_ROOT={toolkit}"] if toolkit else []),
            *options, *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]  # fmt: skip
        make = ["cmake", "--build", str(BUILD), "-j", jobs(), "--target", *targets, "--", "-k", "0"]
        attempt(lambda: [must(command, log, left()) for command in (configure, make)])
    if any(isinstance(problem, StepFailed) for problem in problems):
        raise StepFailed("; ".join(map(str, problems)))
    return [str(problem) for problem in problems]


# ---- Beforehand


def prepare(folder: Path, python: str) -> int:
    """Builds here, and copies what a run needs into `folder`, stripped. The exit status."""
    log = BUILD / "prepare.log"
    log.unlink(missing_ok=True)
    suffix = extension(python)
    try:
        lacks = build(log, lambda: 3600, python)
    except StepFailed as failure:
        print(failure)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    for name in (TESTS, *BARS, PROBE):
        if (found := find(f"**/{name}")) is not None:
            copy(found, folder / name)
    for pattern in ("lib/libdlbridge*.so.*", "package/dlbridge/**/*.py", f"package/dlbridge/*{suffix or '.none'}"):
        for path in BUILD.glob(pattern):
            copy(path, folder / path.relative_to(BUILD))
    copy(BUILD / "dlpack-include" / "dlpack" / "dlpack.h", folder / "dlpack" / "dlpack" / "dlpack.h")
    facts = {"extension": suffix, **gpu_fingerprint.commit()}
    (folder / "prepared.json").write_text(json.dumps(facts) + "\n")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print("\n".join([*lacks, f"{folder}: {size / 2**20:.1f} MiB, {facts}"]))
    return 1 if size > MOST_BYTES else 0


def copy(source: Path, target: Path) -> None:
    """A file, without what only a debugger needs."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
    if source.suffix == "" or ".so" in source.name:
        subprocess.run(["strip", str(target)], check=False)


def use_prepared(folder: Path) -> str:
    """Puts a prepared folder in front. Returns what it is; empty where there is none."""
    try:
        facts = json.loads((folder / "prepared.json").read_text())
    except OSError:
        return ""
    folders.insert(0, folder)
    libraries = [str(folder / "lib"), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)  # their own paths lead to where they were built
    return f"{facts.get('commit', 'no commit')}, {facts['extension']}"

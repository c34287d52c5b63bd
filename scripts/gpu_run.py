# SPDX-License-Identifier: Apache-2.0
"""The steps of scripts/gpu, which says how to call it: builds, tests, measures, within a time limit."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gpu_fingerprint
from gpu_report import Document

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "gpu"
STEPS = ("build", "tests", "interop", "bars", "peers", "python")
TESTS = "dlbridge_cuda_gpu_tests"
BARS = ("dlbridge_cuda_bars", "dlbridge_cuda_pool_bars")
PACKAGE_TARGETS = ("dlbridge_package", "_core", "_numpy", "_cuda")
LEAST_DLPACK = (1, 3)  # cmake/FindDlpackHeader.cmake says so
NO_GPU = 3
# The least time in which a step makes sense, and what is left for the steps after it.
LEAST_SECONDS = {"build": 20, "tests": 10, "interop": 20, "bars": 30, "peers": 30, "python": 30}
RESERVED_SECONDS = {"build": 0, "tests": 240, "interop": 240, "bars": 150, "peers": 60, "python": 0}
MOST_INTEROP_SECONDS = 90


class StepFailed(Exception):
    """A sentence for the step's row."""


class StepSkipped(Exception):
    """The same, where nothing is wrong."""


@dataclass
class Run:
    """One call of the script."""

    out: Path
    document: Document
    options: argparse.Namespace
    deadline: float
    architecture: str  # "90"; empty without a GPU
    reason: str  # why there is no GPU to use; empty where there is one

    def left(self) -> float:
        """Seconds until the time is up."""
        return self.deadline - time.monotonic()


# ---- Calling programs


def environment() -> dict[str, str]:
    """Ours, with the tools that came with this Python (cmake, ninja) where there are no others."""
    return {**os.environ, "PATH": os.environ.get("PATH", "") + os.pathsep + str(Path(sys.executable).parent)}


def end(process: subprocess.Popen[str]) -> None:
    """The whole group that it leads."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
            process.wait(5)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def call(
    command: list[str], log: Path, seconds: float, each_line: Callable[[str], None] | None = None, **extra: str
) -> int:
    """Runs it with its output in `log` as well; its exit status, or 124 where it was ended after `seconds`."""
    with log.open("a") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment(), **extra},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        late = threading.Event()

        def stop() -> None:
            late.set()
            end(process)

        timer = threading.Timer(max(seconds, 1), stop)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                file.flush()
                if each_line is not None:
                    each_line(line.rstrip("\n"))
            status = process.wait()
        except BaseException:
            end(process)
            raise
        finally:
            timer.cancel()
    return 124 if late.is_set() else status


def must(command: list[str], log: Path, seconds: float) -> None:
    """A call that has to succeed."""
    status = call(command, log, seconds)
    if status == 124:
        raise StepFailed(f"{Path(command[0]).name} did not end in {seconds:.0f} s")
    if status != 0:
        print("\n".join(log.read_text().splitlines()[-40:]))
        raise StepFailed(f"{' '.join(command[:3])} ended with {status}: see {log.name}")


# ---- build


def header_version(header: Path) -> tuple[int, int]:
    """Of a dlpack.h; (0, 0) where it is none."""
    try:
        text = header.read_text()
    except OSError:
        return 0, 0
    found = [re.search(rf"define DLPACK_{part}_VERSION +(\d+)", text) for part in ("MAJOR", "MINOR")]
    return (int(found[0][1]), int(found[1][1])) if found[0] and found[1] else (0, 0)


def header_candidates(site_folders: list[Path]) -> list[Path]:
    """Copies of dlpack.h that Python packages carry."""
    places = (
        "tvm_ffi/include/dlpack/dlpack.h",
        "torch/include/ATen/dlpack.h",
        "cupy/_core/include/cupy/_dlpack/dlpack.h",
        "jaxlib/include/dlpack/dlpack.h",
    )
    return [folder / place for place in places for folder in site_folders if (folder / place).is_file()]


def dlpack_folder(build: Path, candidates: list[Path]) -> Path:
    """A folder that holds dlpack/dlpack.h of a version that the build takes."""
    given = os.environ.get("DLPACK_INCLUDE_DIR")
    if given:
        return Path(given)
    seen = []
    for header in candidates:
        version = header_version(header)
        if version >= LEAST_DLPACK:
            folder = build / "dlpack" / "dlpack"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(header, folder / "dlpack.h")
            return folder.parent
        seen.append(f"{header} is {version[0]}.{version[1]}")
    raise StepFailed(
        f"no dlpack.h of version {LEAST_DLPACK[0]}.{LEAST_DLPACK[1]} or later ({'; '.join(seen) or 'none at all'}): "
        "set DLPACK_INCLUDE_DIR to the folder that holds dlpack/dlpack.h"
    )


def site_folders() -> list[Path]:
    """Where Python finds packages."""
    return [Path(entry) for entry in sys.path if entry and Path(entry).is_dir()]


def googletest(run: Run, log: Path) -> list[str]:
    """Arguments by which CMake finds GoogleTest: built from sources where it is not installed."""
    given = os.environ.get("DLBRIDGE_GTEST_DIR")
    places = ("usr/lib*/cmake", "usr/lib*/*/cmake", "usr/local/lib*/cmake", "usr/local/lib/*/cmake")
    installed = any(any(Path("/").glob(f"{place}/GTest/GTestConfig.cmake")) for place in places)
    if not given and installed:
        return []
    sources = Path(given or "/usr/src/googletest")
    if not (sources / "CMakeLists.txt").is_file():
        if given:
            raise StepFailed(
                f"DLBRIDGE_GTEST_DIR is {given}, which holds no CMakeLists.txt; expected GoogleTest's sources"
            )
        print("GoogleTest is in no usual place: if CMake does not find it, set DLBRIDGE_GTEST_DIR to its sources")
        return []
    prefix = BUILD / "googletest"
    if not (prefix / "done").is_file():
        folder = BUILD / "googletest-build"
        must(
            ["cmake", "-S", str(sources), "-B", str(folder), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
             f"-DCMAKE_INSTALL_PREFIX={prefix}", "-DCMAKE_INSTALL_LIBDIR=lib"],
            log, run.left(),
        )  # fmt: skip
        must(["cmake", "--build", str(folder), "--target", "install", "-j", jobs()], log, run.left())
        (prefix / "done").touch()
    return [f"-DCMAKE_PREFIX_PATH={prefix}"]


def jobs() -> str:
    """How many compilers at once."""
    return os.environ.get("DLBRIDGE_JOBS") or str(os.cpu_count() or 2)


def targets() -> list[str]:
    """Those of ours that this tree has."""
    listed = subprocess.run(
        ["cmake", "--build", str(BUILD), "--target", "help"],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    ).stdout
    ours = ("dlbridge_cuda", TESTS, *BARS, *PACKAGE_TARGETS)
    return [name for name in ours if re.search(rf"^{name}: phony", listed, re.M)]


def python_parts() -> list[str]:
    """Whether the package is built: not where one was brought along, nor without nanobind."""
    built = not os.environ.get("DLBRIDGE_PACKAGE") and importlib.util.find_spec("nanobind") is not None
    state = "ON" if built else "OFF"
    return [f"-DDLBRIDGE_NUMPY={state}", f"-DDLBRIDGE_PYTHON={state}"]


def package_folder() -> Path:
    """The folder to put into sys.path to import dlbridge. Throws where there is none."""
    given = os.environ.get("DLBRIDGE_PACKAGE")
    folder = Path(os.environ.get("DLBRIDGE_CALLED_FROM", "."), given) if given else BUILD / "package"
    if any((folder / "dlbridge").glob("_core*.so")):
        return folder
    if given:
        raise StepFailed(f"DLBRIDGE_PACKAGE is {given}, which holds no built dlbridge")
    raise StepSkipped(
        "the package was not built: this Python has no nanobind; set DLBRIDGE_PACKAGE to a folder with a built dlbridge"
    )


def build(run: Run) -> str:
    """Configures and builds build/gpu."""
    log = run.out / "build.log"
    BUILD.mkdir(parents=True, exist_ok=True)
    architectures = os.environ.get("DLBRIDGE_CUDA_ARCHITECTURES") or run.architecture or "90"
    dlpack = dlpack_folder(BUILD, header_candidates(site_folders()))
    must(
        [
            "cmake", "-S", ".", "-B", str(BUILD), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
            f"-DPython_EXECUTABLE={sys.executable}", f"-DDLPACK_INCLUDE_DIR={dlpack}",
            "-DDLBRIDGE_TORCH=OFF", "-DDLBRIDGE_CUDA=ON", *python_parts(),
            "-DDLBRIDGE_TESTS=ON", "-DDLBRIDGE_BENCHMARKS=ON", "-DDLBRIDGE_WERROR=OFF",
            f"-DDLBRIDGE_CUDA_ARCHITECTURES={architectures}",
            *googletest(run, log),
        ],
        log, run.left(),
    )  # fmt: skip
    built = targets()
    must(["cmake", "--build", str(BUILD), "-j", jobs(), "--target", *built], log, run.left())
    return f"{', '.join(built)}; kernels for {architectures}"


def program(name: str) -> Path:
    """A program of this tree that was built. Throws where it was not."""
    if (BUILD / "build.ninja").is_file() and name not in targets():
        raise StepFailed(f"this tree has no {name}")
    found = [path for path in BUILD.glob(f"**/{name}") if path.is_file() and os.access(path, os.X_OK)]
    if not found:
        raise StepFailed(f"{name} was not built: run the step build first")
    return found[0]


# ---- tests, bars, peers


def listed_tests() -> list[str]:
    """The names of the cases that run on a GPU."""
    lines = subprocess.run(
        [str(program(TESTS)), "--gtest_list_tests"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    names, suite = [], ""
    for line in lines:
        if line.startswith("  "):
            names.append(suite + line.split("#")[0].strip())
        elif "." in line:
            suite = line.split("#")[0].strip()
    return names


def tests(run: Run) -> str:
    """The contract suite, on the GPU."""
    log = run.out / "tests.log"
    cases = BUILD / "gpu-test-cases.json"
    cases.unlink(missing_ok=True)
    seconds = run.left() - reserved(run, "tests")
    status = call([str(program(TESTS)), "--gtest_brief=1", f"--gtest_output=json:{cases}"], log, seconds, print)
    counted = ""
    if cases.is_file():
        found = json.loads(cases.read_text())
        skipped = sum(case.get("result") == "SKIPPED" for suite in found["testsuites"] for case in suite["testsuite"])
        counted = (
            f"{found['tests'] - found['failures'] - skipped} passed, {found['failures']} failed, {skipped} skipped"
        )
    if status != 0:
        raise StepFailed(f"{counted or 'no result'}: {TESTS} ended with {status}: see {log.name}")
    return counted


def interop(run: Run) -> str:
    """dlbridge.testing: the package against the frameworks of this machine."""
    log = run.out / "interop.log"
    seconds = max(min(run.left() - reserved(run, "interop"), MOST_INTEROP_SECONDS), LEAST_SECONDS["interop"])
    last: list[str] = []

    def show(line: str) -> None:
        print(line)
        last[:] = [line] if line else last

    command = [sys.executable, "-m", "dlbridge.testing", "gpu", "--seconds", f"{seconds - 15:.0f}"]
    command += ["--json", str(run.out / "interop.json"), "--junit", str(run.out / "interop.xml")]
    status = call(command, log, seconds + 15, show, **package_path())
    if status != 0:
        raise StepFailed(f"{last[0] if last else 'no result'}: ended with {status}: see {log.name}")
    return last[0]


def package_path() -> dict[str, str]:
    """The environment in which dlbridge is imported."""
    others = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return {"PYTHONPATH": os.pathsep.join([str(package_folder()), *others])}


def measure(run: Run, name: str, command: list[str], seconds: float, **extra: str) -> int:
    """A program that measures; after each of its lines the document has what it has."""
    report = run.out / f"{name}.json"
    report.unlink(missing_ok=True)

    def show(line: str) -> None:
        print(line)
        if report.is_file():
            run.document.set_bars(name, json.loads(report.read_text())["bars"])

    options = run.options
    arguments = ["--json", str(report), "--seconds", f"{seconds:.0f}", "--seed", str(options.seed)]
    arguments += ["--rounds", str(options.rounds)]
    if options.only:
        arguments += ["--only", options.only]
    status = call([*command, *arguments], run.out / "bars.log", seconds + 45, show, **extra)
    if report.is_file():
        run.document.set_bars(name, json.loads(report.read_text())["bars"])
        report.unlink()  # results.json has all of it
    return status


def judged(status: int, name: str) -> None:
    """Missed bars stand in the table; a program that did not end by itself does not."""
    if status not in (0, 1):
        raise StepFailed(f"{name} ended with {status}: see bars.log")


def bars(run: Run) -> str:
    """Against raw calls of CUDA."""
    for name in reversed(BARS):  # the pool's take seconds; staging has the rest
        seconds = run.left() - reserved(run, "bars") - 45
        command = [sys.executable, str(ROOT / "benchmarks" / "cuda" / "bars.py"), str(program(name))]
        judged(measure(run, name, command, seconds), name)
    run.document.set_fingerprint({f"{key} after the bars": value for key, value in gpu_fingerprint.link().items()})
    return ""


def peers_command() -> list[str]:
    """How benchmarks/cuda/staging_peers.py is called."""
    library = BUILD / "lib" / "libdlbridge_cuda.so"
    if not library.is_file():
        raise StepFailed(f"{library} was not built: run the step build first")
    return [sys.executable, str(ROOT / "benchmarks" / "cuda" / "staging_peers.py"), "--library", str(library)]


def peers(run: Run) -> str:
    """Beside torch and CuPy."""
    judged(measure(run, "peers", peers_command(), run.left() - reserved(run, "peers") - 45), "staging_peers.py")
    return ""


def python_command() -> list[str]:
    """How benchmarks/cuda/staging_python.py is called."""
    return [sys.executable, str(ROOT / "benchmarks" / "cuda" / "staging_python.py")]


def python(run: Run) -> str:
    """The package beside torch, CuPy, JAX and Numba."""
    seconds = run.left() - reserved(run, "python") - 45
    judged(measure(run, "python", python_command(), seconds, **package_path()), "staging_python.py")
    return ""


# ---- The run


def reserved(run: Run, name: str) -> float:
    """Seconds that the chosen steps after this one need."""
    chosen = run.options.steps
    return RESERVED_SECONDS[name] if any(later in chosen for later in STEPS[STEPS.index(name) + 1 :]) else 0


def plan(run: Run) -> None:
    """What would be measured, where there is no GPU. Runs nothing that needs one."""
    if "tests" in run.options.steps:
        names = listed_tests()
        print(f"\n== {len(names)} tests would run:")
        print("\n".join(f"  {name}" for name in names))
    only = ["--only", run.options.only] if run.options.only else []
    commands = [[str(program(name))] for name in BARS] if "bars" in run.options.steps else []
    commands += [peers_command()] if "peers" in run.options.steps else []
    commands += [python_command()] if "python" in run.options.steps else []
    for command in commands:
        done = subprocess.run([*command, "--list", *only], capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        print(
            f"\n== {Path(command[-1] if len(command) == 1 else command[1]).name}: {len(lines)} bars would be measured:"
        )
        print("\n".join(f"  {line}" for line in lines) or f"  {done.stderr.strip()}")


def perform(run: Run, name: str, step: Callable[[Run], str]) -> None:
    """One step, with its row in the document."""
    print(f"\n== {name}", flush=True)
    begin = time.monotonic()
    if run.left() < LEAST_SECONDS[name]:
        note = f"the time was up: {max(run.left(), 0):.0f} s left, {LEAST_SECONDS[name]} s needed"
        print(note)
        return run.document.step(name, "skipped", 0, note)
    try:
        note = step(run)
        run.document.step(name, "done", time.monotonic() - begin, note)
    except StepSkipped as skip:
        note = str(skip)
        run.document.step(name, "skipped", time.monotonic() - begin, note)
    except StepFailed as failure:
        note = str(failure)
        run.document.step(name, "failed", time.monotonic() - begin, note)
    print(f"-- {name}: {note or 'done'}", flush=True)


def without_gpu(run: Run) -> int:
    """As far as it goes, and then no figures."""
    try:
        plan(run)
    except StepFailed as failure:
        print(f"-- {failure}")
        run.document.step("plan", "failed", 0, str(failure))
    for name in run.options.steps:
        if name != "build":
            run.document.step(name, "skipped", 0, run.reason)
    failed = run.document.failed()
    print(f"\n{run.reason}: nothing measured", flush=True)
    return 1 if failed else NO_GPU


def parse() -> argparse.Namespace:
    """The command line."""

    def steps(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in STEPS]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"no step is called {', '.join(unknown)}; expected some of {', '.join(STEPS)}"
            )
        return [name for name in STEPS if name in names]

    parser = argparse.ArgumentParser(prog="scripts/gpu", description=__doc__)
    parser.add_argument("outdir", type=Path, help="folder for results.md, results.json and logs")
    parser.add_argument("--steps", type=steps, default=list(STEPS), metavar=",".join(STEPS))
    parser.add_argument("--minutes", type=float, default=9.7, help="the time limit; 9.7 where not given")
    parser.add_argument("--seed", type=int, default=1, help="of the order of turns; a repetition takes another one")
    parser.add_argument("--rounds", type=int, default=15, help="15 or more")
    parser.add_argument("--only", default="", metavar="REGEX", help="only cases whose names match")
    return parser.parse_args()


def main() -> int:
    """Runs the chosen steps."""
    begin = time.monotonic()
    options = parse()
    out = (Path(os.environ.get("DLBRIDGE_CALLED_FROM", ".")) / options.outdir).resolve()
    out.mkdir(parents=True, exist_ok=True)
    for log in ("build.log", "tests.log", "interop.log", "bars.log"):
        (out / log).unlink(missing_ok=True)
    architecture, reason = gpu_fingerprint.capability()
    run = Run(out, Document(out), options, begin + 60 * options.minutes, architecture, reason)
    os.chdir(ROOT)
    run.document.set_fingerprint(gpu_fingerprint.fingerprint(with_gpu=not reason))
    for name, fact in run.document.content["fingerprint"].items():
        print(f"{name}: {fact}")
    if "build" in options.steps:
        perform(run, "build", build)
        if run.document.failed():
            return 1
    if reason:
        return without_gpu(run)
    steps = {"tests": tests, "interop": interop, "bars": bars, "peers": peers, "python": python}
    for name, step in steps.items():
        if name in options.steps:
            perform(run, name, step)
    failed = run.document.failed()
    print(f"\n{'something failed' if failed else 'all went well'}: {out / 'results.md'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""The steps of scripts/gpu, which says how to call it: asks, tests and measures, within a time limit."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_build
import gpu_fingerprint
from gpu_build import BARS, PROBE, TESTS, package_folder, program
from gpu_calls import (
    LATE,
    ROOT,
    GoogleTest,
    Outcome,
    StepFailed,
    StepSkipped,
    call,
    environment,
    run_cases,
    testing_outcome,
)
from gpu_report import Document

#: The seconds of each step, which gets its share of what is left: more where the steps before it took less than theirs.
PLAN = {
    "probe": 25, "tests": 45, "held-tests": 15, "timings": 55, "interop": 80, "held-interop": 70,
    "bars": 145, "python": 60, "sanitizer": 30, "process": 35,
}  # fmt: skip
NO_GPU = 3
BAD_STATES = ("failed", "hung", "crashed")
FRAMEWORKS = ("torch", "cupy", "numba", "jax")
SLOW_CASE_SECONDS = 30  # a case that starts processes, or runs under a tool
#: The bars of dlbridge_cuda_bars and of staging_python.py that matter most, in this order; the others come last.
BAR_GROUPS = (
    "^d2h-pooled/(64|256) MiB", "^d2h-small", "^(d2h-out|h2d-pageable)/256 MiB", "^(transpose|strided)", "^batch",
    "^async",
)  # fmt: skip
PYTHON_GROUPS = ("^python/small", "^python/freed/64 MiB", "^python/h2d")
SANITIZED = "*CopiesEveryLayout*:*CopiesMisaligned*"  # cases that run the pack kernels
MANY_CONNECTIONS = {"CUDA_DEVICE_MAX_CONNECTIONS": "32"}  # streams then do not wait for each other


@dataclass
class Run:
    """One call of the script."""

    out: Path
    document: Document
    options: argparse.Namespace
    deadline: float
    architecture: str = ""  # "90"; empty without a GPU
    reason: str = ""  # why there is no GPU to use; empty where there is one

    def left(self) -> float:
        """Seconds until the time is up."""
        return self.deadline - time.monotonic()


def share(steps: Sequence[str], name: str, left: float) -> float:
    """The seconds that a step gets of those left, beside the chosen steps after it."""
    later = [step for step in PLAN if step in steps and list(PLAN).index(step) >= list(PLAN).index(name)]
    return left * PLAN[name] / sum(PLAN[step] for step in later)


def enough(name: str, seconds: float) -> bool:
    """Whether the step makes sense in these seconds."""
    return seconds >= max(PLAN[name] / 4, 5)


# ---- Suites of cases


def listed(command: Sequence[str | Path], **extra: str) -> list[str]:
    """The lines of a program that names its cases."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={**environment(), **extra}, cwd=ROOT
    )
    if done.returncode != 0:
        raise StepFailed(f"{Path(command[-2]).name} --list ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout.splitlines()


def suite(
    run: Run, source: str, names: list[str], command: Callable[[list[str]], list[str]],
    outcome: Callable[[str], Outcome | None], log: str, seconds: float, **more: Any,
) -> Counter[str]:  # fmt: skip
    """The states of the cases, with a row in the document for each that did not pass."""

    def show(what: Outcome) -> None:
        if what[1] in BAD_STATES:
            run.document.case(source, *what)
            print(f"{what[1].upper()} {source} {what[0]}: {what[2]}", flush=True)

    found = run_cases(names, command, outcome, run.out / log, seconds, show, **more)
    counted = Counter(found.values())
    counted["not run"] = len(names) - len(found)
    return counted


def conclude(counted: Counter[str]) -> str:
    """The note of a step; StepFailed where a case failed."""
    note = ", ".join(f"{count} {state}" for state, count in counted.items() if count) or "no cases"
    if any(counted[state] for state in BAD_STATES):
        raise StepFailed(note)
    return note


def gtest_names() -> list[str]:
    """The cases of the contract suite."""
    return GoogleTest.names("\n".join(listed([program(TESTS), "--gtest_list_tests"])))


def gtest_command(names: list[str]) -> list[str]:
    """The contract suite with these cases alone."""
    return [str(program(TESTS)), f"--gtest_filter={':'.join(names)}"]


def held_tests() -> set[str]:
    """The cases whose sources hold a stream."""
    text = "".join(path.read_text() for path in sorted((ROOT / "tests" / "contract").glob("*_test.cpp")))
    bodies = re.split(r"^TEST_?\w*\((\w+), (\w+)\)", text, flags=re.M)
    return {f"{a}.{b}" for a, b, body in zip(bodies[1::3], bodies[2::3], bodies[3::3], strict=True) if ".hold(" in body}


def tests(run: Run, seconds: float) -> str:
    """The contract suite, with a hardware connection for each stream."""
    return conclude(suite(run, "tests", gtest_names(), gtest_command, GoogleTest(), "tests.log", seconds,
                          **MANY_CONNECTIONS))  # fmt: skip


def tests_held(run: Run, seconds: float) -> str:
    """Those that hold a stream, with as many connections as a user has."""
    held = held_tests()
    names = [name for name in gtest_names() if name in held]
    return conclude(suite(run, "held-tests", names, gtest_command, GoogleTest(), "tests.log", seconds))


def package_path() -> dict[str, str]:
    """The environment in which dlbridge is imported."""
    others = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return {"PYTHONPATH": os.pathsep.join([str(package_folder()), *others])}


TESTING = [sys.executable, "-m", "dlbridge.testing", "gpu"]


def held_functions() -> set[str]:
    """The cases of dlbridge.testing whose sources hold a stream, as topic.function."""
    found = set()
    for path in sorted((package_folder() / "dlbridge" / "testing").glob("cases_*.py")):
        parts = re.split(r"^(?:async )?def (\w+)", path.read_text(), flags=re.M)
        topic = path.stem.removeprefix("cases_")
        found |= {f"{topic}.{name}" for name, body in zip(parts[1::2], parts[2::2], strict=True)
                  if re.search(r"\.(held|late)\(", body)}  # fmt: skip
    return found


def testing_names(kind: str) -> list[str]:
    """The cases of dlbridge.testing of a kind: "interop", "held-interop" or "process"."""
    held = held_functions()

    def kind_of(name: str) -> str:
        if name.startswith("process."):
            return "process"
        return "held-interop" if name.split("[")[0] in held else "interop"

    return [name for name in listed([*TESTING, "--list"], **package_path()) if kind_of(name) == kind]


def interop(run: Run, seconds: float, kind: str = "interop", frameworks: Sequence[str] = FRAMEWORKS) -> str:
    """dlbridge.testing: the package against the frameworks of this machine."""
    names = testing_names(kind)
    deadline = time.monotonic() + seconds
    total: Counter[str] = Counter()
    more = {**package_path(), **({} if kind == "held-interop" else MANY_CONNECTIONS)}
    if kind == "process":
        more = {**more, "case_seconds": SLOW_CASE_SECONDS}
    # The hundreds of cases of elements come last. A part may take twice its share, for one that hangs.
    groups = [[name for name in names if name.startswith("elements.") == last] for last in (False, True)]
    parts = [(framework, group) for group in groups if group for framework in frameworks]
    for number, (framework, group) in enumerate(parts):

        def command(left: list[str], framework: str = framework) -> list[str]:
            only = f"^(?:{'|'.join(map(re.escape, left))})$"
            return [*TESTING, "--verbose", "--frameworks", framework, "--only", only]

        left = deadline - time.monotonic()
        mine = min(left, 2 * left / (len(parts) - number))
        counted = suite(run, f"{kind} {framework}", group, command, testing_outcome, "interop.log", mine, **more)
        print(f"{framework}: {dict(counted)}", flush=True)
        total += counted
    return conclude(total)


def held_interop(run: Run, seconds: float) -> str:
    """The cases that hold a stream, with as many connections as a user has."""
    return interop(run, seconds, "held-interop")


def process(run: Run, seconds: float) -> str:
    """The cases that start processes of their own."""
    return interop(run, seconds, "process", ("torch",))


# ---- Questions and timings


def ask(
    run: Run, program_of: list[str], names: list[str], seconds: float, label: str = "", **more: Any
) -> Counter[str]:
    """Cases of probe.cpp or probe.py: each line is an answer."""

    def outcome(line: str) -> Outcome | None:
        try:
            said = json.loads(line)
        except ValueError:
            return None
        if "ended" not in said:
            print(f"{said['case']}{label}: {said['fact']}: {said['value']}", flush=True)
            run.document.answer(said["case"] + label, said["fact"], said["value"])
            return None
        return said["case"], "failed" if said["ended"] else "passed", said["ended"]

    return suite(run, "probe" + label, names, lambda left: [*program_of, *left], outcome, "probe.log", seconds,
                 **{"start_seconds": 20, "case_seconds": 6, **more})  # fmt: skip


def probe_names(of_timings: bool) -> list[str]:
    """The cases of probe.cpp."""
    return [name for name in listed([program(PROBE), "--list"]) if name.startswith("time:") == of_timings]


PROBE_PY = [sys.executable, str(ROOT / "benchmarks" / "cuda" / "probe.py")]


def probe(run: Run, seconds: float) -> str:
    """What this machine's CUDA and frameworks answer."""
    deadline = time.monotonic() + seconds
    counted, problems = Counter[str](), []

    def left(least: float = 0) -> float:  # no part is without time because of one before it
        return max(deadline - time.monotonic(), least)

    for part in (
        lambda: ask(run, [str(program(PROBE))], probe_names(False), left()),
        lambda: ask(run, [str(program(PROBE))], ["connections"], left(5), " (32 connections)", **MANY_CONNECTIONS),
        lambda: ask(run, PROBE_PY, listed([*PROBE_PY, "--list"]), left(15), case_seconds=10, **package_path()),
    ):
        try:
            counted += part()
        except (StepFailed, StepSkipped) as problem:
            problems.append(problem)
    if problems:
        note = "; ".join(dict.fromkeys(map(str, problems)))
        raise (StepFailed if counted or any(isinstance(one, StepFailed) for one in problems) else StepSkipped)(note)
    return conclude(counted)


def timings(run: Run, seconds: float) -> str:
    """What single calls take here."""
    return conclude(ask(run, [str(program(PROBE))], probe_names(True), seconds, case_seconds=15))


# ---- Bars


def measure(run: Run, name: str, command: list[str], seconds: float, only: str, **extra: str) -> int:
    """A program that measures; after each of its lines the document has what it has."""
    report = run.out / f"{name}.json"
    report.unlink(missing_ok=True)

    def show(line: str) -> None:
        print(line, flush=True)
        if report.is_file():
            run.document.set_bars(name, json.loads(report.read_text())["bars"])

    arguments = ["--json", str(report), "--seconds", f"{seconds - 5:.0f}", "--only", only]
    arguments += ["--seed", str(run.options.seed), "--rounds", str(run.options.rounds)]
    status = call([*command, *arguments], run.out / "bars.log", seconds + 10, show, silence=30, **extra)
    show("")
    report.unlink(missing_ok=True)  # results.json has all of it
    return status


def in_groups(run: Run, name: str, command: list[str], seconds: float, groups: Sequence[str], **extra: str) -> str:
    """The groups of a program's cases, each with its share of the time, and then the other cases."""
    deadline = time.monotonic() + seconds
    rest = f"^(?!{'|'.join(group.removeprefix('^') for group in groups)})" if groups else ""
    todo = [run.options.only] if run.options.only else [*groups, rest]
    problems = []
    for number, only in enumerate(todo):
        mine = (deadline - time.monotonic()) / (len(todo) - number)
        if mine < 5:
            problems.append(f"no time for {only}")
            continue
        status = measure(run, f"{name}-{number}" if number else name, command, mine, only, **extra)
        if status not in (0, 1):  # missed bars stand in the table
            problems.append(f"{only or name} {'hung or was late' if status == LATE else f'ended with {status}'}")
    if problems:
        raise StepFailed("; ".join(problems))
    return ""


def bars_command(name: str) -> list[str]:
    """How a C++ program that measures is called."""
    return [sys.executable, str(ROOT / "benchmarks" / "cuda" / "bars.py"), str(program(name))]


def bars(run: Run, seconds: float) -> str:
    """Against raw calls of CUDA."""
    staging, pool = BARS
    try:
        in_groups(run, staging, bars_command(staging), seconds - 10, BAR_GROUPS)
    finally:
        if not run.options.only:
            measure(run, pool, bars_command(pool), 10, "")
        link = gpu_fingerprint.link()
        run.document.set_fingerprint({f"{key} after the bars": value for key, value in link.items()})
    return ""


def python_command() -> list[str]:
    """How benchmarks/cuda/staging_python.py is called."""
    return [sys.executable, str(ROOT / "benchmarks" / "cuda" / "staging_python.py")]


def python(run: Run, seconds: float) -> str:
    """The package beside torch, CuPy, JAX and Numba."""
    return in_groups(run, "python", python_command(), seconds, PYTHON_GROUPS, **package_path())


def sanitizer(run: Run, seconds: float) -> str:
    """NVIDIA's memory and race checker on the pack kernels."""
    tool = shutil.which("compute-sanitizer", path=environment()["PATH"] + ":/usr/local/cuda/bin")
    if tool is None:
        raise StepSkipped("there is no compute-sanitizer")
    states = {}
    for check in ("memcheck", "racecheck"):
        command = [tool, "--tool", check, "--error-exitcode", "99", str(program(TESTS)), f"--gtest_filter={SANITIZED}"]
        states[check] = call(command, run.out / "tests.log", seconds / 2)
    note = ", ".join(f"{check} ended with {status}" for check, status in states.items())
    if any(status not in (0, LATE) for status in states.values()):
        raise StepFailed(note)
    return note


# ---- The run


STEPS: dict[str, Callable[[Run, float], str]] = {
    "probe": probe, "tests": tests, "held-tests": tests_held, "timings": timings, "interop": interop,
    "held-interop": held_interop, "bars": bars, "python": python, "sanitizer": sanitizer, "process": process,
}  # fmt: skip


def would_run(run: Run, name: str) -> list[str]:
    """The cases of a step, where there is no GPU. Runs nothing that needs one."""
    only = ["--only", run.options.only] if run.options.only else []
    match name:
        case "probe":
            return probe_names(False) + listed([*PROBE_PY, "--list"])
        case "timings":
            return probe_names(True)
        case "tests":
            return gtest_names()
        case "held-tests":
            return [one for one in gtest_names() if one in held_tests()]
        case "interop" | "held-interop" | "process":
            return testing_names(name)
        case "bars":
            return [line for bar in BARS for line in listed([program(bar), "--list", *only])]
        case "python":
            return listed([*python_command(), "--list", *only])
    return [SANITIZED]


def dry(run: Run, name: str) -> str:
    """A step without a GPU."""
    cases = would_run(run, name)
    shown = cases if len(cases) < 300 else [*cases[:100], f"and {len(cases) - 100} more"]
    print("\n".join(f"  {case}" for case in shown))
    raise StepSkipped(f"{len(cases)} cases would run in {PLAN[name]} s")


def perform(run: Run, name: str, step: Callable[[Run, float], str]) -> None:
    """One step, with its row in the document."""
    begin = time.monotonic()
    seconds = share(run.options.steps, name, run.left())
    print(f"\n== {name}: {seconds:.0f} s", flush=True)
    try:
        if not enough(name, seconds):
            raise StepSkipped(f"the time was up: {seconds:.0f} s left of {PLAN[name]}")
        state, note = "done", step(run, seconds)
    except StepSkipped as skip:
        state, note = "skipped", str(skip)
    except StepFailed as failure:
        state, note = "failed", str(failure)
    except Exception as error:  # the others go on
        state, note = "failed", f"{type(error).__name__}: {error}"
    run.document.step(name, state, time.monotonic() - begin, note)
    print(f"-- {name}: {state}{f': {note}' if note else ''}", flush=True)


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

    def folder(text: str) -> Path:
        return (Path(os.environ.get("DLBRIDGE_CALLED_FROM", ".")) / text).resolve()

    parser = argparse.ArgumentParser(prog="scripts/gpu", description=__doc__)
    parser.add_argument("outdir", type=folder, nargs="?", help="folder for results.md, results.json and logs")
    parser.add_argument("--prepare", action="store_true", help="build what a run needs into --prepared, and end")
    parser.add_argument("--prepared", type=folder, default=gpu_build.PREPARED, help="default: build/gpu-prepared")
    parser.add_argument(
        "--python", nargs="+", default=[sys.executable], help="those that --prepare builds the package for"
    )
    parser.add_argument("--steps", type=steps, default=list(STEPS), metavar=",".join(STEPS))
    parser.add_argument("--seconds", type=float, default=sum(PLAN.values()), help="the time limit")
    parser.add_argument("--seed", type=int, default=1, help="of the order of turns; a repetition takes another one")
    parser.add_argument("--rounds", type=int, default=15, help="15 or more")
    parser.add_argument("--only", default="", metavar="REGEX", help="only bars whose cases match")
    options = parser.parse_args()
    if options.outdir is None and not options.prepare:
        parser.error("outdir is missing; expected scripts/gpu OUTDIR or scripts/gpu --prepare")
    return options


def main() -> int:
    """Runs the chosen steps."""
    begin = time.monotonic()
    options = parse()
    os.chdir(ROOT)
    if options.prepare:
        return gpu_build.prepare(options.prepared, options.python)
    prepared = gpu_build.use(options.prepared)
    if not prepared:
        print(f"{options.prepared} holds nothing that was prepared: call scripts/gpu --prepare first")
        return 1
    out: Path = options.outdir
    out.mkdir(parents=True, exist_ok=True)
    for log in out.glob("*.log"):
        log.unlink()
    architecture, reason = gpu_fingerprint.capability()
    run = Run(out, Document(out), options, begin + options.seconds, architecture, reason)
    facts = gpu_fingerprint.fingerprint(with_gpu=not reason) | prepared
    run.document.set_fingerprint(facts)
    run.document.set_found(gpu_fingerprint.sentence(facts, reason))
    print("\n".join([run.document.content["found"], *(f"{name}: {fact}" for name, fact in facts.items())]))
    for name in options.steps:
        step = STEPS[name]
        if reason:
            step = lambda run, _, name=name: dry(run, name)  # noqa: E731
        perform(run, name, step)
    failed = run.document.failed()
    if reason:
        print(f"\n{reason}: nothing measured", flush=True)
        return 1 if failed else NO_GPU
    print(f"\n{'something failed' if failed else 'all went well'}: {out / 'results.md'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

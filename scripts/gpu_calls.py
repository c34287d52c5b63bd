# SPDX-License-Identifier: Apache-2.0
"""Calls programs for scripts/gpu: with a time limit each, and suites of cases with a time limit for each case."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LATE = 124
CASE_SECONDS = 10
START_SECONDS = 60

#: What a line of output says: the case, "passed", "failed", "skipped", and why.
Outcome = tuple[str, str, str]


class StepFailed(Exception):
    """A sentence for the step's row."""


class StepSkipped(Exception):
    """The same, where nothing is wrong."""


#: Of every program: what a hang was doing is printed, JAX leaves memory to the others, and Numba frees nothing while a
#: stream is held.
VARIABLES = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONFAULTHANDLER": "1",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "NUMBA_CUDA_MAX_PENDING_DEALLOCS_COUNT": "100000",
}


def environment() -> dict[str, str]:
    """Ours, with the tools that came with this Python (cmake, ninja) where there are no others."""
    path = os.environ.get("PATH", "") + os.pathsep + str(Path(sys.executable).parent)
    return {**os.environ, **VARIABLES, "PATH": path}


def end(process: subprocess.Popen[str]) -> None:
    """Ends the whole group that it leads. Python says first where its threads are."""
    for how in (signal.SIGABRT, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
            process.wait(2)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def call(
    command: Sequence[str | Path],
    log: Path,
    seconds: float,
    each_line: Callable[[str], object] = lambda _: None,
    silence: float = float("inf"),
    start: float = float("inf"),
    **extra: str,
) -> int:
    """Runs a command with its output in `log` as well. Returns its exit status, or LATE if it was ended: after
    `seconds`, or after `silence` without a line (`start` before the first one)."""
    with log.open("a") as file:
        file.write(f"$ {' '.join(map(str, command))[:1000]}\n")
        file.flush()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment(), **extra},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.put(line)
            lines.put(None)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        deadline = time.monotonic() + max(seconds, 1)
        patience = max(start, silence)
        try:
            while (line := lines.get(timeout=max(min(deadline - time.monotonic(), patience), 0.001))) is not None:
                file.write(line)
                file.flush()
                each_line(line.rstrip("\n"))
                patience = silence
            return process.wait(max(deadline - time.monotonic(), 1))
        except (queue.Empty, subprocess.TimeoutExpired):
            file.write("-- ended: no line for too long, or the time was up\n")
            end(process)
            reader.join(1)  # a process outside of the group may keep the pipe open
            while not lines.empty():
                file.write(lines.get() or "")
            return LATE
        finally:
            end(process)


def run_cases(
    names: Sequence[str],
    command: Callable[[list[str]], list[str]],
    outcome: Callable[[str], Outcome | None],
    log: Path,
    seconds: float,
    show: Callable[[Outcome], object] = lambda _: None,
    case_seconds: float = CASE_SECONDS,
    start_seconds: float = START_SECONDS,
    **extra: str,
) -> dict[str, str]:
    """The state of each case: as `outcome` reads it from the lines of `command`, which runs the cases it is given in
    this order. A case that prints nothing for `case_seconds` is "hung", one that ends the program is "crashed"; the
    program then runs again for the cases after it. Cases without time left are missing in the result."""
    found: dict[str, str] = {}
    deadline = time.monotonic() + seconds

    def note(what: Outcome) -> None:
        found[what[0]] = what[1]
        show(what)

    def each_line(line: str) -> None:
        if (what := outcome(line)) is not None:
            note(what)

    stillborn = 0  # runs in a row that said nothing of any case
    while (left := [name for name in names if name not in found]) and deadline - time.monotonic() > 1:
        before = len(found)
        status = call(
            command(left), log, deadline - time.monotonic(), each_line, case_seconds, start_seconds, **extra
        )  # fmt: skip
        stillborn = stillborn + 1 if len(found) == before else 0
        left = [name for name in names if name not in found]
        if not left or time.monotonic() >= deadline - 0.1:
            break
        if stillborn == 2 and status in (1, 2, 3, 127):
            raise StepFailed(f"{Path(command([])[0]).name} ended twice with {status} before its first case: {log.name}")
        if status == LATE:
            note((left[0], "hung", f"printed nothing for {case_seconds:g} s"))
        else:
            note((left[0], "crashed", f"the program ended with {status}"))
    return found


class GoogleTest:
    """Reads the output of a program made with GoogleTest."""

    ENDED = re.compile(r"\[ +(OK|FAILED|SKIPPED) +\] (\S+?),?(?: where .*)? \(\d+ ms\)$")
    STATES = {"OK": "passed", "FAILED": "failed", "SKIPPED": "skipped"}

    def __init__(self) -> None:
        self._said: list[str] = []

    def __call__(self, line: str) -> Outcome | None:
        """See Outcome."""
        ended = self.ENDED.match(line)
        if ended is None:
            self._said = [] if line.startswith("[ RUN") else [*self._said, line.strip()]
            return None
        return ended[2], self.STATES[ended[1]], " ".join(self._said)[:300]

    @staticmethod
    def names(listed: str) -> list[str]:
        """Of --gtest_list_tests."""
        names, suite = [], ""
        for line in listed.splitlines():
            if line.startswith("  "):
                names.append(suite + line.split("#")[0].strip())
            elif "." in line:
                suite = line.split("#")[0].strip()
        return names


def testing_outcome(line: str) -> Outcome | None:
    """Of a line of python -m dlbridge.testing gpu --verbose."""
    found = re.match(r"(passed|FAILED|skipped) \S+ (\w+\.\w+(?:\[.*?\])?):?(?: (.*))?$", line)
    return (found[2], found[1].lower(), (found[3] or "")[:300]) if found else None

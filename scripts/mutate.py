# SPDX-License-Identifier: Apache-2.0
"""The mutation gate of the CUDA module. scripts/mutate says how to call it.

Each mistake of scripts/mistakes.py is a patch of one source file: a patched copy of it is compiled with the command of
the build (`--preset`), the test program is linked with that object in the place of the sound one, and the tests that
must find the mistake run. A run stops at its first failure; one that does not end in time is stopped and counts as a
failure, and the table says so.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

from mistakes import MISTAKES, Mistake

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = "tests/cuda/dlbridge_cuda_tests"
OBJECTS = "cuda/CMakeFiles/dlbridge_cuda_objects.dir/src"
TIMEOUT_S = 120
WHOLE_TIMEOUT_S = 900


@dataclass
class Run:
    """What the tests said of one mistake."""

    mutant: str
    what: str = ""
    killed: bool = False
    by: str = ""
    how: str = ""
    seconds: float = 0.0


class Gate:
    """One build, and how to compile and link in it."""

    def __init__(self, preset: str) -> None:
        self.folder = ROOT / "build" / preset
        self._build(preset)
        entries = json.loads(self._ninja("compdb"))
        self.compile = {e["output"]: e["command"] for e in entries if e["output"].startswith(OBJECTS)}
        commands = self._ninja("commands", "-s", PROGRAM).strip().split(" && ")
        self.link = next(command for command in commands if f"-o {PROGRAM} " in command)

    def _build(self, preset: str) -> None:
        log = self.folder / "mutate.log"
        self.folder.mkdir(parents=True, exist_ok=True)
        steps = [["cmake", "--build", "--preset", preset, "--target", Path(PROGRAM).name]]
        if not (self.folder / "build.ninja").exists():
            steps.insert(0, ["cmake", "--preset", preset])
        with log.open("w") as out:
            for step in steps:
                if subprocess.run(step, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, check=False).returncode != 0:
                    sys.exit(f"mutate: {' '.join(step)} failed:\n" + log.read_text()[-4000:])

    def _ninja(self, tool: str, *arguments: str) -> str:
        command = ["ninja", "-C", str(self.folder), "-t", tool, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def patched(self, mistake: Mistake) -> Path:
        """The test program with the mistake in it."""
        source = ROOT / "cuda" / "src" / mistake.file
        text = source.read_text()
        for old, new in mistake.patches:
            if old not in text:
                sys.exit(f"mutate: {mistake.name}: this text is not in cuda/src/{mistake.file}:\n{old}")
            text = text.replace(old, new)
        made = self.folder / "mutants" / mistake.name
        made.mkdir(parents=True, exist_ok=True)
        copy, program = made / source.name, made / "tests"
        if not copy.exists() or copy.read_text() != text:  # else the compiler's cache knows it
            copy.write_text(text)
        sound = f"{OBJECTS}/{mistake.file}.o"
        mutant = str(copy) + ".o"
        compiling = self.compile[sound].replace(str(source), str(copy)).replace(sound, mutant) + " -O0 -g0 -w"
        linking = self.link.replace(f" {sound} ", f" {mutant} ").replace(f"-o {PROGRAM} ", f"-o {program} ")
        for command in (compiling, linking):
            done = subprocess.run(command, cwd=self.folder, shell=True, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                sys.exit(f"mutate: {mistake.name} does not build:\n{command}\n{(done.stdout + done.stderr)[-4000:]}")
        if program.stat().st_mtime < copy.stat().st_mtime or mutant not in linking:
            sys.exit(f"mutate: {mistake.name} was not linked")
        return program

    def attempt(self, mistake: Mistake, *, whole: bool) -> Run:
        """Builds the mistake in and runs the tests that must find it, or all."""
        run = Run(mistake.name, mistake.what)
        program = self.patched(mistake)
        began = time.monotonic()
        wanted, timeout_s = ("*", WHOLE_TIMEOUT_S) if whole else (mistake.found_by, TIMEOUT_S)
        run.killed, run.by, run.how = run_tests(program, wanted, timeout_s)
        run.seconds = round(time.monotonic() - began, 2)
        program.unlink()
        return run


def run_tests(program: Path, gtest_filter: str, timeout_s: float) -> tuple[bool, str, str]:
    """Whether the tests failed, at which one and how."""
    command = [str(program), "--gtest_fail_fast", f"--gtest_filter={gtest_filter}"]
    environment = {key: value for key, value in os.environ.items() if key != "GTEST_OUTPUT"}
    hung = False
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace",
                              timeout=timeout_s, check=False)  # fmt: skip
        output, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as expired:
        output, code, hung = (expired.stdout or b"").decode(errors="replace"), 1, True
    if code == 0:
        if re.search(r"^\[==========\] (Running )?0 tests", output, re.M):
            sys.exit(f"mutate: there is no test {gtest_filter}")
        return False, "", ""
    began = re.findall(r"^\[ RUN      \] (\S+)", output, re.M)
    failed = re.findall(r"^\[  FAILED  \] (\S+)", output, re.M)
    how = "hangs" if hung else "fails" if failed else f"ends with {code}"
    return True, (failed or began[-1:] or ["?"])[0].rstrip(","), how


def facts() -> dict[str, str]:
    """What the table was made with."""

    def said(*command: str) -> str:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    return {
        "date": datetime.date.today().isoformat(),
        "commit": said("git", "rev-parse", "--short", "HEAD"),
        "compiler": said("c++", "--version").splitlines()[0],
        "GoogleTest": said("pkg-config", "--modversion", "gtest") or "–",
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()} {platform.release()}",
    }


def markdown(runs: list[Run], made_with: dict[str, str]) -> str:
    """The table as a page."""
    lines = [
        "# The mutation gate of the CUDA module",
        "",
        "Written by `scripts/mutate cuda --markdown PATH`. Each row is a mistake of `scripts/mistakes.py` and the",
        "first test that fails with it; where there were several runs, each of them failed.",
        "",
        "| | |", "|---|---|",
        *(f"| {key} | {value} |" for key, value in made_with.items()),
        "",
        "| mistake | what it is | found by | how |", "|---|---|---|---|",
        *(f"| `{run.mutant}` | {run.what} | " + (f"`{run.by}` | {run.how} |" if run.killed else "**not found** | |")
          for run in runs),
        "",
        f"{sum(run.killed for run in runs)} of {len(runs)} found.",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def junit(runs: list[Run]) -> str:
    """The runs as test cases, for scripts/count_results.py."""
    suite = ElementTree.Element("testsuite", name="mutation gate", tests=str(len(runs)))
    for run in runs:
        case = ElementTree.SubElement(suite, "testcase", classname="mutation gate", name=run.mutant)
        case.set("time", str(run.seconds))
        if not run.killed:
            ElementTree.SubElement(case, "failure", message="no test fails with this mistake")
    return ElementTree.tostring(suite, encoding="unicode")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__)
    parser.add_argument("module", choices=["cuda"])
    parser.add_argument("--preset", default="cuda", help="the build to use, such as cuda or asan")
    parser.add_argument("--shard", default="1/1", help="I/N: every N-th mistake from the I-th on")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these mistakes alone")
    parser.add_argument("--repeat", type=int, default=1, help="how often each must be found")
    parser.add_argument("--whole", action="store_true", help="by the whole program, not by the tests meant for it")
    parser.add_argument("--skip-sound", action="store_true", help="do not run all tests without a mistake first")
    parser.add_argument("--jobs", type=int, default=2, help="how many mistakes are tried at a time")
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--markdown", type=Path, metavar="PATH")
    parser.add_argument("--junit", type=Path, metavar="PATH")
    return parser.parse_args()


def main() -> int:
    """Returns 0 where every mistake was found, and no test fails without one."""
    options = parse()
    index, count = (int(part) for part in options.shard.split("/"))
    names = options.only or [mistake.name for mistake in MISTAKES][index - 1 :: count]
    for name in set(names) - {mistake.name for mistake in MISTAKES}:
        sys.exit(f"mutate: there is no mistake called {name}")
    gate = Gate(options.preset)
    made_with = facts() | {"build": options.preset, "runs of each": str(options.repeat)}
    if not options.skip_sound:
        began = time.monotonic()
        failed, by, how = run_tests(gate.folder / PROGRAM, "*", WHOLE_TIMEOUT_S)
        if failed:
            print(f"mutate: {by} {how} without any mistake", file=sys.stderr)
            return 1
        made_with["without a mistake"] = f"all tests pass, {time.monotonic() - began:.0f} s"
        print(f"{'(none)':32} {made_with['without a mistake']}", flush=True)

    def attempt(mistake: Mistake) -> Run:
        attempts = [gate.attempt(mistake, whole=options.whole) for _ in range(options.repeat)]
        run = next((each for each in attempts if not each.killed), attempts[0])
        says = f"{run.by} {run.how}" if run.killed else "NOT FOUND"
        print(f"{run.mutant:32} {says}  {run.seconds:.1f} s", flush=True)
        return run

    with ThreadPoolExecutor(options.jobs) as workers:
        runs = list(workers.map(attempt, [mistake for mistake in MISTAKES if mistake.name in names]))
    if options.json:
        options.json.write_text(json.dumps({"made with": made_with, "runs": [asdict(run) for run in runs]}, indent=2))
    if options.markdown:
        options.markdown.write_text(markdown(runs, made_with))
    if options.junit:
        options.junit.write_text(junit(runs))
    missed = [run.mutant for run in runs if not run.killed]
    print(f"{len(runs) - len(missed)} of {len(runs)} mistakes found")
    if missed:
        print(f"mutate: not found: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""The mutation gate of the CUDA module. scripts/mutate says how to call it.

The mistakes are compiled into one build side by side (presets `mutants` and `asan`); the environment variable
DLBRIDGE_CUDA_MUTANT chooses one. Each is tried on the tests that are there for it, listed below, and on the whole suite
where these miss it. A run stops at its first failure; one that does not end is stopped and counts as a failure, and the
table says so.
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
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("dlbridge_cuda_tests", "dlbridge_cuda_contract_tests")
TIMEOUT_S = 60
WHOLE_TIMEOUT_S = 900

# The tests that are to find each mistake, as a filter for GoogleTest.
KILLERS = {
    "drop_ready_record": "*OrderOfEveryWay.ToHost/large_to_fresh_async_lazy",
    "drop_lane_wait": "*OrderOfEveryWay.ToHost/large_to_fresh_async_lazy",
    "drop_done_record": "*OrderOfEveryWay.ToHost/large_to_fresh_lazy",
    "drop_back_edge": "StagingOrder.ASnapshotMakesTheProducerWait",
    "drop_consumer_to_lane_wait": "*OrderOfEveryWay.ToDevice/large_to_pageable_lazy",
    "drop_lane_to_consumer_wait": "*OrderOfEveryWay.ToDevice/large_to_pageable_lazy",
    "record_ready_after_waiting": "*OrderOfEveryWay.ToHost/large_to_fresh_async_lazy",
    "record_done_before_last_chunk": "*OrderOfEveryWay.ToHost/large_to_fresh_lazy",
    "release_source_at_submit": "*StagingAsync.TheSourceIsHeldUntilTheCopyHasBeenSeenToEnd*",
    "return_slot_before_ticket": "StagingHazards.ASlotIsNotUsedAgainBeforeItsCopyHasEnded",
    "skip_ring_reuse_wait": "StagingOrder.RingsAreUsedAgainOnlyWhenTheirContentIsGone",
    "skip_pack_ring_reuse_edge": "StagingOrder.RingsAreUsedAgainOnlyWhenTheirContentIsGone",
    "per_thread_handle_on_worker": "*NumberedStreams.AreThoseOfTheCallingThread/per_thread_large",
    "blocking_lane": "StagingOrder.LanesAreOrderedWithNobody",
    "no_context_restore": "*CallersThread.KeepsItsContexts/large",
    "restore_by_set_device": "*CallersThread.KeepsItsContexts/large",
    "no_capture_relax": "*CapturesOfOthers.StayValidWhileAnotherThreadStages/large",
    "no_capture_check": "RefusedStreams.OneThatIsCaptured",
    "query_error_is_not_ready": "DeadDevice.AFailedQueryEndsTheWait",
    "not_ready_is_done": "StagingOrder.SmallCopiesArePolledUntilTheyAreOver",
    "unwind_without_quiesce": "*FailureOnEveryPath.OfTheNthCallOfEachFunctionIsCleanedUp/large",
    "recycle_after_sticky_error": "DeadDevice.FailsWhatIsInFlightAndKeepsItsMemoryFromUse",
    "skip_seam_split": "StagingSeams.SplitFlatCopies",
    "skip_quarantine": "StagingHazards.ADroppedResultWaitsForCopiesOnOrdinaryStreams",
    "kernel_params_by_reference": "StagingOrder.RingsAreUsedAgainOnlyWhenTheirContentIsGone",
}


@dataclass
class Run:
    """What the tests said of one mistake; of none where the name is empty."""

    mutant: str
    killed: bool = False
    by: str = ""
    how: str = ""
    seconds: float = 0.0


def mutants() -> list[str]:
    """The names in cuda/src/mutants.h, which KILLERS has to know."""
    text = (ROOT / "cuda" / "src" / "runtime" / "mutants.h").read_text()
    names = [name for name in re.findall(r"^\s*X\((\w+)\)", text, re.M) if name != "name"]
    if set(names) != set(KILLERS):
        sys.exit(f"mutate: scripts/mutate.py and mutants.h differ in {sorted(set(names) ^ set(KILLERS))}")
    return names


def build(preset: str) -> None:
    """Configures and builds both test programs; one architecture will do, no kernel is run."""
    folder = ROOT / "build" / preset
    log = folder / "mutate.log"
    folder.mkdir(parents=True, exist_ok=True)
    steps = [["cmake", "--build", "--preset", preset]]
    if not (folder / "build.ninja").exists():
        steps.insert(0, ["cmake", "--preset", preset, "-DDLBRIDGE_CUDA_ARCHITECTURES=90"])
    with log.open("w") as out:
        for step in steps:
            if subprocess.run(step, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, check=False).returncode != 0:
                sys.exit(f"mutate: {' '.join(step)} failed:\n" + log.read_text()[-4000:])


def run_tests(preset: str, mutant: str, program: str, gtest_filter: str, timeout_s: float) -> tuple[bool, str, str]:
    """Whether the tests failed, at which one and how."""
    folder = ROOT / "build" / preset / "tests"
    path = next(folder / part / program for part in ("cuda", "contract") if (folder / part / program).exists())
    command = [str(path), "--gtest_fail_fast", f"--gtest_filter={gtest_filter}"]
    environment = os.environ | {"DLBRIDGE_CUDA_MUTANT": mutant}
    environment.pop("GTEST_OUTPUT", None)
    hung = False
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace",
                              timeout=timeout_s, check=False)  # fmt: skip
        output, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as expired:
        output, code, hung = (expired.stdout or b"").decode(errors="replace"), 1, True
    if code == 0:
        if re.search(r"^\[==========\] 0 tests", output, re.M):
            sys.exit(f"mutate: {program} has no test {gtest_filter}")
        return False, "", ""
    began = re.findall(r"^\[ RUN      \] (\S+)", output, re.M)
    failed = re.findall(r"^\[  FAILED  \] (\S+)", output, re.M)
    how = "hangs" if hung else "fails" if failed else f"ends with {code}"
    return True, (failed or began[-1:] or ["?"])[0].rstrip(","), how


def try_mutant(preset: str, mutant: str, *, whole: bool) -> Run:
    """Runs the tests meant for the mistake, then all."""
    run = Run(mutant)
    began = time.monotonic()
    attempts = [(program, "*", WHOLE_TIMEOUT_S) for program in PROGRAMS]
    if not whole and mutant:
        attempts.insert(0, (PROGRAMS[0], KILLERS[mutant], TIMEOUT_S))
    for attempt in attempts:
        run.killed, run.by, run.how = run_tests(preset, mutant, *attempt)
        if run.killed:
            break
    run.seconds = round(time.monotonic() - began, 2)
    return run


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
        "Written by `scripts/mutate cuda --markdown PATH`. Each row is a mistake (`cuda/src/mutants.h`) and the first",
        "test that fails with it alive; where there were several runs, each of them failed.",
        "",
        "| | |", "|---|---|",
        *(f"| {key} | {value} |" for key, value in made_with.items()),
        "",
        "| mistake | found by | how | seconds |", "|---|---|---|---|",
        *(f"| `{run.mutant}` | `{run.by}` | {run.how} | {run.seconds:.1f} |" if run.killed
          else f"| `{run.mutant}` | **survives** | | {run.seconds:.1f} |" for run in runs),
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
            ElementTree.SubElement(case, "failure", message="no test fails with this mistake alive")
    return ElementTree.tostring(suite, encoding="unicode")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__)
    parser.add_argument("module", choices=["cuda"])
    parser.add_argument("--preset", default="mutants", help="the build that has them: mutants or asan")
    parser.add_argument("--shard", default="1/1", help="I/N: every N-th mistake from the I-th on")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these mistakes alone")
    parser.add_argument("--repeat", type=int, default=1, help="how often each must be found")
    parser.add_argument("--whole", action="store_true", help="by the whole suite, not by the tests meant for it first")
    parser.add_argument("--skip-sound", action="store_true", help="do not run all tests without a mistake first")
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--markdown", type=Path, metavar="PATH")
    parser.add_argument("--junit", type=Path, metavar="PATH")
    return parser.parse_args()


def main() -> int:
    """0 where every mistake was found, and nothing without one."""
    options = parse()
    index, count = (int(part) for part in options.shard.split("/"))
    chosen = options.only or mutants()[index - 1 :: count]
    for name in set(chosen) - set(mutants()):
        sys.exit(f"mutate: there is no mistake called {name}")
    build(options.preset)
    made_with = facts() | {"runs of each": str(options.repeat)}
    if not options.skip_sound:
        sound = try_mutant(options.preset, "", whole=True)
        if sound.killed:
            print(f"mutate: {sound.by} {sound.how} without any mistake", file=sys.stderr)
            return 1
        made_with["without a mistake"] = f"all tests pass, {sound.seconds:.0f} s"
        print(f"{'(none)':32} all tests pass  {sound.seconds:.1f} s", flush=True)
    runs: list[Run] = []
    for mutant in chosen:
        attempts = [try_mutant(options.preset, mutant, whole=options.whole) for _ in range(options.repeat)]
        run = next((each for each in attempts if not each.killed), attempts[0])
        runs.append(run)
        says = f"{run.by} {run.how}" if run.killed else "SURVIVES"
        print(f"{mutant:32} {says}  {run.seconds:.1f} s", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"made with": made_with, "runs": [asdict(run) for run in runs]}, indent=2))
    if options.markdown:
        options.markdown.write_text(markdown(runs, made_with))
    if options.junit:
        options.junit.write_text(junit(runs))
    survivors = [run.mutant for run in runs if not run.killed]
    print(f"{len(runs) - len(survivors)} of {len(runs)} mistakes found")
    if survivors:
        print(f"mutate: these survive: {', '.join(survivors)}", file=sys.stderr)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())

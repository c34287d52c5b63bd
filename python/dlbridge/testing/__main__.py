# SPDX-License-Identifier: Apache-2.0
"""Tests dlbridge's way between GPU and NumPy on this machine (gpu), or a framework's arrays in host memory (cpu).

Ends with 0 where no case failed, 1 where one did, 2 for wrong arguments, and 3 where nothing could be run: no GPU, no
framework, or no case that the framework supports. docs/gpu.md tells what is tested.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from . import report
from .choice import SUITES, UnknownName, chosen_cases, make_provider
from .runner import Outcome, Runner

NOTHING_RUN = 3


def parse(arguments: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m dlbridge.testing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=list(SUITES))
    parser.add_argument("--frameworks", metavar="NAME,...", help="those to test; all where not given")
    parser.add_argument("--provider", action="append", default=[], metavar="module:Class", help="one of your own")
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose names match")
    parser.add_argument("--seconds", type=float, default=600, help="no case begins after them; 600 where not given")
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--junit", type=Path, metavar="PATH")
    parser.add_argument("--list", action="store_true", help="names of cases, and nothing else")
    parser.add_argument("--verbose", action="store_true", help="a line for every framework and case")
    return parser, parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the chosen cases against the chosen frameworks."""
    parser, options = parse(arguments)
    specs = [*options.provider]
    if options.frameworks is not None:
        specs += [name for name in options.frameworks.split(",") if name]
    elif not options.provider:
        specs += list(SUITES[options.suite])
    try:
        cases = chosen_cases(options.only, options.suite)
        providers = [(make_provider(spec, options.suite), spec) for spec in specs]
    except UnknownName as error:
        parser.error(str(error))
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    if not providers:
        parser.error("no framework was named")

    def show(outcome: Outcome) -> None:
        if outcome.state == "failed":
            print(f"FAILED {outcome.framework} {outcome.name}: {outcome.message}", flush=True)
        elif options.verbose:
            print(f"{outcome.state} {outcome.framework} {outcome.name} {outcome.message}".rstrip(), flush=True)

    def opened(name: str) -> None:
        if options.verbose:
            print(f"opened {name}", flush=True)

    runner = Runner(options.seconds, show, opened=opened)
    try:
        for provider, spec in providers:
            if runner.hanging:
                break
            runner.run(provider, spec, cases)
    finally:
        report.write(options.json, report.to_json(runner.outcomes, runner.reasons))
        report.write(options.junit, report.to_junit(runner.outcomes))
    status = conclude(runner)
    if runner.hanging:  # a thread that hangs would keep Python from ending
        sys.stdout.flush()
        os._exit(status)
    return status


def conclude(runner: Runner) -> int:
    """Prints what came of it; the exit status."""
    print("\n".join(report.skips(runner.outcomes)))
    print("\n" + "\n".join(report.table(runner.outcomes)) + "\n")
    counted = report.counts(runner.outcomes)
    ran = counted["passed"] + counted["failed"]
    if ran == 0:
        for name, why in runner.reasons.items():
            print(f"{name}: {why}")
        print("nothing could be run")
    print(report.summary(runner.outcomes), flush=True)
    return NOTHING_RUN if ran == 0 else 1 if counted["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())

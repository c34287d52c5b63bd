# SPDX-License-Identifier: Apache-2.0
"""Processes: a fork's child, and the end of Python. Each runs in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

from .case import PATIENCE_SECONDS, Bench, case

#: What child.py knows.
SCENARIOS = ("ends_with_copies_in_flight", "ends_with_results_held", "ends_while_awaiting", "forks")


@case(scenario=SCENARIOS)
def in_its_own(bench: Bench, scenario: str) -> None:
    """The process ends by itself with status 0 and prints no error."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "dlbridge.testing.child", bench.spec, scenario],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE_SECONDS,
        check=False,
    )
    said = f"{done.stdout}{done.stderr}"[-2000:]
    assert done.returncode == 0, f"{scenario} ended with {done.returncode}: {said}"
    assert "all is well" in done.stdout, f"{scenario} was cut off: {said}"
    for sign in ("Traceback", "Fatal", "terminate called"):
        assert sign not in done.stderr, said

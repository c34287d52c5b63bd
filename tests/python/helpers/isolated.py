# SPDX-License-Identifier: Apache-2.0
"""Runs a piece of Python in a process of its own: for tests of what would otherwise take the test run down with it."""

import functools
import importlib.util
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

HELPERS = str(Path(__file__).parent)
HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")

FROM_HELPERS = f"import sys; sys.path.insert(0, {HELPERS!r}); from refusals import refusal\n"
_PRELUDE = f"""
import ctypes, gc, os, threading, weakref
{FROM_HELPERS}
import numpy as np
import torch
import dlbridge
from dlbridge import from_dlpack, to_numpy, to_torch
"""

# A process that has imported torch, which takes seconds, and forks for each piece of code. It does not import dlbridge,
# which would know that it was forked. The child runs the code in __main__ and ends as any interpreter does.
_FORKS = """
import json, os, sys
import numpy, torch

def _next_code(requests, answers):
    for line in os.fdopen(requests):
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os.dup2(os.open(request["output"], os.O_WRONLY | os.O_APPEND), 1)
            os.dup2(os.open(request["errors"], os.O_WRONLY | os.O_APPEND), 2)
            os.close(answers)
            return request["code"]
        os.write(answers, b"%d " % child)
        os.write(answers, b"%d\\n" % os.waitpid(child, 0)[1])
    os._exit(0)

exec(compile(_next_code(int(sys.argv[1]), int(sys.argv[2])), "<isolated>", "exec"))
"""


@functools.cache
def _forks() -> tuple[int, int]:
    """The pipes to and from a process that runs _FORKS; it ends with this one."""
    (requests, to_it), (from_it, answers) = os.pipe(), os.pipe()
    command = [sys.executable, "-X", "faulthandler", "-c", _FORKS, str(requests), str(answers)]
    subprocess.Popen(command, pass_fds=(requests, answers), stdin=subprocess.DEVNULL)
    os.close(requests)
    os.close(answers)
    return to_it, from_it


def _run_forked(code: str, timeout: float) -> tuple[int, str, str]:
    to_it, from_it = _forks()
    with tempfile.NamedTemporaryFile() as output, tempfile.NamedTemporaryFile() as errors:
        request = {"code": code, "output": output.name, "errors": errors.name}
        os.write(to_it, json.dumps(request).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            if not select.select([from_it], [], [], timeout)[0]:
                os.kill(int(answer.split()[0]), signal.SIGKILL)
            answer += os.read(from_it, 100)
        status = os.waitstatus_to_exitcode(int(answer.split()[1]))
        return status, Path(output.name).read_text(), Path(errors.name).read_text()


def run_isolated(code: str, *, timeout: float = 120, prelude: str = _PRELUDE) -> str:
    """Runs `code` after the usual imports; returns what it printed. Fails with the output where it ends badly.

    Where `prelude` imports torch, the process is a fork of one that has imported it.
    """
    code = prelude + textwrap.dedent(code)
    if HAS_TORCH and re.search(r"^import torch$", prelude, re.M):
        status, output, errors = _run_forked(code, timeout)
    else:
        command = [sys.executable, "-X", "faulthandler", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        status, output, errors = done.returncode, done.stdout, done.stderr
    assert status == 0, f"exit status {status}\n{output}\n{errors}"
    return output

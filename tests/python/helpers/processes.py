# SPDX-License-Identifier: Apache-2.0
"""Commands, in an environment that leads to no other dlbridge."""

import os
import pty
import subprocess
from pathlib import Path

import pytest


def has_terminals() -> bool:
    """Whether this machine makes pseudo-terminals; a chroot without /dev/pts does not."""
    try:
        for end in pty.openpty():
            os.close(end)
    except OSError:
        return False
    return True


def fork_in_terminal() -> tuple[int, int]:
    """pty.fork(). Skips the test on a machine without pseudo-terminals."""
    if not has_terminals():
        pytest.skip("this machine makes no pseudo-terminal")
    return pty.fork()


def attempt(*command: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command without PYTHONPATH and LD_LIBRARY_PATH, but with `env`."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LD_LIBRARY_PATH")}
    arguments = [str(part) for part in command]
    return subprocess.run(arguments, capture_output=True, text=True, check=False, env=clean | (env or {}))


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """What a command prints. Fails where it ends with an error."""
    done = attempt(*command, env=env)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout

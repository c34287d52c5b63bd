# SPDX-License-Identifier: Apache-2.0
"""Completion of the command line: in an interactive bash, and the scripts for zsh and fish."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess

import pytest
from processes import fork_in_terminal

from dlbridge import _completion
from dlbridge.__main__ import make_parser

PARSER = make_parser("dlbridge")


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """Types into an interactive bash, tabulators included; returns what dlbridge is called with."""
    folder = tmp_path_factory.mktemp("bash")
    for name in ("a.npy", "b.npz", "c.txt", "with space.npy"):
        (folder / name).touch()
    (folder / "sub").mkdir()
    script = _completion.bash(PARSER) + "dlbridge() { printf '<%s>' \"$@\"; printf '\\n'; echo END; }\n"
    (folder / "rc").write_text(script + "PS1= PS2=; bind 'set enable-bracketed-paste off'\n")
    child, terminal = fork_in_terminal()
    if child == 0:
        os.chdir(folder)
        os.execvpe("bash", ["bash", "--noprofile", "--rcfile", "rc", "-i"], os.environ | {"TERM": "dumb"})

    def type_line(line: str) -> list[str]:
        os.write(terminal, f"{line}\n".encode())
        written = ""
        while not re.search(r"^END\r?$", written, re.M):
            written += os.read(terminal, 4096).decode()
        return re.findall(r"<(.*?)>", written)

    yield type_line
    os.write(terminal, b"exit\n")
    os.waitpid(child, 0)
    os.close(terminal)


@pytest.mark.parametrize(
    ("typed", "arguments"),
    [
        ("inf\t", ["info"]),
        ("--cm\t", ["--cmake-dir"]),
        ("--cmake-dir --inc\t", ["--cmake-dir", "--include-dir"]),
        ("doctor --j\t", ["doctor", "--json"]),
        ("exp\ta\t--to tor\t--c\tNon\t", ["explain", "a.npy", "--to", "torch", "--copy", "None"]),
        ("explain --to=n\tb\t", ["explain", "--to=numpy", "b.npz"]),
        ("explain w\t", ["explain", "with space.npy"]),
        ("explain c\t", ["explain", "c"]),
        ("explain su\tx", ["explain", "sub/x"]),
        ("explain --device inf\t", ["explain", "--device", "inf"]),
        ("completion fi\t", ["completion", "fish"]),
        ("info expl\t", ["info", "expl"]),
        ("info explain --to t\t", ["info", "explain", "--to", "t"]),
    ],
)
def test_bash_completes(bash, typed, arguments):
    assert bash(f"dlbridge {typed}") == arguments


def test_bash_offers_values_after_an_equals_sign(bash):
    asked = "COMP_WORDS=(dlbridge explain --order =); COMP_CWORD=3; _dlbridge; dlbridge ${COMPREPLY[@]}"
    assert bash(asked) == ["K", "C"]


def parsers() -> dict[str, argparse.ArgumentParser]:
    (commands,) = (action for action in PARSER._actions if isinstance(action, argparse._SubParsersAction))
    return {"": PARSER, **commands.choices}


@pytest.mark.parametrize("shell", _completion.SHELLS)
def test_scripts_know_every_option(shell):
    script = _completion.SHELLS[shell](PARSER)
    for name, parser in parsers().items():
        assert name in script
        for action in parser._actions:
            for flag in action.option_strings:
                assert re.search(rf"(-l {flag[2:]}|{flag})\b" if flag.startswith("--") else r"(-s h|-h)\b", script), (
                    flag
                )
            for choice in action.choices or []:
                assert choice in script


@pytest.mark.parametrize("shell", _completion.SHELLS)
def test_scripts_are_well_formed(shell, tmp_path):
    """Where the shell is installed, it reads its script; bash always is."""
    script = tmp_path / "script"
    script.write_text(_completion.SHELLS[shell](PARSER))
    if program := shutil.which(shell):
        done = subprocess.run([program, "-n", str(script)], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert shell != "bash" and script.read_text().count("'") % 2 == 0


def test_command_prints_the_script(capsys):
    from dlbridge.__main__ import main

    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == _completion.bash(PARSER)

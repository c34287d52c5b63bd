# SPDX-License-Identifier: Apache-2.0
"""docs/install.md: its tables name every command, option, check and extra; its example is what the command prints."""

from __future__ import annotations

import re

import numpy as np
import pytest
from pages import ROOT, page, section, tables

from dlbridge import _doctor
from dlbridge.__main__ import FACTS, main, make_parser

DOCUMENT = page("docs/install.md")


def test_command_line_is_described() -> None:
    text = section(DOCUMENT, "Command line")
    (rows,) = tables(text)
    parser = make_parser("dlbridge")
    (commands,) = (action.choices for action in parser._actions if action.dest == "command")
    named = [re.match(r"`(\S+?)[ `]", row["command"])[1] for row in rows]
    assert named == [*commands, *(f"--{name}" for name in FACTS)]
    for command in commands.values():
        for action in command._actions:
            assert all(flag in text for flag in action.option_strings if flag not in ("-h", "--help")), action
            assert all(f"`{choice}`" in text for choice in action.choices or [] if choice not in "KC"), action


def test_checks_are_described() -> None:
    (rows,) = tables(section(DOCUMENT, "What doctor checks"))
    assert [row["check"] for row in rows] == list(_doctor.CHECKS)


def test_extras_are_described() -> None:
    extras = page("pyproject.toml").split("[project.optional-dependencies]\n")[1].split("\n\n")[0]
    (rows,) = tables(section(DOCUMENT, "With pip"))
    named = {re.search(r"\.\[(\S+)\]", row["extra"])[1]: row["installs"] for row in rows}
    assert named == {name: package for name, package in re.findall(r'^([\w-]+) = \["(\w+)', extras, re.M)}


def test_explain_prints_the_example(tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.chdir(tmp_path)
    np.save("weights.npy", np.zeros((3, 4), np.float32))
    command, output = re.search(r"^\$ dlbridge (.*)\n(.*\n)", DOCUMENT, re.M).groups()
    assert main(command.split()) == 1
    assert capsys.readouterr().out == output


def test_named_commands_exist() -> None:
    (commands,) = (action.choices for action in make_parser("dlbridge")._actions if action.dest == "command")
    known = {*commands, *(f"--{name}" for name in FACTS)}
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.yml")]
    named = {
        (path.name, word)
        for path in pages
        for word in re.findall(r"(?:python -m |\$\(|`)dlbridge (--[a-z-]+|[a-z]+)", path.read_text(encoding="utf-8"))
    }
    assert ("bug.yml", "doctor") in named and ("README.md", "doctor") in named
    assert not {(name, word) for name, word in named if word not in known}


def test_named_scripts_exist() -> None:
    documents = [page(name) for name in ("README.md", "CONTRIBUTING.md", "docs/install.md")]
    for script, argument in re.findall(r"scripts/([a-z]+)(?![\w.])(?: (?:--)?([a-z]+))?", "\n".join(documents)):
        assert (ROOT / "scripts" / script).stat().st_mode & 0o100, script
        assert script != "test" or not argument or f"  {argument}) " in page("scripts/test"), argument


def test_readme_says_what_is_downloaded() -> None:
    for name in ("requirements.txt", "requirements-test.txt", "requirements-interop.txt"):
        assert re.match(r"# ([\d.]+ GB) to download", page(name))[1] in page("README.md"), name

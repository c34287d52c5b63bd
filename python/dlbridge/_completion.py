# SPDX-License-Identifier: Apache-2.0
"""Scripts that complete a command line in bash, zsh and fish, made from its argparse parser."""

from __future__ import annotations

import argparse
import re
import shlex
from typing import NamedTuple

FILES = "*.np[yz]"  # what completes an argument whose metavar is FILE


class _Command(NamedTuple):
    """A command (or the line before one): its options and the positional argument it takes, if any."""

    name: str
    help: str
    options: list[argparse.Action]
    argument: argparse.Action | None


def _read(parser: argparse.ArgumentParser) -> tuple[_Command, list[_Command]]:
    """The options before a command, and the commands."""

    def read(name: str, text: str, part: argparse.ArgumentParser) -> _Command:
        arguments = [
            action for action in part._actions if not action.option_strings and action.nargs != argparse.PARSER
        ]
        options = [action for action in part._actions if action.option_strings]
        return _Command(name, text, options, arguments[0] if arguments else None)

    (found,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    texts = {action.dest: action.help or "" for action in found._get_subactions()}
    return read("", "", parser), [read(name, texts[name], part) for name, part in found.choices.items()]


def _function(prog: str) -> str:
    return "_" + re.sub(r"\W", "_", prog)


def _flags(command: _Command) -> list[str]:
    return [flag for action in command.options for flag in action.option_strings]


def _choices(action: argparse.Action) -> str:
    return " ".join(map(str, action.choices or []))


def bash(parser: argparse.ArgumentParser) -> str:
    """To be evaluated in ~/.bashrc."""
    top, commands = _read(parser)
    cases = []
    for command in [top, *commands]:
        for action in command.options:
            if action.nargs != 0:
                flags = "|".join(f"{command.name},{flag}" for flag in action.option_strings)
                cases.append(f'{flags}) words="{_choices(action)}" ;;')
        words = " ".join(_flags(command))
        if command is top:
            words += " " + " ".join(each.name for each in commands)
        argument = command.argument
        if argument is not None and argument.choices:
            words += " " + _choices(argument)
        files = " files=1" if argument is not None and argument.metavar == "FILE" else ""
        cases.append(f'{command.name},*) words="{words}"{files} ;;')
    names = "|".join(command.name for command in commands)
    lines = "\n        ".join(cases)
    function = _function(parser.prog)
    return f"""\
# eval "$({parser.prog} completion bash)"
{function}() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} command= word words= files=
    if [[ $current == = ]]; then current=
    elif [[ $before == = ]]; then before=${{COMP_WORDS[COMP_CWORD - 2]}}; fi
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case $word in {names}) command=$word; break ;; esac
    done
    case $command,$before in
        {lines}
    esac
    mapfile -t COMPREPLY < <(
        compgen -W "$words" -- "$current"
        [[ -z $files ]] || {{ compgen -f -X '!{FILES}' -- "$current"; compgen -d -- "$current"; }}
    )
}}
complete -o filenames -F {function} {parser.prog}
"""


def zsh(parser: argparse.ArgumentParser) -> str:
    """To be evaluated in ~/.zshrc after compinit, or put into a file of $fpath."""

    def plain(text: str | None) -> str:
        return re.sub(r"([\[\]:\\])", r"\\\1", text or "")

    def value(action: argparse.Action) -> str:
        if action.choices:
            return f":{action.metavar or action.dest}:({_choices(action)})"
        return f":{action.metavar}:" + (f'_files -g "{FILES}"' if action.metavar == "FILE" else "")

    def specs(command: _Command) -> list[str]:
        lines = []
        for action in command.options:
            rest = f"[{plain(action.help)}]" + ("" if action.nargs == 0 else value(action))
            several = action.option_strings if command.name else [f"*{flag}" for flag in action.option_strings]
            lines += [shlex.quote(flag + rest) for flag in several]
        if command.argument is not None:
            lines.append(shlex.quote("1" + value(command.argument)))
        return lines

    top, commands = _read(parser)
    function = _function(parser.prog)
    split = " \\\n        "
    names = " ".join(shlex.quote(f"{command.name}:{plain(command.help)}") for command in commands)
    cases = "\n".join(
        f"        {command.name}) _arguments{split}    {f'{split}    '.join(specs(command))} ;;" for command in commands
    )
    return f"""\
#compdef {parser.prog}
# eval "$({parser.prog} completion zsh)"
{function}() {{
    local curcontext=$curcontext state line
    local -a commands=({names})
    _arguments -C{split}{split.join(specs(top))}{split}'1:command:->command' '*::argument:->argument' && return
    case $state in
    command) _describe command commands ;;
    argument)
        case $words[1] in
{cases}
        esac ;;
    esac
}}
if [[ $funcstack[1] == {function} ]]; then {function} "$@"; else compdef {function} {parser.prog}; fi
"""


def fish(parser: argparse.ArgumentParser) -> str:
    """To be sourced in ~/.config/fish/config.fish."""
    top, commands = _read(parser)
    start = f"complete -c {parser.prog}"
    lines = [f"# {parser.prog} completion fish | source", f"{start} -f"]

    def add(condition: str, rest: str, text: str | None) -> None:
        lines.append(f"{start} -n {shlex.quote(condition)} {rest} -d {shlex.quote(text or '')}")

    for command in commands:
        add("__fish_use_subcommand", f"-a {command.name}", command.help)
    for command in [top, *commands]:
        condition = f"__fish_seen_subcommand_from {command.name}" if command.name else "__fish_use_subcommand"
        for action in command.options:
            flags = " ".join(f"-l {f[2:]}" if f.startswith("--") else f"-s {f[1:]}" for f in action.option_strings)
            if action.choices:
                flags += f" -x -a {shlex.quote(_choices(action))}"
            elif action.nargs != 0:
                flags += " -x"
            add(condition, flags, action.help)
        argument = command.argument
        if argument is not None and argument.choices:
            add(condition, f"-a {shlex.quote(_choices(argument))}", argument.help)
        elif argument is not None and argument.metavar == "FILE":
            add(condition, "-k -a '(__fish_complete_suffix .npy; __fish_complete_suffix .npz)'", argument.help)
    return "\n".join(lines) + "\n"


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}

# SPDX-License-Identifier: Apache-2.0
"""python -m dlbridge: what is installed here, whether it works, and what C and C++ builds need to know.

Exit status: 0; 1 where doctor finds a problem or explain a refusal, or where a file is missing; 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import shlex
import shutil
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

import dlbridge

from . import _completion, _doctor, _paths

MAP_NORESERVE = 0x4000  # a file may be larger than the memory; Python 3.13 names it in mmap
COPY_MODES: dict[str, Any] = {"named": "named", "None": None, "True": True, "False": False}
STYLES = dict.fromkeys(["ok", "share", "direct"], "green") | dict.fromkeys(["problem", "refuse"], "bold red")
STYLES |= dict.fromkeys(["note", "copy", "cast", "stage", "exchange", "none", "not installed"], "yellow")


def _link_flags() -> str:
    folder = shlex.quote(_paths.lib_dir())
    return f"-L{folder} -l:{_paths.core_library()} -Wl,-rpath,{folder}"


# What `--NAME` prints: one line, for use in a build.
FACTS: dict[str, tuple[Callable[[], str], str]] = {
    "version": (lambda: dlbridge.__version__, "the version"),
    "cmake-dir": (dlbridge.cmake_dir, "the folder for CMAKE_PREFIX_PATH or dlbridge_DIR"),
    "include-dir": (dlbridge.get_include, "the folder of the headers"),
    "lib-dir": (_paths.lib_dir, "the folder of the shared libraries"),
    "pkg-config-dir": (_paths.pkg_config_dir, "the folder for PKG_CONFIG_PATH"),
    "cflags": (lambda: f"-I{shlex.quote(dlbridge.get_include())}", "compiler flags"),
    "libs": (_link_flags, "linker flags of libdlbridge, with its folder as an RPATH"),
}


class Failure(Exception):
    """Ends the command: its text goes to stderr, its status is the command's."""

    def __init__(self, text: str, status: int = 2) -> None:
        super().__init__(text)
        self.status = status


class Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line, and takes no abbreviation for an option."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(allow_abbrev=False, **keywords)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


# ---- output ----


def show(rows: list[list[str]]) -> None:
    """Prints rows in columns, coloured by rich where that is installed and the output is a terminal."""
    on_terminal = sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR"))
    if on_terminal and not os.environ.get("NO_COLOR"):
        try:
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text
        except ImportError:
            pass
        else:
            table = Table.grid(padding=(0, 2, 0, 0))
            for row in rows:
                table.add_row(*(Text(cell, STYLES.get(cell, "cyan" if cell.startswith("->") else "")) for cell in row))
            Console().print(table)
            return
    widths = [max(map(len, column)) + 2 for column in list(zip(*rows, strict=True))[:-1]]
    left = sum(widths)
    room = max(shutil.get_terminal_size().columns - left, 20) if sys.stdout.isatty() else sys.maxsize
    for *cells, text in rows:
        lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
        head = "".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        print((head + f"\n{' ' * left}".join(lines)).rstrip())


# ---- commands ----


def info(options: argparse.Namespace) -> int:
    """Prints build_info() and what it stands on."""
    facts = {
        **dlbridge.build_info(),
        "ml_dtypes": _doctor.version_of("ml_dtypes"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "package": os.path.dirname(dlbridge.__file__),
    }
    if options.json:
        print(json.dumps(facts, indent=2))
    else:
        show([[name, "not installed" if value is None else str(value)] for name, value in facts.items()])
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Prints the findings of the checks and what to do about each."""
    findings = _doctor.examine()
    problems = sum(finding.state == "problem" for finding in findings)
    if options.json:
        print(json.dumps({"problems": problems, "findings": [finding._asdict() for finding in findings]}, indent=2))
        return int(problems > 0)
    rows = []
    for state, name, text, remedy in findings:
        rows.append([state, name, text])
        if remedy:
            rows.append(["", "", f"-> {remedy}"])
    show(rows)
    print(f"\n{problems or 'no'} problem{'s' * (problems != 1)}")
    return int(problems > 0)


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype of the array in an open .npy file."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"its format version is {version}; expected 1.0 or 2.0")


def _array_like(shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An array of no particular elements: no plan depends on them."""
    return np.empty(shape, dtype, "F" if fortran else "C")


def arrays_in(path: str, read_only: bool) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """The arrays of a .npy or .npz file by name, as numpy.load would give them. Elements are not read."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    yield name.removesuffix(".npy"), _array_like(*_read_header(file))
        return
    with open(path, "rb") as file:
        shape, fortran, dtype = _read_header(file)
        if dtype.hasobject:  # the file holds a pickle
            yield path, _array_like(shape, fortran, dtype)
            return
        protection = mmap.PROT_READ if read_only else mmap.PROT_READ | mmap.PROT_WRITE
        memory = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE | MAP_NORESERVE, protection)
        yield path, np.ndarray(shape, dtype, memory, file.tell(), order="F" if fortran else "C")


def explain(options: argparse.Namespace) -> int:
    """Prints the plan of a conversion for each array in a file."""
    named = {"device": options.device, "dtype": options.dtype, "order": options.order, "copy": COPY_MODES[options.copy]}
    try:
        arrays = list(arrays_in(options.file, options.read_only))
    except (OSError, ValueError, TypeError, RuntimeError, MemoryError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise Failure(
            f"{options.file} cannot be read: {reason}; expected a file of numpy.save or numpy.savez"
        ) from None
    rows, plans = [], []
    for name, array in arrays:
        if options.member not in (None, name):
            continue
        try:
            plan = dlbridge.explain(array, options.to, **named)
        except TypeError as error:  # handles are not cast
            raise Failure(f"--dtype {options.dtype}: {error}") from None
        rows.append([plan.verdict, f"{name} {array.dtype} {array.shape}", plan.message])
        attributes = ("verdict", "reasons", "bytes", "path", "message")
        plans.append({"name": name} | {attribute: getattr(plan, attribute) for attribute in attributes})
    if not plans:
        raise Failure(
            f"{options.file} has no array {options.member!r}" if options.member else f"{options.file} is empty"
        )
    if options.json:
        print(json.dumps(plans, indent=2))
    else:
        show(rows)
    return int(any(plan["verdict"] == "refuse" for plan in plans))


def completion(options: argparse.Namespace) -> int:
    """Prints the script that completes the command line in a shell."""
    print(_completion.SHELLS[options.shell](make_parser("dlbridge")), end="")
    return 0


def make_parser(prog: str) -> Parser:
    """The command line."""
    parser = Parser(prog=prog, description="What this dlbridge is, whether it works here, and how to build against it.")
    for name, (_, text) in FACTS.items():
        parser.add_argument(f"--{name}", dest="facts", action="append_const", const=name, help=f"print {text}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")

    def add(run: Any, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(run.__name__, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.set_defaults(run=run)
        return command

    json_help = "print JSON"
    add(info, "print versions, adapters and what is known of the GPU").add_argument(
        "--json", action="store_true", help=json_help
    )
    add(doctor, "check this environment and say what to do; exit status 1 for a problem").add_argument(
        "--json", action="store_true", help=json_help
    )
    command = add(explain, "print what a conversion of the arrays in a file would do; exit status 1 for a refusal")
    command.add_argument("file", metavar="FILE", help="a .npy file, which is mapped, or a .npz file")
    command.add_argument("--to", choices=["torch", "numpy", "dlpack"], required=True, help="what to convert to")
    command.add_argument("--device", metavar="DEVICE", help="such as cpu or cuda:0")
    command.add_argument("--dtype", metavar="DTYPE", help="such as float32 or bfloat16")
    command.add_argument("--order", choices=["K", "C"], default="K", help="memory order of the result")
    command.add_argument("--copy", choices=list(COPY_MODES), default="named", help="as copy= of the functions")
    command.add_argument("--member", metavar="NAME", help="only this array of a .npz file")
    command.add_argument("--read-only", action="store_true", help='as numpy.load(FILE, mmap_mode="r") maps it')
    command.add_argument("--json", action="store_true", help=json_help)
    command = add(completion, "print the script that completes this command line in a shell")
    command.add_argument("shell", choices=list(_completion.SHELLS), help="the shell")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; the exit status."""
    by_module = os.path.basename(sys.argv[0]) == "__main__.py"
    parser = make_parser("python -m dlbridge" if by_module else "dlbridge")
    options = parser.parse_args(arguments)
    if options.command and options.facts:
        parser.error(f"--{options.facts[0]} prints one line; expected no command ({options.command}) beside it")
    try:
        if options.command:
            return int(options.run(options))
        if not options.facts:
            parser.print_help()
        for name in options.facts or []:
            print(FACTS[name][0]())
        return 0
    except Failure as failure:
        text, status = str(failure), failure.status
    except dlbridge.ExchangeError as error:
        text, status = str(error), 2
    except (OSError, ImportError) as error:  # the package is not installed, or torch cannot be imported
        text, status = " ".join(str(error).split()), 1
    print(f"{parser.prog}: error: {text}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())

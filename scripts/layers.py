# SPDX-License-Identifier: Apache-2.0
"""Checks the includes of the C++ files: no cycles, and from upper layers to lower ones only (layers.txt)."""

import re
from fnmatch import fnmatch
from pathlib import Path
from posixpath import dirname, normpath

SUFFIXES = {".h", ".cpp", ".cu", ".c", ".def"}
INCLUDE_ROOTS = (
    "*/include",
    "adapters/*/include",
    "adapters/*/*/include",
    "*/src",
    "tests/support",
    "benchmarks/cuda",
    "examples",
)

Includes = dict[str, dict[str, int]]  # file -> included file -> line; paths relative to the top folder


def read_includes(top: Path, folders: tuple[str, ...]) -> Includes:
    """The includes of our own files among our own files."""
    paths = [path for folder in folders for path in sorted((top / folder).rglob("*")) if path.suffix in SUFFIXES]
    includes: Includes = {str(path.relative_to(top)): {} for path in paths}
    roots = [str(root.relative_to(top)) for pattern in INCLUDE_ROOTS for root in top.glob(pattern)]
    for path, (name, found) in zip(paths, includes.items(), strict=True):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if match := re.match(r'#\s*include\s*[<"]([^>"]+)', line):
                places = (normpath(f"{place}/{match[1]}") for place in (dirname(name), *roots))
                if target := next((place for place in places if place in includes), None):
                    found[target] = number
    return includes


def cycles(includes: Includes) -> list[str]:
    """One message for each include that closes a cycle."""
    messages, done, path = [], set(), []

    def visit(name: str) -> None:
        path.append(name)
        for target, line in includes[name].items():
            if target in path:
                cycle = " -> ".join([*path[path.index(target) :], target])
                messages.append(f"{name}:{line}: files include each other: {cycle}")
            elif target not in done:
                visit(target)
        done.add(path.pop())

    for name in includes:
        if name not in done:
            visit(name)
    return messages


def place(name: str, layers: list[str]) -> tuple[int, str] | None:
    """The layer of a file and the name in it that fits."""
    fits = [
        (len(pattern), level, pattern)
        for level, layer in enumerate(layers)
        for pattern in layer.split()
        if name.startswith(pattern + "/") or fnmatch(name, pattern)
    ]
    return max(fits)[1:] if fits else None


def upward(includes: Includes, folder: str, layers: list[str]) -> list[str]:
    """One message for each include in the folder that does not go downward."""
    messages = []
    prefix = "" if folder == "." else folder + "/"
    places = {name: place(name.removeprefix(prefix), layers) for name in includes if name.startswith(prefix)}
    for name, here in places.items():
        if here is None:
            messages.append(f"{name}:1: fits no layer of {folder} in scripts/layers.txt")
            continue
        for target, line in includes[name].items():
            there = places.get(target)
            if there and (there[0] < here[0] or (there[0] == here[0] and there[1] != here[1])):
                messages.append(f"{name}:{line}: {here[1]} must not include {there[1]}: {target}")
    return messages


def read_layers(text: str) -> dict[str, list[str]]:
    """The layers of each folder of layers.txt."""
    folders: dict[str, list[str]] = {}
    for line in text.splitlines():
        name = line.split("#")[0].strip()
        if name.endswith(":"):
            layers = folders[name[:-1]] = []
        elif name:
            layers.append(name)
    return folders


def check(top: Path, folders: tuple[str, ...]) -> list[str]:
    """Every violation in the tree, as FILE:LINE: MESSAGE."""
    includes = read_includes(top, folders)
    tables = read_layers((top / "scripts/layers.txt").read_text())
    return cycles(includes) + [message for folder in tables for message in upward(includes, folder, tables[folder])]

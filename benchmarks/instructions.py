# SPDX-License-Identifier: Apache-2.0
"""Instructions of one call of each hot entry point, counted by callgrind: a figure that noise cannot move.

    .venv/bin/python benchmarks/instructions.py            counts, and compares with benchmarks/instructions.json
    .venv/bin/python benchmarks/instructions.py --update   writes that file

"own" counts the instructions inside dlbridge's libraries, which depend on the compiler alone; "all" also those of
Python, NumPy, torch and libc that a call makes, with the release of its result. The comparison fails where a figure is
more than 3 % above the committed one: "own" where the compiler is the same, "all" where Python, NumPy and torch are,
too. Needs valgrind and the optimised build of scripts/setup --tests.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_suffix(".json")
CALLS = 200
TOLERANCE = 1.03
OWN = re.compile(r"/(libdlbridge[^/]*\.so|_(core|numpy|torch\w*)\.[^/]*\.so)")


def build_folder() -> Path:
    """The build tree whose package is measured."""
    return Path(os.environ.get("DLBRIDGE_BUILD_DIR", ROOT / "build" / "release")).resolve()


def why_not() -> str | None:
    """Why nothing can be counted here, or None."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed: apt-get install valgrind"
    if not _marks().exists():
        return "built without valgrind's headers: run scripts/setup --tests after apt-get install valgrind"
    cache = (build_folder() / "CMakeCache.txt").read_text()
    optimised = re.search(r"^CMAKE_BUILD_TYPE:STRING=Rel", cache, re.M)
    if not optimised or re.search(r"^CMAKE_INTERPROCEDURAL_OPTIMIZATION:\w+=OFF", cache, re.M):
        return "this build is not the optimised one"
    return None


def _marks() -> Path:
    return build_folder() / "lib" / "libdlbridge_callgrind.so"


def _entries() -> dict[str, Callable[[], object]]:
    import numpy as np
    import torch

    import dlbridge

    to_torch, to_numpy, from_dlpack = dlbridge.to_torch, dlbridge.to_numpy, dlbridge.from_dlpack
    a, t = np.arange(1000.0), torch.arange(1000.0)
    matrix = a.reshape(20, 50).T
    h, g = from_dlpack(a), from_dlpack(t)
    return {
        "to_torch(a)": lambda: to_torch(a),
        "to_torch(a.T)": lambda: to_torch(matrix),
        "to_numpy(t)": lambda: to_numpy(t),
        "to_numpy(to_torch(a))": lambda: to_numpy(to_torch(a)),
        "to_torch(to_numpy(t))": lambda: to_torch(to_numpy(t)),
        "from_dlpack(a)": lambda: from_dlpack(a),
        "from_dlpack(t)": lambda: from_dlpack(t),
        "h.numpy()": h.numpy,
        "h.torch()": h.torch,
        "g.numpy()": g.numpy,
        "g.torch()": g.torch,
    }


def _run_marked() -> None:
    """The measured process. Every entry is warmed up first; the loop itself is counted as "(loop)"."""
    import gc

    marks = ctypes.CDLL(str(_marks()))
    entries = {"(loop)": lambda: None} | _entries()
    for call in entries.values():
        for _ in itertools.repeat(None, 100):
            call()
    gc.disable()
    marks.start()
    for name, call in entries.items():
        call()
        marks.zero()
        for _ in itertools.repeat(None, CALLS):
            call()
        marks.dump(name.encode())


def _costs(dump: Path) -> tuple[str, int, int]:
    """The mark of a dump, its own instructions and all, for one call."""
    name, own, total, inside, inclusive = "", 0, 0, False, False
    for line in dump.read_text().splitlines():
        if line.startswith("desc: Trigger: Client Request: "):
            name = line.removeprefix("desc: Trigger: Client Request: ")
        elif line.startswith("ob="):
            inside = OWN.search(line) is not None
        elif line.startswith("calls="):
            inclusive = True  # the next line is the callee's cost, which stands at its own place
        elif line[:1].isdigit():
            cost = 0 if inclusive else int(line.partition(" ")[2] or 0)
            total += cost
            own += cost if inside else 0
            inclusive = False
    return name, round(own / CALLS), round(total / CALLS)


def count() -> dict[str, dict[str, int]]:
    """Instructions of one call of each entry point: {"own": ..., "all": ...}, without those of the loop."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--compress-strings=no", "--compress-pos=no"]
        command += [f"--callgrind-out-file={folder}/out", sys.executable, __file__, "--marked"]
        path = os.pathsep.join([str(build_folder() / "package"), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"callgrind failed:\n{done.stdout}\n{done.stderr}")
        costs = [_costs(dump) for dump in Path(folder).glob("out.*")]
    found = {name: (own, total) for name, own, total in costs if name}
    loop = found.pop("(loop)")[1]
    return {name: {"own": found[name][0], "all": found[name][1] - loop} for name in _names(found)}


def _names(found: dict[str, Any]) -> list[str]:
    """In the order of the entries, which the committed table keeps, too."""
    committed = json.loads(TABLE.read_text())["calls"] if TABLE.exists() else {}
    return sorted(found, key=lambda name: list(committed).index(name) if name in committed else len(committed))


def versions() -> dict[str, str]:
    """What the figures depend on."""
    from importlib.metadata import version

    cache = (build_folder() / "CMakeCache.txt").read_text()
    compiler = re.search(r"^CMAKE_CXX_COMPILER:\w+=(.*)$", cache, re.M)
    assert compiler is not None
    text = subprocess.run([compiler[1], "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    return {
        "compiler": f"{Path(compiler[1]).name} {text}",
        "python": sys.version,
        "numpy": version("numpy"),
        "torch": version("torch"),
    }


def too_many(counted: dict[str, dict[str, int]]) -> list[str]:
    """The figures above the committed ones, a line each. Raises KeyError for an entry that is not in the table."""
    committed = json.loads(TABLE.read_text())
    now, then = versions(), committed["versions"]
    kinds = ["own"] if now["compiler"] == then["compiler"] else []
    kinds += ["all"] if now == then else []
    return [
        f"{name}: {figures[kind]} instructions ({kind}), committed {committed['calls'][name][kind]}"
        for name, figures in counted.items()
        for kind in kinds
        if figures[kind] > committed["calls"][name][kind] * TOLERANCE
    ]


def main() -> None:
    """Prints the table; compares it or writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write the committed table")
    parser.add_argument("--marked", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.marked:
        return _run_marked()
    if (reason := why_not()) is not None:
        raise SystemExit(reason)
    counted = count()
    print(f"{'call':24}{'own':>8}{'all':>8}")
    for name, figures in counted.items():
        print(f"{name:24}{figures['own']:>8}{figures['all']:>8}")
    if options.update:
        TABLE.write_text(json.dumps({"versions": versions(), "calls": counted}, indent=2) + "\n")
    elif worse := too_many(counted):
        raise SystemExit("more than 3 % above benchmarks/instructions.json:\n" + "\n".join(worse))


if __name__ == "__main__":
    main()

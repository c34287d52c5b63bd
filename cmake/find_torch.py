# SPDX-License-Identifier: Apache-2.0
"""Prints the folder of the torch that this interpreter's environment imports, if there is one. Does not import it.

Called with `python -E`: pip's build isolation hides the environment's packages by PYTHONPATH. The caller's own
PYTHONPATH is the one that the first process outside of the isolation was started with.
"""

import importlib.util
import os
import re
import sys
from pathlib import Path


def caller_pythonpath() -> str:
    """PYTHONPATH of this process, or of the closest ancestor that pip did not isolate."""
    environment, process = dict(os.environ), "self"
    while "pip-build-env" in environment.get("PYTHONPATH", ""):
        try:
            parent = re.search(r"^PPid:\s*(\d+)", Path("/proc", process, "status").read_text(), re.MULTILINE)
            process = parent[1] if parent else "0"
            entries = Path("/proc", process, "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return ""
        environment = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    return environment.get("PYTHONPATH", "")


sys.path[:1] = [os.path.abspath(folder) for folder in caller_pythonpath().split(os.pathsep) if folder]
found = importlib.util.find_spec("torch")
if found and found.submodule_search_locations:
    print(next(iter(found.submodule_search_locations)))

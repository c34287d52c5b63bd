# SPDX-License-Identifier: Apache-2.0
"""The build tree, and the extension modules in it that are for tests alone. DLBRIDGE_BUILD_DIR names another one."""

import importlib.machinery
import importlib.util
import os
from pathlib import Path
from types import ModuleType

BUILD = Path(os.environ.get("DLBRIDGE_BUILD_DIR", Path(__file__).resolve().parents[3] / "build" / "release"))


def module_file(folder: str, name: str) -> Path | None:
    """The module's file; None where it is not built for this Python."""
    files = (BUILD / folder / f"{name}{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    return next((file for file in files if file.exists()), None)


def load_module(file: Path, name: str) -> ModuleType:
    """A new module object."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

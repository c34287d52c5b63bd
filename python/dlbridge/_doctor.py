# SPDX-License-Identifier: Apache-2.0
"""The checks of `python -m dlbridge doctor`."""

from __future__ import annotations

import glob
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

import dlbridge

from . import _adapters, _paths
from ._info import describe_cuda

NEWER = "install a dlbridge that has a direct adapter for this torch"


class Finding(NamedTuple):
    """What a check found. state: ok, note (something optional is missing) or problem."""

    state: str
    name: str
    text: str
    remedy: str = ""


def version_of(package: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _dlbridge() -> Iterator[Finding]:
    folder = os.path.dirname(os.path.abspath(dlbridge.__file__))
    records = {str(found.locate_file("")): found.version for found in importlib.metadata.distributions(name="dlbridge")}
    here = f"{dlbridge.__version__} in {folder}"
    others = sorted(f"{version} in {place}" for place, version in records.items())
    remedy = "python -m pip uninstall dlbridge, until it finds none; then install it once"
    if len(records) > 1:
        yield Finding("problem", "dlbridge", f"{here}; {len(records)} are installed: {', '.join(others)}", remedy)
    elif set(records.values()) - {dlbridge.__version__}:
        yield Finding("problem", "dlbridge", f"{here}; pip installed {others[0]}", remedy)
    else:
        yield Finding("ok", "dlbridge", here)


def _python() -> Iterator[Finding]:
    yield Finding("ok", "Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}")


def _numpy() -> Iterator[Finding]:
    array = np.arange(6.0).reshape(2, 3)
    back = dlbridge.to_numpy(dlbridge.from_dlpack(array))
    if back.ctypes.data != array.ctypes.data:
        raise RuntimeError("an array came back in other memory")
    yield Finding("ok", "NumPy", f"{np.__version__}; an array came back over the same memory")


def _ml_dtypes() -> Iterator[Finding]:
    if (version := version_of("ml_dtypes")) is not None:
        yield Finding("ok", "ml_dtypes", version)
    else:
        text = "not installed: bfloat16 and float8 tensors are refused into NumPy"
        yield Finding("note", "ml_dtypes", text, "python -m pip install ml_dtypes")


def _torch() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        text = "not installed: to_torch() is refused, all else works"
        yield Finding("note", "torch", text, "python -m pip install torch, if you use it")
        return
    try:
        import torch
    except Exception as error:  # ImportError, or OSError for a library that it lacks
        text = f"cannot be imported: {_one_line(error)}"
        yield Finding("problem", "torch", text, "python -m pip install --force-reinstall torch")
        return
    tier = _adapters.torch_tier()
    if tier.name == "none":
        yield Finding("problem", "torch", *_split(tier.reason))
        return
    tensor = torch.arange(6.0)
    if dlbridge.to_torch(dlbridge.to_numpy(tensor)).data_ptr() != tensor.data_ptr():
        raise RuntimeError("a tensor came back in other memory")
    text = f"{torch.__version__} in the tier {tier.name}"
    if tier.name == "direct":
        yield Finding("ok", "torch", f"{text}; a tensor came back over the same memory")
    else:
        reason, remedy = _split(tier.reason.removeprefix("not direct: "))
        if _adapters.TIER_VARIABLE in reason:
            remedy = f"unset {_adapters.TIER_VARIABLE}"
        yield Finding("note", "torch", f"{text}, which is slower than direct: {reason}", remedy or NEWER)


def _cuda() -> Iterator[Finding]:
    text = describe_cuda()
    codes = dlbridge.explain(np.zeros(1), "dlpack", device="cuda:0").reasons
    if not codes:
        array = np.arange(6.0)
        there = dlbridge.from_dlpack(array, device="cuda:0")
        if dlbridge.to_numpy(there, device="cpu").tolist() != array.tolist():
            raise RuntimeError("an array came back from cuda:0 with other values")
        yield Finding("ok", "CUDA", f"{text}; an array went to cuda:0 and came back")
        return
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    remedy = {
        "no_driver": "install NVIDIA's driver; start a container with its GPU (docker run --gpus all)",
        "driver_too_old": "install a newer NVIDIA driver",
        "no_device": "nvidia-smi lists the GPUs" if hidden is None else f"CUDA_VISIBLE_DEVICES is {hidden!r}: unset it",
    }.get(codes[0])
    if remedy is None:
        text, remedy = _split(text)
    if has_gpu():
        yield Finding("problem", "CUDA", text, remedy)
    else:
        yield Finding("note", "CUDA", text, f"if this machine has a GPU: {remedy}")


def has_gpu() -> bool:
    """Whether the kernel knows a GPU of NVIDIA, also where no driver answers."""
    return bool(glob.glob("/dev/nvidia[0-9]*")) or os.path.exists("/dev/dxg")


def _development_files() -> Iterator[Finding]:
    try:
        yield Finding("ok", "C and C++", f"find_package(dlbridge) finds {_paths.cmake_dir()}")
    except FileNotFoundError:
        text = "this package lies in a build tree: no headers and CMake files"
        yield Finding("note", "C and C++", text, "pip install or cmake --install, to build against it")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _split(reason: str) -> tuple[str, str]:
    """The fact and the remedy of a reason, which ends with ": remedy"."""
    fact, _, remedy = reason.rpartition(": ")
    return (fact, remedy) if fact else (reason, "")


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "dlbridge": _dlbridge,
    "Python": _python,
    "NumPy": _numpy,
    "ml_dtypes": _ml_dtypes,
    "torch": _torch,
    "CUDA": _cuda,
    "C and C++": _development_files,
}


def examine() -> list[Finding]:
    """Runs every check. One that raises has found a problem."""
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            findings += check()
        except Exception as error:
            findings.append(Finding("problem", name, _one_line(error)))
    return findings

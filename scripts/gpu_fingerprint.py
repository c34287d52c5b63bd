# SPDX-License-Identifier: Apache-2.0
"""What kind of machine a measurement comes from. Figures of machines whose fingerprints differ are not compared."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# What nvidia-smi is asked for, and how we call it.
GPU_QUESTIONS = {
    "name": "GPU",
    "driver_version": "driver",
    "memory.total": "GPU memory",
    "power.limit": "power limit",
    "clocks.max.sm": "SM clock, most",
    "ecc.mode.current": "ECC",
    "mig.mode.current": "MIG",
    "persistence_mode": "persistence mode",
}
LINK_QUESTIONS = {
    "pcie.link.gen.current": "PCIe generation, now",
    "pcie.link.gen.max": "PCIe generation, most",
    "pcie.link.width.current": "PCIe width, now",
    "pcie.link.width.max": "PCIe width, most",
}
PACKAGES = ("torch", "numpy", "cupy-cuda13x", "cupy-cuda12x", "cupy")
TOOLS = {"nvcc": ("nvcc", "--version"), "g++": ("g++", "--version"), "cmake": ("cmake", "--version")}
CU_COMPUTE_CAPABILITY_MAJOR, CU_COMPUTE_CAPABILITY_MINOR = 75, 76


def run(*command: str, timeout: float = 30) -> str:
    """What the command prints; empty where it does not exist or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def capability(library: str = "libcuda.so.1", device: int = 0) -> tuple[str, str]:
    """The compute capability ("90"), and why there is none: exactly one of the two is empty."""
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return "", "no CUDA driver"
    if (error := driver.cuInit(0)) != 0:
        return "", f"no GPU to use: cuInit answers {error}"
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    if count.value <= device:
        return "", f"no GPU to use: the driver counts {count.value}"
    handle, numbers = ctypes.c_int(), []
    driver.cuDeviceGet(ctypes.byref(handle), device)
    for attribute in (CU_COMPUTE_CAPABILITY_MAJOR, CU_COMPUTE_CAPABILITY_MINOR):
        number = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, handle)
        numbers.append(number.value)
    return f"{numbers[0]}{numbers[1]}", ""


def ask_nvidia_smi(questions: dict[str, str]) -> dict[str, str]:
    """Answers about the first GPU. A question that this nvidia-smi does not know costs only its own answer."""

    def ask(fields: Sequence[str]) -> list[str]:
        text = run("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0")
        answers = [answer.strip() for answer in text.strip().split(",")] if text.strip() else []
        return answers if len(answers) == len(fields) else []

    answers = ask(list(questions))
    if answers:
        return dict(zip(questions.values(), answers, strict=True))
    return {name: (ask([field]) or ["unknown"])[0] for field, name in questions.items()}


def cpu(text: str) -> dict[str, str]:
    """Of /proc/cpuinfo."""
    models = re.findall(r"^model name\s*:\s*(.+)$", text, re.M)
    return {
        "CPU": models[0] if models else platform.machine(),
        "processors": str(len(re.findall(r"^processor\s*:", text, re.M)) or os.cpu_count()),
        "sockets": str(len(set(re.findall(r"^physical id\s*:\s*(\d+)$", text, re.M))) or 1),
        "hypervisor": "yes" if re.search(r"^flags\s*:.*\bhypervisor\b", text, re.M) else "no",
    }


def memory(meminfo: str, group_limit: str) -> dict[str, str]:
    """Of /proc/meminfo and the control group's memory.max."""
    total = re.search(r"^MemTotal:\s*(\d+) kB", meminfo, re.M)
    facts = {"memory": f"{int(total[1]) / 2**20:.1f} GiB" if total else "unknown"}
    if group_limit.strip().isdigit():
        facts["memory of the control group"] = f"{int(group_limit) / 2**30:.1f} GiB"
    return facts


def read(path: str) -> str:
    """A file of /proc or /sys; empty where there is none."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def versions() -> dict[str, str]:
    """Of what builds and of the peers."""
    facts = {"Python": platform.python_version(), "executable": sys.executable}
    for name in PACKAGES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    for name, command in TOOLS.items():
        lines = run(*command).strip().splitlines()
        found = next((line for line in lines if re.search(r"\d+\.\d+", line)), "none")
        facts[name] = found.strip()
    return facts


def commit() -> dict[str, str]:
    """Which state of the project this is."""
    head = run("git", "rev-parse", "--short=12", "HEAD").strip()
    if not head:
        return {}
    return {"commit": head + (" with changes" if run("git", "status", "--porcelain", "-uno").strip() else "")}


def link() -> dict[str, str]:
    """The bus, as it is now: an idle GPU may have slowed it down."""
    return ask_nvidia_smi(LINK_QUESTIONS)


def fingerprint(with_gpu: bool) -> dict[str, str]:
    """Everything, in the order in which it is shown."""
    facts: dict[str, str] = {}
    if with_gpu:
        facts.update(ask_nvidia_smi(GPU_QUESTIONS))
        facts.update(link())
    facts.update(cpu(read("/proc/cpuinfo")))
    facts.update(memory(read("/proc/meminfo"), read("/sys/fs/cgroup/memory.max")))
    facts["NUMA nodes"] = str(len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or 1)
    facts["kernel"] = platform.release()
    huge = re.search(r"\[(\w+)\]", read("/sys/kernel/mm/transparent_hugepage/enabled"))
    facts["transparent huge pages"] = huge[1] if huge else "unknown"
    facts.update(versions())
    facts.update(commit())
    return facts

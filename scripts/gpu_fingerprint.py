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
PACKAGES = ("torch", "numpy", "cupy-cuda13x", "cupy-cuda12x", "cupy", "numba", "numba-cuda", "jax")
CU_COMPUTE_CAPABILITY_MAJOR, CU_COMPUTE_CAPABILITY_MINOR = 75, 76


def run(*command: str, timeout: float = 5) -> str:
    """What the command prints; empty where it does not exist, fails or hangs."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def capability(library: str = "libcuda.so.1", device: int = 0) -> tuple[str, str]:
    """The compute capability ("90"), and why there is none: exactly one of the two is empty. The driver is asked in
    a process of its own, since it may hang."""
    said = run(sys.executable, __file__, library, str(device), timeout=30).strip()
    architecture, _, reason = (said or ",the CUDA driver did not answer in 30 s").partition(",")
    return architecture, reason


def ask_driver(library: str, device: int) -> str:
    """ "90," or ",why not"."""
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return ",no CUDA driver"
    if (error := driver.cuInit(0)) != 0:
        return f",no GPU to use: cuInit answers {error}"
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    if count.value <= device:
        return f",no GPU to use: the driver counts {count.value}"
    handle, numbers = ctypes.c_int(), []
    driver.cuDeviceGet(ctypes.byref(handle), device)
    for attribute in (CU_COMPUTE_CAPABILITY_MAJOR, CU_COMPUTE_CAPABILITY_MINOR):
        number = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, handle)
        numbers.append(number.value)
    return f"{numbers[0]}{numbers[1]},"


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


def memory(meminfo: str, group_limit: str, locked_limit: str = "") -> dict[str, str]:
    """Of /proc/meminfo, the control group's memory.max and /proc/self/limits."""
    total = re.search(r"^MemTotal:\s*(\d+) kB", meminfo, re.M)
    locked = re.search(r"^Max locked memory\s+(\S+)", locked_limit, re.M)
    limit = group_limit.strip()
    return {
        "memory": f"{int(total[1]) / 2**20:.1f} GiB" if total else "unknown",
        "memory.max": f"{int(limit) / 2**30:.1f} GiB" if limit.isdigit() else limit or "none",
        "locked memory, most": f"{int(locked[1]) // 1024} KiB" if locked and locked[1].isdigit() else "unlimited",
    }


def read(path: str) -> str:
    """A file of /proc or /sys; empty where there is none."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def versions() -> dict[str, str]:
    """Of Python and the frameworks."""
    facts = {"Python": platform.python_version(), "executable": sys.executable}
    for name in PACKAGES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
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
    facts = {**ask_nvidia_smi(GPU_QUESTIONS), **link()} if with_gpu else {}
    facts.update(cpu(read("/proc/cpuinfo")))
    facts.update(memory(read("/proc/meminfo"), read("/sys/fs/cgroup/memory.max"), read("/proc/self/limits")))
    facts["NUMA nodes"] = str(len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or 1)
    facts["kernel"] = platform.release()
    for name, file in (("transparent huge pages", "enabled"), ("of shared memory", "shmem_enabled")):
        mode = re.search(r"\[(\w+)\]", read(f"/sys/kernel/mm/transparent_hugepage/{file}"))
        facts[name] = mode[1] if mode else "unknown"
    return {**facts, **versions()}


def sentence(facts: dict[str, str], reason: str) -> str:
    """The first line of the results: what was found out, in one line."""
    shown = ("GPU", "driver", "kernel", "CPU", "processors", "memory", "memory.max", "locked memory, most",
             "transparent huge pages", "Python", *PACKAGES, "packages", "commit")  # fmt: skip
    return "; ".join([*([reason] if reason else []), *(f"{name} {facts[name]}" for name in shown if name in facts)])


if __name__ == "__main__":
    print(ask_driver(sys.argv[1], int(sys.argv[2])))

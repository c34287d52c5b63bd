# SPDX-License-Identifier: Apache-2.0
"""Examples that run as they are, with less work."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def output_of(name: str, *arguments: str) -> str:
    command = [sys.executable, EXAMPLES / f"{name}.py", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=240).stdout


def test_mapped_dataset() -> None:
    """Reading tensors over the file take no memory of their own; loading it does."""
    pytest.importorskip("torch", reason="torch is not installed")
    import dlbridge

    if dlbridge.build_info()["on_write"] == "none":
        pytest.skip("this tier cannot share read-only memory")
    rows = re.findall(r"^(\S+?)\(.*: (-?\d+) MiB of its own.*loss (\S+)$", output_of("mapped_dataset", "64"), re.M)
    own = {name: int(mib) for name, mib, _ in rows}
    assert own["dlbridge.to_torch"] < 16 and own["torch.tensor"] > 48
    assert len({loss for _, _, loss in rows}) == 1


def test_tvm_ffi_kernel() -> None:
    for module in ("tvm_ffi", "jax", "torch"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    if shutil.which("ninja") is None or shutil.which("g++") is None:
        pytest.skip("there is no g++ or no ninja, which compile the kernel")
    assert re.findall(r"^(\w+).*: \d+ ns", output_of("tvm_ffi_kernel"), re.M) == ["numpy", "jaxlib", "torch"]

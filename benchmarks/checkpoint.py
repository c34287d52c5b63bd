# SPDX-License-Identifier: Apache-2.0
"""Time and peak memory of async_save with dlbridge.torch.DcpStager and with torch's own stagers, on the CPU.

.venv/bin/python benchmarks/checkpoint.py [MIB]

Each stager runs in a process of its own and saves the same model three times, into a temporary folder.
"""

import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

TENSORS = 64


def peak_mib() -> float:
    """The most resident memory of this process so far."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure(name: str, mib: int) -> None:
    import torch
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.staging import BlockingAsyncStager, DefaultStager, StagingOptions

    import dlbridge.torch

    warnings.simplefilter("ignore")
    stager = {
        "DcpStager": dlbridge.torch.DcpStager,
        "DefaultStager": lambda: DefaultStager(StagingOptions(False, False, False, False)),
        "BlockingAsyncStager": BlockingAsyncStager,
    }[name]()
    state = {f"w{n}": torch.randn((mib << 20) // 4 // TENSORS) for n in range(TENSORS)}
    state["half"] = state["w0"][: len(state["w0"]) // 2]
    before = peak_mib()
    rows = []
    for _ in range(3):
        folder = tempfile.mkdtemp()
        start = time.perf_counter()
        response = checkpoint.async_save(state, checkpoint_id=folder, async_stager=stager, no_dist=True)
        staged = time.perf_counter() - start
        getattr(response, "upload_completion", response).result()
        rows.append((staged, time.perf_counter() - start))
        del response
        shutil.rmtree(folder)
    times = ", ".join(f"{staged:.3f} / {whole:.2f} s" for staged, whole in rows)
    print(f"{name:20} returns / saved: {times}; memory at the peak: +{peak_mib() - before:.0f} MiB", flush=True)


def main() -> None:
    if len(sys.argv) == 3:
        measure(sys.argv[1], int(sys.argv[2]))
        return
    mib = sys.argv[1] if len(sys.argv) == 2 else "1024"
    for name in ("DcpStager", "DefaultStager", "BlockingAsyncStager"):
        subprocess.run([sys.executable, __file__, name, mib], check=True)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Training from a file that is mapped, not loaded: its rows are read-only tensors over the file's pages.

.venv/bin/python examples/mapped_dataset.py [MIB]

Trains a model for an epoch in three processes that make the tensor in three ways, and prints what memory each of them
has for itself, and what it has mapped of the file.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

COLUMNS = 1024
WAYS = {
    'dlbridge.to_torch(x, on_write="raise")': lambda x: dlbridge.to_torch(x, on_write="raise"),
    "torch.from_numpy(x)": lambda x: torch.from_numpy(x),  # warns: a write would end the process
    "torch.tensor(x)": lambda x: torch.tensor(x),
}


def resident_mib() -> tuple[float, float]:
    """The memory of this process that no other one shares and no file holds, and the pages of files."""
    rollup = dict(re.findall(r"(\w+): +(\d+) kB", Path("/proc/self/smaps_rollup").read_text()))
    return int(rollup["Anonymous"]) / 1024, (int(rollup["Rss"]) - int(rollup["Anonymous"])) / 1024


def train(file: str, way: str) -> None:
    """An epoch of regression on the first column."""
    model = torch.nn.Linear(COLUMNS - 1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    anonymous, of_files = resident_mib()
    started = time.perf_counter()
    rows = WAYS[way](np.load(file, mmap_mode="r"))
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows), batch_size=256)
    for (batch,) in batches:
        loss = torch.nn.functional.mse_loss(model(batch[:, 1:]), batch[:, :1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seconds = time.perf_counter() - started
    more = [f"{now - before:.0f}" for now, before in zip(resident_mib(), (anonymous, of_files), strict=True)]
    print(f"{way}: {more[0]} MiB of its own, {more[1]} MiB of the file, {seconds:.2f} s, loss {loss.item():.4f}")


def main(mib: int = 256) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/rows.npy"
        rows = np.lib.format.open_memmap(file, "w+", np.float32, ((mib << 20) // 4 // COLUMNS, COLUMNS))
        rows[:] = np.random.default_rng(0).standard_normal(COLUMNS, np.float32)
        rows.flush()
        for way in WAYS:
            subprocess.run([sys.executable, "-W", "ignore", __file__, file, way], check=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        import torch

        import dlbridge

        torch.manual_seed(0)
        train(*sys.argv[1:])
    else:
        main(*map(int, sys.argv[1:]))

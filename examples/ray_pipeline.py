# SPDX-License-Identifier: Apache-2.0
"""One actor makes batches of torch tensors, four read them: from the memory of Ray's object store, or from copies.

.venv/bin/python examples/ray_pipeline.py [MIB] [dlbridge|torch|numpy]

Needs Ray (scripts/setup --interop). Prints how long a batch takes from the maker to all readers, and how much memory
of their own the readers have afterwards.
"""

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import ray
import torch

import dlbridge.ray

READERS = 4


def private_mib() -> float:
    """The memory of this process that no other one shares."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(kib) for kib in re.findall(r"Private_\w+: +(\d+) kB", rollup)) / 1024


@ray.remote
class Maker:
    def make(self, mib: int, kind: str) -> dict[str, Any]:
        images = np.ones((mib, 1024, 1024), np.uint8)
        return {"image": images if kind == "numpy" else torch.from_numpy(images)}


@ray.remote
class Reader:
    def __init__(self) -> None:
        self.read({"image": torch.ones(4096, dtype=torch.uint8)})
        self.before = private_mib()

    def read(self, batch: dict[str, Any]) -> float:
        """Returns MiB of its own since the start, with the batch in hand."""
        image = batch["image"].reshape(-1)[::4096]  # a byte of each page
        assert image.sum() == len(image)
        return private_mib() - getattr(self, "before", 0)


def main(mib: int = 64, kind: str = "dlbridge") -> None:
    ray.init(
        num_cpus=READERS + 1,
        include_dashboard=False,
        object_store_memory=(2 * mib + 128) << 20,
        runtime_env={"worker_process_setup_hook": dlbridge.ray.register} if kind == "dlbridge" else {},
        logging_level="ERROR",
        log_to_driver=False,
    )
    maker, readers = Maker.remote(), [Reader.remote() for _ in range(READERS)]
    for _ in range(3):
        started = time.perf_counter()
        batch = maker.make.remote(mib, kind)
        private = ray.get([reader.read.remote(batch) for reader in readers])
        seconds = time.perf_counter() - started
        print(f"{kind}: {mib} MiB to {READERS} readers in {seconds:.2f} s; memory of their own: {sum(private):.0f} MiB")
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 64, sys.argv[2] if len(sys.argv) > 2 else "dlbridge")

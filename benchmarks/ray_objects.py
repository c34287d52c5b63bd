# SPDX-License-Identifier: Apache-2.0
"""What torch tensors cost in Ray's object store, by dlbridge.ray and by torch's own pickles: per object and per byte.

.venv/bin/python benchmarks/ray_objects.py

One process puts lists of tensors and gets them again; then a reader on a second node of the cluster, in a process tree
of its own on this machine, gets a tensor twice. Prints medians, the model fitted to three of the four lists, and what
it says of the fourth.
"""

import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import ray
import torch
from ray.cluster_utils import Cluster

import dlbridge.ray

LISTS = [(1, 1 << 20), (1000, 1 << 10), (1, 256 << 20), (1000, 64 << 10)]  # objects, bytes of each
ROUNDS = 5


def seconds(call: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - started)
        del result
    return statistics.median(times)


def measure(kind: str) -> None:
    rows = []
    for count, size in LISTS:
        tensors = [torch.zeros(size, dtype=torch.uint8) for _ in range(count)]
        put = seconds(lambda tensors=tensors: ray.put(tensors))
        stored = ray.put(tensors)
        get = seconds(lambda stored=stored: ray.get(stored))
        rows.append((count, count * size, put, get))
        print(f"{kind:9}{count:6} x {size >> 10:7} KiB   put {put * 1e3:8.2f} ms   get {get * 1e3:8.2f} ms")
    for name, column in (("put", 2), ("get", 3)):
        counts, sizes, times = (np.array([row[i] for row in rows[:3]], float) for i in (0, 1, column))
        fixed, each, per_byte = np.linalg.solve(np.stack([np.ones(3), counts, sizes], 1), times)
        said = fixed + each * rows[3][0] + per_byte * rows[3][1]
        print(
            f"{kind:9}{name}: {fixed * 1e6:.0f} us + {each * 1e6:.1f} us an object + {per_byte * 2**30:.3f} s a GiB; "
            f"for the fourth list {said * 1e3:.1f} ms, measured {rows[3][column] * 1e3:.1f} ms"
        )


@ray.remote(resources={"second": 1})
def get(stored: list[ray.ObjectRef]) -> list[float]:
    """The first and the second time, in one process."""
    times = []
    for _ in range(2):
        started = time.perf_counter()
        ray.get(stored[0])
        times.append(time.perf_counter() - started)
    return times


def main() -> None:
    cluster = Cluster()
    cluster.add_node(num_cpus=1, object_store_memory=2 << 30, include_dashboard=False)
    cluster.add_node(num_cpus=1, object_store_memory=2 << 30, resources={"second": 1})
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    for kind in ("torch", "dlbridge"):
        if kind == "dlbridge":
            dlbridge.ray.register()
        measure(kind)
        ray.get(get.remote([ray.put(torch.zeros(1))]))
        first, second = ray.get(get.remote([ray.put(torch.zeros(256 << 20, dtype=torch.uint8))]))
        print(f"{kind:9}256 MiB on the second node: {first:.2f} s, then {second * 1e3:.1f} ms")
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()

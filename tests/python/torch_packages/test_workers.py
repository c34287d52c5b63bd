# SPDX-License-Identifier: Apache-2.0
"""Conversions in the workers of a DataLoader, and their results in torch's queues and in process pools."""

from __future__ import annotations

import concurrent.futures
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

import dlbridge
from dlbridge import from_dlpack, to_torch

ROWS, COLUMNS = 64, 16384
METHODS = ["fork", "spawn", "forkserver"]
ON_WRITE = dlbridge.build_info()["on_write"]
needs_raise = pytest.mark.skipif("raise" not in ON_WRITE, reason="this tier does not guard read-only memory")
needs_copy = pytest.mark.skipif("copy" not in ON_WRITE, reason="this tier does not copy on write")


def anonymous_mib() -> float:
    """The resident memory of this process that no file holds: pages of the parent, too, before and after a write."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"^RssAnon:\s+(\d+) kB$", status, re.M)[0]) / 1024


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


class Rows(Dataset[Any]):
    """Rows of a file: each with the threads that its conversion started, and the memory of the process."""

    def __init__(self, file: Path, kind: str) -> None:
        self.file, self.kind = file, kind

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> tuple[Any, int, float]:
        before = threads()
        x = np.load(self.file, mmap_mode="r" if self.kind == "read_only" else "c")[row]
        t = (
            from_dlpack(x)
            if self.kind == "handle"
            else to_torch(x, on_write="raise" if self.kind == "read_only" else None)
        )
        return t, threads() - before, anonymous_mib()


def collate(samples: list[tuple[Any, int, float]]) -> Any:
    return default_collate([(x.torch() if isinstance(x, dlbridge.Tensor) else x, *rest) for x, *rest in samples])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, np.arange(ROWS * COLUMNS, dtype=np.float32).reshape(ROWS, COLUMNS))
    return path


@pytest.mark.parametrize("kind", ["shared", pytest.param("read_only", marks=needs_raise), "handle"])
@pytest.mark.parametrize("method", METHODS)
def test_loader_workers(file: Path, method: str, kind: str) -> None:
    """Values are right, no thread is started, and memory is flat over ten epochs."""
    loader = DataLoader(
        Rows(file, kind),
        batch_size=8,
        num_workers=1,
        multiprocessing_context=method,
        persistent_workers=True,
        collate_fn=collate,
    )
    own = []
    for epoch in range(10):
        for n, (batch, started, memory) in enumerate(loader):
            assert epoch == 0 or started.tolist() == [0] * 8  # the queue's own thread starts in the first
            assert torch.equal(batch.ravel(), torch.arange(n * 8 * COLUMNS, (n + 1) * 8 * COLUMNS).float())
            latest = memory[-1].item()
        own.append(latest)
    assert min(own[7:]) - min(own[4:7]) < 4, own  # each epoch reads 4 MiB


@pytest.mark.parametrize("on_write", [pytest.param("raise", marks=needs_raise), pytest.param("copy", marks=needs_copy)])
@pytest.mark.parametrize("method", METHODS)
def test_datasets_of_read_only_tensors(file: Path, method: str, on_write: str) -> None:
    """The workers get the tensor itself, as a part of their arguments."""
    rows = to_torch(np.load(file, mmap_mode="r"), on_write=on_write)
    loader = DataLoader(TensorDataset(rows), batch_size=32, num_workers=1, multiprocessing_context=method)
    assert [batch[:, 0].tolist() for (batch,) in loader] == [
        list(range(n, n + 32 * COLUMNS, COLUMNS)) for n in (0, 32 * COLUMNS)
    ]
    assert not dlbridge.to_numpy(rows).flags.writeable


def total(x: Any) -> float:
    return float((x.numpy() if isinstance(x, dlbridge.Tensor) else x).sum())


def answer(requests: Any, answers: Any) -> None:
    while (x := requests.get()) is not None:
        answers.put(total(x))


def sources(file: Path) -> list[Any]:
    a = np.ones(1000, np.float32)
    found = [to_torch(a), from_dlpack(a), to_torch(a)[::2], from_dlpack(np.load(file, mmap_mode="r")[0])]
    for on_write in [mode for mode in ("raise", "copy") if mode in ON_WRITE]:
        found.append(to_torch(np.load(file, mmap_mode="r")[0], on_write=on_write))
    return found


ROW_0 = COLUMNS * (COLUMNS - 1) / 2
TOTALS = [1000, 1000, 500, ROW_0, ROW_0, ROW_0]


@pytest.mark.parametrize("method", METHODS)
def test_queues_of_torch(file: Path, method: str) -> None:
    context = torch.multiprocessing.get_context(method)
    requests, answers = context.Queue(), context.Queue()
    worker = context.Process(target=answer, args=(requests, answers), daemon=True)
    worker.start()
    for x, expected in zip(sources(file), TOTALS, strict=False):
        requests.put(x)
        assert answers.get(timeout=30) == pytest.approx(expected)
    requests.put(None)
    worker.join(60)


@pytest.mark.parametrize("method", METHODS)
def test_process_pools(file: Path, method: str) -> None:
    context = torch.multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        found = list(pool.map(total, sources(file)))
    assert found == pytest.approx(TOTALS[: len(found)])

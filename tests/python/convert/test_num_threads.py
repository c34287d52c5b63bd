# SPDX-License-Identifier: Apache-2.0
"""How many threads a large copy uses: set_num_threads, get_num_threads, and their defaults."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import dlbridge

COUNT = "import dlbridge; print(dlbridge.get_num_threads())"


@pytest.fixture(autouse=True)
def default_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    dlbridge.set_num_threads(0)


def large_copy_is_right() -> bool:
    array = np.arange(1500 * 1500, dtype=np.float32).reshape(1500, 1500)
    copied = dlbridge.to_numpy(array.T, out=np.zeros((1500, 1500), np.float32))
    return bool((copied == array.T).all())


def test_set_and_reset() -> None:
    default = dlbridge.get_num_threads()
    dlbridge.set_num_threads(1)
    assert dlbridge.get_num_threads() == 1
    assert large_copy_is_right()
    dlbridge.set_num_threads(0)
    assert dlbridge.get_num_threads() == default


def test_no_more_than_the_process_may_use() -> None:
    dlbridge.set_num_threads(10_000)
    assert 1 <= dlbridge.get_num_threads() <= len(os.sched_getaffinity(0))
    assert large_copy_is_right()


def test_negative_is_refused() -> None:
    with pytest.raises(dlbridge.ExchangeError, match="n is -1; expected") as refused:
        dlbridge.set_num_threads(-1)
    assert refused.value.code == "invalid_argument"


def test_default_is_torchs() -> None:
    torch.set_num_threads(1)
    assert dlbridge.get_num_threads() == 1


def test_default_is_openmps_variable() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", COUNT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


class Threads(torch.utils.data.Dataset[int]):
    """The number of threads where an item is loaded."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        return dlbridge.get_num_threads() if large_copy_is_right() else -1


def test_none_in_workers_of_a_data_loader() -> None:
    assert large_copy_is_right()  # starts threads, which the fork loses
    loader = torch.utils.data.DataLoader(Threads(), num_workers=1)
    assert [int(threads) for threads in loader] == [1, 1]


def test_child_after_fork_copies() -> None:
    dlbridge.set_num_threads(2)
    assert large_copy_is_right()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(large_copy_is_right).get(timeout=60)

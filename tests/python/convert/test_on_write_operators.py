# SPDX-License-Identifier: Apache-2.0
"""Torch's own samples of its operators, every tensor argument over memory that the processor protects: what reads it
copies nothing, what asks for a writable pointer is in WRITERS: it raises, or copies once. The first sample of each
operator is run: all samples take minutes, and add the mask of
torch.ops.aten._scaled_dot_product_flash_attention_for_cpu to the writers.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys
import types
import unittest
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_map_only

from dlbridge import ExchangeError, to_torch
from support import copies_on_write

WRITERS = {
    "_batch_norm_with_update", "_native_batch_norm_legit", "cauchy", "exponential", "geometric", "log_normal",
    "native_batch_norm", "nn.functional.batch_norm", "nn.functional.channel_shuffle", "nn.functional.instance_norm",
    "normal.in_place", "uniform",
}  # fmt: skip


def protected(t: torch.Tensor, mode: Any, memories: list[torch.Tensor]) -> torch.Tensor:
    """The same tensor over a storage of pages that cannot be written, all of which joins `memories`."""
    if t.layout is not torch.strided or t.numel() == 0 or t.is_conj() or t.is_neg():
        return t
    storage = t.untyped_storage()
    pages = mmap.mmap(-1, storage.nbytes())
    pages.write(ctypes.string_at(storage.data_ptr(), storage.nbytes()))
    memory = np.frombuffer(pages, np.uint8)
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(memory.ctypes.data), len(pages), mmap.PROT_READ) == 0
    memory.flags.writeable = False
    memories.append(to_torch(memory, on_write=mode))
    guarded = memories[-1].untyped_storage()
    return torch.empty(0, dtype=t.dtype).set_(guarded, t.storage_offset(), t.size(), t.stride())


def operators() -> Iterator[tuple[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sys.modules.setdefault("expecttest", types.ModuleType("expecttest")).TestCase = unittest.TestCase  # type: ignore[attr-defined]
        from torch.testing._internal.common_methods_invocations import op_db
    for operator in op_db:
        if torch.float32 in operator.dtypes and not operator.name.startswith("jiterator"):  # those need a GPU
            yield ".".join(filter(None, [operator.name, operator.variant_test_name])), operator


@copies_on_write
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["raise", "copy"])
def test_operators_that_read_copy_nothing(mode: Any) -> None:
    writers, readers = set(), 0
    for name, operator in operators():
        sample = next(iter(operator.sample_inputs("cpu", torch.float32)))
        memories: list[torch.Tensor] = []
        guard = functools.partial(protected, mode=mode, memories=memories)
        args, kwargs = tree_map_only(torch.Tensor, guard, ([sample.input, *sample.args], sample.kwargs))
        before = [*map(torch._C._data_address, memories)]
        try:
            operator.op(*args, **kwargs)
        except ExchangeError:
            assert mode == "raise"
            writers.add(name)
        after = [*map(torch._C._data_address, memories)]
        if after != before:
            assert mode == "copy"
            writers.add(name)
            operator.op(*args, **kwargs)  # once
            assert after == [*map(torch._C._data_address, memories)]
        readers += name not in writers
    assert writers == WRITERS
    assert readers >= 640

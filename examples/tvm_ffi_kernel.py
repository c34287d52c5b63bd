# SPDX-License-Identifier: Apache-2.0
"""A kernel behind TVM FFI called with NumPy, JAX and torch arrays, which dlbridge hands over by its exchange table.

.venv/bin/python examples/tvm_ffi_kernel.py

Compiles the kernel (g++ and ninja), checks what it writes, and times a call beside tvm_ffi.from_dlpack.
"""

import statistics
import timeit

import jax
import numpy as np
import torch
import tvm_ffi
from tvm_ffi.cpp import load_inline

from dlbridge import from_dlpack

KERNEL = """
void add_one(tvm::ffi::TensorView x, tvm::ffi::TensorView y) {
  for (int64_t i = 0; i < x.size(0); ++i)
    static_cast<float*>(y.data_ptr())[i] = static_cast<float*>(x.data_ptr())[i] + 1;
}
"""
ROUNDS, CALLS = 15, 2000


def main() -> None:
    add_one = load_inline("dlbridge_example", cpp_sources=KERNEL, functions="add_one").add_one
    y = np.zeros(8, np.float32)
    for x in (np.arange(8, dtype=np.float32), jax.numpy.arange(8, dtype="float32"), torch.arange(8).float()):
        add_one(from_dlpack(x), from_dlpack(y))
        assert y.tolist() == list(range(1, 9))
        names = {"add_one": add_one, "x": x, "y": y, "from_dlpack": from_dlpack, "tvm_ffi": tvm_ffi}
        calls = ("add_one(from_dlpack(x), from_dlpack(y))", "add_one(tvm_ffi.from_dlpack(x), tvm_ffi.from_dlpack(y))")
        times = [[timeit.timeit(call, globals=names, number=CALLS) / CALLS for call in calls] for _ in range(ROUNDS)]
        ours, theirs = (statistics.median(column) * 1e9 for column in zip(*times, strict=True))
        ratio = statistics.median(b / a for a, b in times)
        print(f"{type(x).__module__}: {ours:.0f} ns, with tvm_ffi.from_dlpack {theirs:.0f} ns, {ratio:.2f} x")


if __name__ == "__main__":
    main()

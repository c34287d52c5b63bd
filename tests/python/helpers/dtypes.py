# SPDX-License-Identifier: Apache-2.0
"""The dtypes of NumPy and ml_dtypes that DLPack has."""

from __future__ import annotations

from typing import Any

import numpy as np

# By name: DLPack's code and bits.
DTYPES: dict[str, tuple[int, int]] = {
    "bool": (6, 8),
    **{f"int{bits}": (0, bits) for bits in (8, 16, 32, 64, 2, 4)},
    **{f"uint{bits}": (1, bits) for bits in (8, 16, 32, 64, 2, 4)},
    **{f"float{bits}": (2, bits) for bits in (16, 32, 64)},
    **{f"complex{bits}": (5, bits) for bits in (64, 128)},
    "bfloat16": (4, 16),
    "float8_e3m4": (7, 8),
    "float8_e4m3": (8, 8),
    "float8_e4m3b11fnuz": (9, 8),
    "float8_e4m3fn": (10, 8),
    "float8_e4m3fnuz": (11, 8),
    "float8_e5m2": (12, 8),
    "float8_e5m2fnuz": (13, 8),
    "float8_e8m0fnu": (14, 8),
    "float6_e2m3fn": (15, 6),
    "float6_e3m2fn": (16, 6),
    "float4_e2m1fn": (17, 4),
}
# Those whose elements are whole bytes.
WHOLE_DTYPES = [name for name, (_, bits) in DTYPES.items() if bits >= 8]


def numpy_dtype(name: str) -> np.dtype:
    """The dtype of that name, of ml_dtypes where NumPy has none."""
    name = name.removeprefix("ml_dtypes.")
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))


def random_array(dtype: Any, shape: tuple[int, ...] = (4, 5), seed: int = 7) -> np.ndarray:
    """Random bits, other ones for each seed; each element is a valid one."""
    dtype = numpy_dtype(dtype) if isinstance(dtype, str) else np.dtype(dtype)
    count = int(np.prod(shape))
    bits = np.random.default_rng(seed).integers(0, 255, count * dtype.itemsize, dtype=np.uint8)
    return (bits % 2 if dtype == np.bool_ else bits).view(dtype).reshape(shape)

# SPDX-License-Identifier: Apache-2.0
"""How the elements of a test array lie in memory: a view of a buffer, in terms that every framework understands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Layout:
    """A view of a buffer of `size` elements: where it begins, its shape, and its strides in elements."""

    name: str
    size: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    def of(self, buffer: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The view of a one-dimensional array of `size` elements."""
        item = buffer.itemsize
        strides = tuple(stride * item for stride in self.strides)
        return np.ndarray(self.shape, buffer.dtype, buffer.view(np.uint8).data, self.offset * item, strides)

    @property
    def row_major(self) -> bool:
        """Whether the view is the whole buffer in row-major order."""
        if 0 in self.shape:
            return self.size == 0
        expected, dense = 1, self.offset == 0
        for extent, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            dense = dense and (extent == 1 or stride == expected)
            expected *= extent
        return dense and expected == self.size

    @property
    def overlapping(self) -> bool:
        """Whether an element of the buffer is seen twice, so that the view is nothing to write to."""
        steps = zip(self.shape, self.strides, strict=True)
        return 0 not in self.shape and any(stride == 0 and extent > 1 for extent, stride in steps)


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("dense", 2 * 3 * 40, (2, 3, 40), (120, 40, 1)),
        Layout("scalar", 1, (), ()),
        Layout("one_element", 1, (1, 1), (1, 1)),
        Layout("empty", 0, (3, 0, 2), (0, 2, 1)),
        Layout("offset", 250, (9, 25), (25, 1), 17),
        Layout("transposed", 24 * 36, (36, 24), (1, 36)),
        Layout("permuted", 4 * 6 * 10, (10, 4, 6), (1, 60, 10)),
        Layout("columns", 20 * 32, (20, 8), (32, 1), 5),
        Layout("every_second", 64, (32,), (2,)),
        Layout("every_third_of_columns", 30 * 30, (15, 10), (60, 3), 1),
        Layout("broadcast", 12, (5, 12, 3), (0, 1, 0)),
        Layout("backwards", 40, (40,), (-1,), 39),
        Layout("large", 1 << 18, (512, 512), (512, 1)),  # beyond what counts as small
        Layout("large_transposed", 1 << 18, (512, 512), (1, 512)),
    )
}

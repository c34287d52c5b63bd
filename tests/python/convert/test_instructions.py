# SPDX-License-Identifier: Apache-2.0
"""The hot path does not grow: its instructions are counted, not timed."""

import sys
from pathlib import Path

import pytest

from support import direct_tier

sys.path[:0] = [str(Path(__file__).resolve().parents[3] / "benchmarks")]

import instructions  # noqa: E402


@direct_tier
def test_hot_path_stays_short() -> None:
    if (reason := instructions.why_not()) is not None:
        pytest.skip(reason)
    assert instructions.too_many(instructions.count()) == []

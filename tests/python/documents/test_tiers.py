# SPDX-License-Identifier: Apache-2.0
"""What each tier of torch keeps: the table of docs/tiers.md, row by row, in the tier that the suite runs in.

Whether an export's bytes are still there is asked of the process's memory map, so that "no" is seen without reading
freed memory.
"""

import pytest
from pages import page, section, tables

from isolated import run_isolated
from support import TORCH_TIER

# Of every row: code that ends with `kept`, a bool. `t` has 64 MiB, so that freed memory is unmapped at once.
_EXPORT = """
t = torch.zeros(1 << 24)
export = to_numpy(t)
home = export.ctypes.data
def mapped():
    for line in open("/proc/self/maps"):
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= home < end:
            return True
    return False
assert mapped()
"""
_AND_STILL_MAPPED = "gc.collect()\nkept = mapped()\n"


def _after(change: str) -> str:
    return _EXPORT + change + "\n" + _AND_STILL_MAPPED


PROPERTIES = {
    "an export keeps its bytes after `del t`": _after("del t"),
    "an export keeps its bytes after `t.set_(other)`": _after("t.set_(torch.zeros(3))"),
    "an export keeps its bytes after `t.data = other`": _after("t.data = torch.zeros(3)"),
    "an export keeps its bytes after `torch.utils.swap_tensors(t, other)`": _after(
        "torch.utils.swap_tensors(t, torch.zeros(5))\ndel t"
    ),
    "an export keeps its bytes after `t.share_memory_()`": _after("t.share_memory_()"),
    "an export keeps its bytes after `t` is pickled for a worker process": _after(
        "from multiprocessing.reduction import ForkingPickler\nimport torch.multiprocessing\nForkingPickler.dumps(t)"
    ),
    "an export keeps its bytes after a write to `t` beside `torch._lazy_clone(t)`": _after(
        """
try:
    clone = torch._lazy_clone(t)
except RuntimeError:
    pass   # refused: nothing moves
else:
    t.add_(1)
    clone.add_(1)
    del clone
    assert t.data_ptr() != home or (export == 1).all()
"""
    ),
    "`t.resize_()` is refused while an export lives": _EXPORT
    + """
kept = False
try:
    t.resize_(1 << 25)
except RuntimeError:
    kept = True
""",
    "`to_torch(to_numpy(t))` is a tensor over the storage of `t` itself": """
t = torch.arange(6.0)
again = to_torch(to_numpy(t))
assert again.data_ptr() == t.data_ptr()
kept = again.untyped_storage()._cdata == t.untyped_storage()._cdata
""",
    "a tensor that `copy=True` made can be resized": """
t = to_torch(np.arange(6.0), copy=True)
kept = t.untyped_storage().resizable()
""",
    "`to_torch(array)` is lifted inside `FakeTensorMode`, vmap and grad": """
from torch._subclasses import FakeTensor, FakeTensorMode
with FakeTensorMode():
    kept = isinstance(to_torch(np.zeros(3)), FakeTensor)
seen = []
def inside(x):
    t = to_torch(np.zeros(3))
    seen.append(torch._C._functorch.is_functorch_wrapped_tensor(t + x))
    return (t + x).sum()
torch.vmap(inside)(torch.ones(2, 3))
torch.func.grad(inside)(torch.ones(3))
kept = kept and seen == [True, True]
""",
    "`jit.trace` records `lift_fresh` for `to_torch(array)`; the values are the same": """
traced = torch.jit.trace(lambda x: x + to_torch(np.ones(3)), torch.ones(3))
assert traced(torch.ones(3)).tolist() == [2, 2, 2]
kept = "lift_fresh" in str(traced.graph)
""",
    "no `TorchFunctionMode` is asked when `to_numpy(t)` looks at `t`": """
from torch.overrides import TorchFunctionMode
asked = []
class Mode(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        asked.append(func)
        return func(*args, **(kwargs or {}))
t = torch.ones(3)
with Mode():
    a = to_numpy(t)
assert a.tolist() == [1, 1, 1] and a.ctypes.data == t.data_ptr()
kept = not asked
""",
    "`to_torch(array)` is lifted after `torch._enable_functionalization()` by hand": """
torch._enable_functionalization(reapply_views=True)
try:
    t = to_torch(np.zeros(3))
    kept = torch._is_functional_tensor(t)
finally:
    torch._disable_functionalization()
""",
}


def table() -> dict[str, dict[str, str]]:
    """Property -> tier -> yes or no."""
    (rows,) = tables(section(page("docs/tiers.md"), "What a tier keeps"))
    return {row.pop("what"): row for row in rows}


def test_rows_match_tests() -> None:
    assert table().keys() == PROPERTIES.keys()
    assert all(set(row) == {"direct", "exchange"} for row in table().values())


@pytest.mark.parametrize("name", PROPERTIES)
def test_tier_keeps_its_promises(name: str) -> None:
    expected = table()[name][TORCH_TIER]
    found = run_isolated(PROPERTIES[name] + "\nprint('yes' if kept else 'no')").strip()
    assert found == expected

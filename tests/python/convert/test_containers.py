# SPDX-License-Identifier: Apache-2.0
"""Nested containers: structure, identity, paths in errors, nothing lost."""

import collections
import dataclasses
import sys
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch

import dlbridge
from support import address, refusal


def array() -> np.ndarray:
    return np.arange(6.0).reshape(3, 2)


class Pair(NamedTuple):
    u: Any
    v: Any


class Tagged(tuple[Any, ...]):
    pass


@dataclasses.dataclass(frozen=True)
class Batch:
    image: Any
    label: Any = None
    extra: Any = dataclasses.field(default=None, init=False)


class Named(dict[str, Any]):
    note = "kept"


@pytest.mark.parametrize(
    "build",
    [
        lambda a: {"k": a, 3: a},
        lambda a: [a, a],
        lambda a: (a, (a,), []),
        lambda a: Pair(a, a),
        lambda a: collections.OrderedDict(b=a, a=a),
        lambda a: collections.defaultdict(list, k=a),
        lambda a: Named(k=a),
        lambda a: Batch(a, {"k": [a]}),
    ],
    ids=["dict", "list", "tuple", "namedtuple", "OrderedDict", "defaultdict", "subclass", "dataclass"],
)
def test_structure_is_kept(build: Any) -> None:
    a = array()
    x = build(a)
    there = dlbridge.to_torch(x)
    assert type(there) is type(x)
    assert repr(there) == repr(build(torch.from_numpy(a)))
    back = dlbridge.to_numpy(there)
    assert repr(back) == repr(x)
    assert getattr(there, "default_factory", None) == getattr(x, "default_factory", None)


def test_attributes_of_a_tuple_are_kept() -> None:
    x = Tagged((array(),))
    x.tag = "left"
    there = dlbridge.to_torch(x)
    assert (type(there), there.tag) == (Tagged, "left")


def test_class_variables_are_no_fields() -> None:
    @dataclasses.dataclass
    class Sized:
        x: Any
        size: ClassVar[int] = 5
        init: dataclasses.InitVar[int] = 3

    out = dlbridge.to_torch(Sized(array()))
    assert list(vars(out)) == ["x"]


def leaves(x: Any) -> list[Any]:
    if isinstance(x, dict):
        return [leaf for value in x.values() for leaf in leaves(value)]
    return [leaf for item in x for leaf in leaves(item)] if isinstance(x, (list, tuple)) else [x]


def test_shared_leaves_stay_shared() -> None:
    a, shared = array(), [array()]
    x = {"a": a, "again": a, "part": a[1:], "one": shared, "other": shared}
    for copy in (False, True):
        out = dlbridge.to_torch(x, copy=copy)
        assert out["a"] is out["again"]
        assert out["one"] is out["other"]
        assert (address(out["a"]) == address(a)) is not copy


def test_keywords_reach_every_leaf() -> None:
    out = dlbridge.to_torch({"a": array(), "b": [torch.arange(3), 2.5]}, dtype="float64", copy=True)
    assert [leaf.dtype for leaf in leaves(out)] == [torch.float64] * 3


@pytest.mark.parametrize(
    ("x", "path"),
    [
        ({"image": [array(), array(), array(), array()[::-1]]}, "x['image'][3]"),
        (Pair(array(), {2: array()[::-1]}), "x[1][2]"),
        ([Batch(array(), (array()[::-1],))], "x[0].label[0]"),
    ],
)
def test_the_failing_leaf_is_named(x: Any, path: str) -> None:
    error = refusal(lambda: dlbridge.to_torch(x))
    assert error.code == "negative_stride"
    assert path in str(error)


def test_messages_name_the_call_for_the_leaf() -> None:
    with pytest.raises(TypeError, match=r"pass numpy.asarray\(x\['label'\]\)"):
        dlbridge.to_torch({"label": [1, 2]})
    with pytest.raises(TypeError, match=r"^x\[1\] is int; a scalar"):
        dlbridge.to_torch([array(), 3])
    with pytest.raises(TypeError, match=r"memoryview\(x\['k'\]\)\.cast"):
        dlbridge.to_numpy({"k": memoryview(bytearray(8)).cast("P")})


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have notes from Python 3.11 on")
def test_errors_of_producers_get_a_note() -> None:
    class Raises:
        def __dlpack__(self, **_: Any) -> Any:
            raise ValueError("boom")

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    with pytest.raises(ValueError, match="boom") as caught:
        dlbridge.to_numpy({"q": [Raises()]})
    assert caught.value.__notes__ == ["in x['q'][0]"]


def test_a_failure_hands_nothing_out() -> None:
    a = array()
    before = sys.getrefcount(a)
    assert refusal(lambda: dlbridge.to_torch([a, {"k": a}, (a,), array()[::-1]])).code == "negative_stride"
    assert sys.getrefcount(a) == before


def test_references_are_released() -> None:
    a = array()
    before = sys.getrefcount(a)
    out = dlbridge.to_torch([a[i:] for i in range(3)] + [a])
    del out
    assert sys.getrefcount(a) == before


def test_a_container_in_itself_is_refused() -> None:
    x: list[Any] = [array()]
    x.append(x)
    with pytest.raises(RecursionError):
        dlbridge.to_torch(x)


def test_a_list_that_shrinks_meanwhile() -> None:
    x: list[Any] = []

    class Shrinks:
        def __dlpack__(self, **keywords: Any) -> Any:
            x.clear()
            return np.arange(3.0).__dlpack__(**keywords)

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    x.extend([Shrinks(), array(), array()])
    assert len(dlbridge.to_numpy(x)) == 3


def test_producers_are_leaves() -> None:
    class Producer(dict[str, Any]):
        def __dlpack__(self, **keywords: Any) -> Any:
            return np.arange(3.0).__dlpack__(**keywords)

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    assert dlbridge.to_numpy([Producer()])[0].tolist() == [0.0, 1.0, 2.0]


def test_a_dataclass_with_private_fields_is_a_leaf() -> None:
    """As zarr.Group and zarr.Array, which read a file when they are asked for elements."""

    @dataclasses.dataclass(frozen=True)
    class Group:
        _group: Any
        array_keys: ClassVar[Any] = None

    Group.__module__ = "zarr.core.group"
    group = Group(Batch(array(), 3))
    for copy in (False, None, True):
        with pytest.raises(TypeError, match=r"^x\['a'\] is .*Group; expected .*: pass x\['a'\]\[name\]\[\(\)\]"):
            dlbridge.to_torch({"a": group}, copy=copy)


def test_out_takes_no_container() -> None:
    with pytest.raises(TypeError, match="x is dict"):
        dlbridge.to_numpy({"a": array()}, out=array())

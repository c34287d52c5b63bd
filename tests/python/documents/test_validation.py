# SPDX-License-Identifier: Apache-2.0
"""Hostile descriptors: the table of docs/reference/validation.md, row by row, and random descriptors on top.

A descriptor that ends the process is a failure with a name where pytest runs with -n: it replaces the worker.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from capsules import IS_COPIED, PADDED, READ_ONLY, USED_LEGACY, USED_VERSIONED, Crafted, Producer, name_of, versioned_of
from exchange_tables import (
    ADDRESS,
    FROM_OBJECT,
    TO_OBJECT,
    Table,
    address_of,
    capsule_of,
    foreign,
    hands_out,
    table,
    with_table,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import page, tables

import dlbridge
from support import TARGETS, address, assert_no_growth, element_strides, raw, refusal

MAX, MIN = 2**63 - 1, -(2**63)
HANDLES = (4, 7, 8, 9, 12, 15, 16, 17, 18, 19, 20, 21)  # device types whose data is no address
DESCRIPTORS, EXCHANGE_TABLES = tables(page("docs/reference/validation.md"))


# ---- the table ----


@dataclass
class Row:
    """One row of the document."""

    case: str
    struct: str
    field: str
    descriptor: str  # keywords of Crafted, and dtype=(code, bits, lanes)
    outcomes: dict[str, str]  # by name of the function: "share" or the error's code
    error_field: str
    capsule: str

    @staticmethod
    def read(cells: dict[str, str]) -> Row:
        case, struct, field, descriptor, _, result, error_field, capsule, _ = (
            cell.strip("`") for cell in cells.values()
        )
        results = re.findall(r"\w+", result)
        outcomes = dict(zip(TARGETS, results if len(results) > 1 else results * len(TARGETS), strict=True))
        keywords = re.match(r"`(.*?)`|", cells["descriptor"])[1] or ""
        return Row(case, struct, field, keywords, outcomes, error_field, capsule)

    @property
    def structs(self) -> list[bool]:
        """The values of `versioned` that it stands for."""
        return {"both": [True, False], "versioned": [True], "legacy": [False]}[self.struct]

    @property
    def is_never_right(self) -> bool:
        """Whether it is refused for what it is, and not for a limit of one target, which a copy may remedy."""
        return len(set(self.outcomes.values())) == 1 and "share" not in self.outcomes.values()

    @property
    def calls_deleter(self) -> bool:
        return self.capsule != "untouched" and not self.capsule.endswith("no deleter")


ROWS = [Row.read(cells) for cells in DESCRIPTORS]


def craft(row: Row, versioned: bool) -> Crafted:
    """The descriptor of a row."""
    memory = (ctypes.c_float * 24)(*range(24))
    used = USED_VERSIONED if versioned else USED_LEGACY
    names = {"MAX": MAX, "MIN": MIN, "NULL": None, "READ_ONLY": READ_ONLY, "IS_COPIED": IS_COPIED, "PADDED": PADDED}
    fields = eval(f"dict({row.descriptor})", names | {"ADDRESS": ctypes.addressof(memory), "USED": used})
    if "dtype" in fields:
        code, bits, lanes = (*fields.pop("dtype"), 1)[:3]
        fields = {"shape": (6,), "strides": (1,), "code": code, "bits": bits, "lanes": lanes} | fields
    if fields.get("code") == 6:
        memory = (ctypes.c_uint8 * 96)(*[1, 0] * 48)
    return Crafted(versioned=versioned, memory=memory, **fields)


def test_every_field_has_rows() -> None:
    wanted = {"data", "byte_offset", "ndim", "shape", "strides", "dtype", "device"}
    wanted |= {"version.major", "version.minor", "flags", "manager_ctx", "deleter", "capsule name"}
    assert {row.field for row in ROWS} == wanted


def test_every_code_of_a_descriptor_has_rows() -> None:
    promised = re.search(r"Throws Error\s+///\s+\(([a-z_,/\s]+)\)", page("core/include/dlbridge/validate.h"))
    assert promised is not None
    codes = set(re.findall(r"[a-z]\w+", promised[1]))
    assert len(codes) >= 10
    assert codes <= {code for row in ROWS for code in row.outcomes.values()}


def test_last_column_follows_results() -> None:
    for row in ROWS:
        shared = {outcome == "share" for outcome in row.outcomes.values()}
        words = set(row.capsule.removesuffix(", no deleter").split(" or "))
        expected = {"untouched"} if words == {"untouched"} else {"taken" if each else "kept" for each in shared}
        assert words == expected and (words != {"untouched"} or shared == {False}), row.case
        assert (row.error_field == "–") == (shared == {True}), row.case


CASES = [
    pytest.param(row, versioned, target, id=f"{row.case}-{'versioned' if versioned else 'legacy'}-{target}")
    for row in ROWS
    for versioned in row.structs
    for target in TARGETS
]
REFUSED = [case for case in CASES if case.values[0].outcomes[case.values[2]] != "share"]
SHARED = [case for case in CASES if case.values[0].outcomes[case.values[2]] == "share"]


# ---- what was taken ----


def dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(np.prod([max(extent, 1) for extent in shape[i + 1 :]], dtype=object)) for i in range(len(shape)))


@dataclass
class Claim:
    """What a descriptor says, worked out with Python's integers: none of them overflows."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int
    first: int  # address of the first element
    low: int  # the lowest byte
    end: int  # and the one after the highest

    @staticmethod
    def of(crafted: Crafted) -> Claim:
        shape = crafted.shape or ()
        shape = shape[: len(shape) if crafted.ndim is None else crafted.ndim]
        strides = dense(shape) if crafted.strides is None else tuple(crafted.strides)[: len(shape)]
        base = crafted.address() if crafted.data == -1 else crafted.data or 0
        first = base + crafted.byte_offset
        size = (crafted.bits * crafted.lanes + 7) // 8
        steps = [stride * (extent - 1) * size for stride, extent in zip(strides, shape, strict=True)]
        empty = 0 in shape
        low = first if empty else first + sum(step for step in steps if step < 0)
        end = first if empty else first + sum(step for step in steps if step > 0) + size
        return Claim(shape, strides, size, first, low, end)

    def lies_within(self, crafted: Crafted) -> bool:
        start = crafted.address()
        return start <= self.low and self.end <= start + ctypes.sizeof(crafted.memory) and self.low < self.end

    def contents(self) -> bytes:
        """The elements in row-major order. Requires: lies_within, and not too many of them."""
        steps = [range(0, extent * stride, stride) if stride else [0] * extent
                 for extent, stride in zip(self.shape, self.strides, strict=True)]  # fmt: skip
        places = (self.first + sum(index) * self.itemsize for index in itertools.product(*steps))
        return b"".join(ctypes.string_at(place, self.itemsize) for place in places)


def check_taken(result: Any, crafted: Crafted) -> None:
    """Holds the description of a result, and its bytes where they are the producer's memory, against the claim."""
    claim = Claim.of(crafted)
    assert tuple(result.shape) == claim.shape
    if 0 not in claim.shape:
        for extent, found, wanted in zip(claim.shape, element_strides(result), claim.strides, strict=True):
            assert extent == 1 or found == wanted
        assert address(result) == claim.first % 2**64
    if isinstance(result, dlbridge.Tensor):
        check_handle(result, crafted)
    elif claim.lies_within(crafted) and np.prod(claim.shape, dtype=object) <= 1000:
        assert raw(result) == claim.contents()
    if isinstance(result, np.ndarray):
        repeats = any(extent > 1 and stride == 0 for extent, stride in zip(claim.shape, claim.strides, strict=True))
        broadcast = repeats and 0 not in claim.shape  # an empty array repeats nothing
        writable = crafted.versioned and not crafted.flags & READ_ONLY and not broadcast
        assert result.flags.writeable == writable


def check_handle(handle: dlbridge.Tensor, crafted: Crafted) -> None:
    capsule = handle.__dlpack__(max_version=(1, 0))
    managed = versioned_of(capsule)
    tensor = managed.dl_tensor
    assert (tensor.code, tensor.bits, tensor.lanes) == (crafted.code, crafted.bits, crafted.lanes)
    assert (managed.major, managed.minor) == (1, 3)
    on_host = crafted.device[0] in (1, 3, 11)
    assert (tensor.device_type, tensor.device_id) == (crafted.device[0], 0 if on_host else crafted.device[1])
    assert handle.__dlpack_device__() == (tensor.device_type, tensor.device_id)
    known = READ_ONLY | IS_COPIED | (PADDED if crafted.bits * crafted.lanes % 8 else 0)
    assert managed.flags == (crafted.flags & known if crafted.versioned else READ_ONLY)
    assert handle.read_only == bool(managed.flags & READ_ONLY)
    assert ((tensor.data or 0) + tensor.byte_offset) % 2**64 == handle.data_ptr
    assert tensor.byte_offset == (crafted.byte_offset if crafted.device[0] in HANDLES else 0)


@pytest.mark.parametrize("row, versioned, target", SHARED)
def test_a_row_that_shares(row: Row, versioned: bool, target: str) -> None:
    crafted = craft(row, versioned)
    capsule = crafted.capsule()
    name = name_of(capsule)
    before = sys.getrefcount(capsule)
    assert dlbridge.explain(capsule, to=target).verdict == "share"
    assert name_of(capsule) == name
    result = TARGETS[target](capsule)
    assert name_of(capsule) == f"used_{name}"
    assert sys.getrefcount(capsule) == before
    check_taken(result, crafted)
    assert refused(target, capsule).code == "capsule_used"
    del capsule
    assert crafted.calls == 0, "given back while in use"
    del result
    assert crafted.calls == row.calls_deleter


# ---- what was refused ----


def refused(target: str, x: Any, **request: Any) -> dlbridge.ExchangeError:
    return refusal(lambda: TARGETS[target](x, **request))


@pytest.mark.parametrize("row, versioned, target", REFUSED)
def test_a_row_that_is_refused(row: Row, versioned: bool, target: str) -> None:
    crafted = craft(row, versioned)
    capsule = crafted.capsule()
    name = name_of(capsule)
    before = sys.getrefcount(capsule)
    for _ in range(2):
        error = refused(target, capsule)
        assert (error.code, error.field) == (row.outcomes[target], row.error_field), error
        assert refusal_by_explain(capsule, target) == error.code
        assert name_of(capsule) == name
        assert crafted.calls == 0
    del error
    assert sys.getrefcount(capsule) == before
    del capsule
    assert crafted.calls == row.calls_deleter


def refusal_by_explain(capsule: Any, target: str) -> str:
    """The code that explain gives: as the first reason of its plan, or raised for what cannot be described."""
    try:
        return dlbridge.explain(capsule, to=target).reasons[0]
    except dlbridge.ExchangeError as error:
        return error.code


@pytest.mark.parametrize("row, versioned, target", [case for case in REFUSED if case.values[0].capsule != "untouched"])
def test_refused_capsule_can_be_retried(row: Row, versioned: bool, target: str) -> None:
    crafted = craft(row, versioned)
    managed = crafted.managed()
    good = Crafted(versioned=versioned, deleter=crafted.deleter, memory=crafted.memory)
    capsule = crafted.capsule_at(ctypes.addressof(managed))
    refused(target, capsule)
    ctypes.pointer(managed)[0] = good.managed()
    result = TARGETS[target](capsule)
    check_taken(result, good)
    del capsule, result
    assert good.calls == (1 if good.deleter else 0)
    assert crafted.calls == 0


@pytest.mark.parametrize("copy", [None, True, False], ids=["none", "true", "false"])
@pytest.mark.parametrize("row, versioned, target", [case for case in REFUSED if case.values[0].is_never_right])
def test_copies_do_not_cure_errors(row: Row, versioned: bool, target: str, copy: bool | None) -> None:
    crafted = craft(row, versioned)
    capsule = crafted.capsule()
    error = refused(target, capsule, copy=copy)
    assert (error.code, error.field) == (row.outcomes[target], row.error_field)
    assert crafted.calls == 0


def give_to_own_table(crafted: Crafted) -> dlbridge.Tensor:
    """The handle that dlbridge's own exchange table makes."""
    out = ADDRESS()
    managed = crafted.managed()
    try:
        assert TO_OBJECT(table().to_object)(ctypes.addressof(managed), out) == 0
    except dlbridge.ExchangeError:
        assert out.value is None
        raise
    handle = ctypes.cast(out, ctypes.py_object).value
    ctypes.pythonapi.Py_DecRef(ctypes.py_object(handle))
    return handle


# Who hands out the descriptor -> the conversion of it by a function.
HANDED_OUT: dict[str, Callable[[Crafted, str], Any]] = {
    "producer": lambda crafted, target: TARGETS[target](Producer(lambda **_: crafted.capsule())),
    "exchange_table": lambda crafted, target: TARGETS[target](with_table(hands_out(crafted))),
    "own_table": lambda crafted, _: give_to_own_table(crafted),
}
HANDED_OUT_CASES = [
    pytest.param(*case.values, by, id=f"{case.id}-{by}")
    for case in CASES
    for by in HANDED_OUT
    if by == "producer" or (case.values[1] and case.values[0].field != "capsule name")
    if by != "own_table" or case.values[2] == "dlpack"
]


@pytest.mark.rule(86, 92, 93)
@pytest.mark.parametrize("row, versioned, target, by", HANDED_OUT_CASES)
def test_handed_out_row_is_released_once(row: Row, versioned: bool, target: str, by: str) -> None:
    crafted = craft(row, versioned)
    if row.outcomes[target] == "share":
        result = HANDED_OUT[by](crafted, target)
        check_taken(result, crafted)
        assert crafted.calls == 0
        del result
    else:
        error = refusal(lambda: HANDED_OUT[by](crafted, target))
        assert (error.code, error.field) == (row.outcomes[target], row.error_field)
    assert crafted.calls == row.calls_deleter


ONE_ROW_A_CODE = list({row.outcomes["torch"]: row for row in ROWS if row.is_never_right}.values())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("row", ONE_ROW_A_CODE, ids=lambda row: row.case)
def test_refusals_leak_nothing(row: Row, target: str) -> None:
    capsule = craft(row, row.structs[0]).capsule()
    assert_no_growth(lambda: refused(target, capsule), times=100)


def test_error_names_first_wrong_field() -> None:
    # In the order of the document: each setting is wrong, and so is all that comes after it.
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("unsupported_version", {"version": (3, 0)}),
        ("invalid_ndim", {"ndim": -5}),
        ("negative_extent", {"shape": (2, -3)}),
        ("unknown_dtype", {"code": 99}),
        ("unknown_device", {"device": (99, 0)}),
        ("extent_overflow", {"shape": (MAX, MAX)}),
        ("stride_overflow", {"strides": (MAX, MAX)}),
        ("null_data", {"data": None}),
        ("address_overflow", {"byte_offset": 2**64 - 1}),
    ]
    for i, (code, setting) in enumerate(wrong):
        together: dict[str, Any] = {}
        for _, later in reversed(wrong[i + 1 :]):
            together |= later
        crafted = Crafted(**(together | setting))
        capsule = crafted.capsule()
        for convert in TARGETS.values():
            assert refusal(lambda convert=convert, capsule=capsule: convert(capsule)).code == code


@pytest.mark.rule(3)
@pytest.mark.parametrize("target", TARGETS)
def test_foreign_major_version_is_not_read(target: str) -> None:
    # Version, context and deleter end a page; the rest of the descriptor lies on one that may not be read.
    page = 4096
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    memory = libc.mmap(None, 2 * page, 3, 0x22, -1, 0)
    assert memory not in (None, 2**64 - 1)
    crafted = Crafted(version=(2, 0))
    head = bytes(crafted.managed())[:24]
    ctypes.memmove(memory + page - 24, head, 24)
    assert libc.mprotect(memory + page, page, 0) == 0
    capsule = crafted.capsule_at(memory + page - 24)
    assert refused(target, capsule).code == "unsupported_version"
    del capsule
    assert crafted.calls == 1
    assert libc.munmap(memory, 2 * page) == 0


# ---- exchange tables ----


@dataclass
class TableRow:
    """One row of the document's table of exchange tables."""

    case: str
    field: str
    with_method: str  # "table", "method", or what is raised: an error's code, or an exception's name
    without_method: str
    tensor: str


TABLE_ROWS = [
    TableRow(*(row[name].strip("`") for name in ("case", "field", "with `__dlpack__`", "without it", "its tensor")))
    for row in EXCHANGE_TABLES
]


def never(_: Any, __: Any) -> int:
    """A slot that must not be called."""
    os.abort()


def returns(status: int) -> Callable[[Any, Any], int]:
    return lambda _, out: status


def slot(produce: Callable[[Any, Any], int]) -> int:
    return address_of(FROM_OBJECT(produce))


def of_python(function: str) -> int | None:
    """A function of CPython's in the place of a slot."""
    return ctypes.cast(getattr(ctypes.pythonapi, function), ADDRESS).value


def chain(crafted: Crafted, strangers: int) -> Table:
    """A table that is known, behind a number of those of another major version."""
    made = Table(major=1, minor=3, from_object=slot(hands_out(crafted)))
    for _ in range(strangers):
        younger = Table(major=2, prev_api=ctypes.addressof(made), from_object=slot(never))
        KEPT.append(made)
        made = younger
    return made


def endless(length: int) -> Table:
    tables = [Table(major=2, from_object=slot(never)) for _ in range(length)]
    for i, one in enumerate(tables):
        one.prev_api = ctypes.addressof(tables[(i + 1) % length])
    KEPT.extend(tables)
    return tables[0]


def fails_with_a_tensor(crafted: Crafted) -> Callable[[Any, Any], int]:
    def produce(x: Any, out: Any) -> int:
        hands_out(crafted)(x, out)
        return -1

    return produce


def index(self: Any) -> int:
    raise KeyError("own words")


KEPT: list[Any] = []
OTHERS = ("allocate", "to_object", "borrow", "stream")
TableBuilder = Callable[[Crafted], Any]


def from_slot(produce: Callable[[Crafted], Callable[[Any, Any], int]]) -> TableBuilder:
    return lambda crafted: Table(major=1, minor=3, from_object=slot(produce(crafted)))


# What stands on the type: a Table, or anything else that is put there as it is.
TABLE_BUILDERS: dict[str, TableBuilder] = {
    "attribute_in_order": from_slot(hands_out),
    "attribute_none": lambda _: None,
    "attribute_number": lambda _: 12345,
    "attribute_text": lambda _: "dlpack_exchange_api",
    "attribute_foreign_capsule": lambda _: capsule_of(Table(major=1, from_object=slot(never)), b"dltensor_versioned"),
    "attribute_unnamed_capsule": lambda _: capsule_of(Table(major=1, from_object=slot(never)), None),
    "attribute_of_a_base": from_slot(lambda _: never),
    "attribute_of_an_instance": from_slot(lambda _: never),
    "table_major_0": lambda _: Table(major=0, minor=3, from_object=slot(never)),
    "table_major_2": lambda _: Table(major=2, from_object=slot(never)),
    "table_major_largest": lambda _: Table(major=2**32 - 1, minor=2**32 - 1, from_object=slot(never)),
    "table_minor_0": lambda crafted: Table(major=1, minor=0, from_object=slot(hands_out(crafted))),
    "table_minor_largest": lambda crafted: Table(major=1, minor=2**32 - 1, from_object=slot(hands_out(crafted))),
    "table_older_known": lambda crafted: chain(crafted, 1),
    "table_older_far": lambda crafted: chain(crafted, 15),
    "table_older_too_far": lambda crafted: chain(crafted, 16),
    "chain_to_itself": lambda _: endless(1),
    "chain_of_two": lambda _: endless(2),
    "chain_wild": lambda crafted: Table(major=1, minor=3, prev_api=8, from_object=slot(hands_out(crafted))),
    "slot_from_null": lambda _: Table(major=1, minor=3, **dict.fromkeys(OTHERS, slot(never))),
    "slots_others_null": from_slot(hands_out),
    "slots_others_wild": lambda crafted: Table(
        major=1, minor=3, from_object=slot(hands_out(crafted)), **dict.fromkeys(OTHERS, 8)
    ),
    "from_fails": from_slot(lambda _: returns(-1)),
    "from_fails_with_1": from_slot(lambda _: returns(1)),
    "from_fails_with_a_tensor": from_slot(fails_with_a_tensor),
    # int(PyObject*, void**) is near enough to long(PyObject*, int*), which calls __index__.
    "from_fails_with_exception": lambda _: Table(major=1, minor=3, from_object=of_python("PyLong_AsLongAndOverflow")),
    "from_gives_null": from_slot(lambda _: returns(0)),
    # char*(PyObject*): a TypeError, and 0.
    "from_succeeds_with_exception": lambda _: Table(major=1, minor=3, from_object=of_python("PyBytes_AsString")),
}


def object_of(row: TableRow, handed_out: Crafted, by_method: Crafted | None) -> Any:
    """An object whose type has the table of a row, and __dlpack__ where there is something for it to give."""
    made = TABLE_BUILDERS[row.case](handed_out)
    attribute = capsule_of(made) if isinstance(made, Table) else made
    members: dict[str, Any] = {"__index__": index}
    if by_method is not None:
        members["__dlpack__"] = lambda self, **_: by_method.capsule()
    if row.case == "attribute_of_a_base":
        return type("Derived", (type(foreign(attribute)),), members)()
    if row.case == "attribute_of_an_instance":
        x = type("Plain", (), members)()
        x.__dlpack_c_exchange_api__ = attribute
        return x
    return foreign(attribute, **members)


def test_table_rows_match_builders() -> None:
    assert sorted(row.case for row in TABLE_ROWS) == sorted(TABLE_BUILDERS)
    fields = {"attribute", "version.major", "version.minor", "prev_api", "slots"}
    assert {row.field for row in TABLE_ROWS} == fields | {"managed_tensor_from_py_object_no_sync"}


def test_table_last_column_follows_results() -> None:
    for row in TABLE_ROWS:
        handed_out = {row.with_method == "table", row.without_method == "table"}
        assert handed_out == {row.tensor == "given back once"}, row.case
        assert (row.tensor == "not asked for") == (row.with_method == "method"), row.case


@pytest.mark.parametrize("method", [True, False], ids=["with_method", "without_method"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("row", TABLE_ROWS, ids=lambda row: row.case)
def test_a_row_of_an_exchange_table(row: TableRow, target: str, method: bool) -> None:
    handed_out, by_method = Crafted(), Crafted()
    x = object_of(row, handed_out, by_method if method else None)
    outcome = row.with_method if method else row.without_method
    before = sys.getrefcount(x)
    if outcome in ("table", "method"):
        result = TARGETS[target](x)
        check_taken(result, handed_out if outcome == "table" else by_method)
        assert (handed_out.calls, by_method.calls) == (0, 0)
        del result
    else:
        for attempt in (TARGETS[target], lambda x: dlbridge.explain(x, to=target)):
            with pytest.raises((TypeError, KeyError, dlbridge.ExchangeError)) as raised:
                attempt(x)
            assert getattr(raised.value, "code", type(raised.value).__name__) == outcome
            assert raised.value.__cause__ is None
        del raised
    assert sys.getrefcount(x) == before
    assert (handed_out.calls, by_method.calls) == (int(outcome == "table"), int(outcome == "method"))


# ---- random descriptors ----

SMALL = st.integers(0, 4)
WILD = st.sampled_from([MAX, MIN, MAX - 1, MIN + 1, 2**62, -(2**62), 2**61, 2**60, 2**32, 2**31, -1, -2, 4096, 1 << 40])
HOST_TYPES = [(2, 32), (0, 8), (1, 16), (2, 64), (6, 8), (5, 64), (4, 16), (12, 8), (1, 8)]


@st.composite
def descriptors(draw: Callable[[Any], Any]) -> tuple[dict[str, Any], bool]:
    """Settings of a descriptor over 96 bytes, and whether nothing in it was spoiled."""
    rank = draw(st.integers(0, 4))
    shape = [draw(st.integers(0, 4) if draw(st.integers(0, 4)) == 0 else st.integers(1, 3)) for _ in range(rank)]
    code, bits = draw(st.sampled_from(HOST_TYPES))
    found: dict[str, Any] = {
        "shape": tuple(shape),
        "strides": draw(st.none() | st.lists(st.integers(-4, 6), min_size=rank, max_size=rank)),
        "code": code,
        "bits": bits,
        "byte_offset": draw(st.integers(0, 4)) * bits // 8,
        "versioned": draw(st.booleans()),
        "version": (1, draw(st.integers(0, 4))),
        "flags": draw(st.sampled_from([0, 0, READ_ONLY, IS_COPIED, PADDED, 2**64 - 1, 1 << 20])),
        "device": (draw(st.sampled_from([1, 1, 1, 3])), draw(st.integers(0, 3))),
    }
    spoils: dict[str, Any] = {
        "shape": st.lists(st.one_of(SMALL, WILD), max_size=5).map(tuple),
        "strides": st.lists(st.one_of(st.integers(-4, 6), WILD), min_size=5, max_size=5),
        "code": st.integers(0, 255),
        "bits": st.sampled_from([0, 1, 2, 3, 4, 6, 7, 8, 16, 24, 32, 64, 80, 128, 255]),
        "lanes": st.sampled_from([0, 1, 2, 3, 4, 255, 65535]),
        "byte_offset": st.one_of(st.integers(0, 200), st.integers(2**64 - 200, 2**64 - 1), st.integers(0, 2**64 - 1)),
        "version": st.tuples(st.integers(0, 3), st.integers(0, 2**32 - 1)),
        "flags": st.integers(0, 2**64 - 1),
        "device": st.tuples(
            st.sampled_from([0, 1, 3, 4, 5, 6, 7, 9, 11, 12, 15, 18, 21, 22, 99, -1]), st.integers(-2, 9)
        ),
        "ndim": st.sampled_from([-1, -(2**31), 65, 66, 1000, 2**31 - 1, 0]),
        "data": st.sampled_from([None, 1, 4096, 2**64 - 64, 2**63]),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(spoils)), max_size=3, unique=True))
    for name in chosen:
        found[name] = draw(spoils[name])
    if found["strides"] is not None:
        found["strides"] = [*found["strides"], *[1] * 5][: max(len(found["shape"]), 1)]  # as many as will be read
    return found, not chosen


def may_be_right(crafted: Crafted) -> bool:
    """Whether the claim can be true of any memory: the least that acceptance has to mean."""
    rank = len(crafted.shape) if crafted.ndim is None else crafted.ndim
    if not 0 <= rank <= 64 or (crafted.versioned and crafted.version[0] != 1):
        return False
    if any(extent < 0 for extent in crafted.shape[:rank]):
        return False
    claim = Claim.of(crafted)
    if 0 not in claim.shape and crafted.data is None:
        return False
    return crafted.device[0] in HANDLES or (claim.low >= 0 and claim.end <= 2**64)


@pytest.mark.rule(64)
@settings(
    max_examples=int(os.environ.get("DLBRIDGE_FUZZ_EXAMPLES", 1000)),
    derandomize="DLBRIDGE_FUZZ_EXAMPLES" not in os.environ,
    database=None,
    deadline=None,
)
@given(descriptors(), st.sampled_from(sorted(TARGETS)))
def test_random_descriptors_are_read_or_refused(found: tuple[dict[str, Any], bool], target: str) -> None:
    fields, unspoiled = found
    crafted = Crafted(**fields, memory=(ctypes.c_uint8 * 96)(*[i % 2 for i in range(96)]))
    capsule = crafted.capsule()
    name = name_of(capsule)
    try:
        result = TARGETS[target](capsule)
    except dlbridge.ExchangeError as error:
        assert error.code != "python_exception"
        assert not unspoiled or target == "torch", error
        assert name_of(capsule) == name
        assert crafted.calls == 0
    else:
        assert may_be_right(crafted)
        assert name_of(capsule) == f"used_{name}"
        check_taken(result, crafted)
        assert crafted.calls == 0
        del result
        assert crafted.calls == 1
    del capsule
    assert crafted.calls == 1


def test_random_descriptors_reach_both_ends() -> None:
    """The search above is worth something only where many descriptors are taken and many refused."""
    seen = {"taken": 0, "refused": 0}

    @settings(max_examples=200, derandomize=True, database=None, deadline=None)
    @given(descriptors())
    def count(found: tuple[dict[str, Any], bool]) -> None:
        capsule = Crafted(**found[0]).capsule()  # its destructor is Python code: no exception may be under way then
        try:
            dlbridge.from_dlpack(capsule)
            seen["taken"] += 1
        except dlbridge.ExchangeError:
            seen["refused"] += 1

    count()
    assert min(seen.values()) > 40, seen

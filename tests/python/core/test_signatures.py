# SPDX-License-Identifier: Apache-2.0
"""inspect.signature() and help() read every public function, and the stub says the same."""

from __future__ import annotations

import ast
import inspect
import types
from pathlib import Path

import pytest

import dlbridge
from dlbridge import _core

BUILTINS = [name for name in dlbridge.__all__ if isinstance(getattr(dlbridge, name), types.BuiltinFunctionType)]


def test_public_functions_have_signatures() -> None:
    for name in dlbridge.__all__:
        function = getattr(dlbridge, name)
        if callable(function) and not isinstance(function, type):
            assert "..." not in str(inspect.signature(function)) and inspect.getdoc(function), name
    assert {"stage", "stage_many", "pinned_empty", "record_stream", "set_pool_limit"} <= set(BUILTINS)


def test_types_without_constructor_have_no_signature() -> None:
    """A signature would say how to call them; functions make their instances (dict makes those of BuildInfo)."""
    for made in (dlbridge.Tensor, dlbridge.Plan, dlbridge.Future):
        with pytest.raises(TypeError):
            made()
        with pytest.raises(ValueError, match="no signature"):
            inspect.signature(made)


@pytest.mark.parametrize("name", BUILTINS)
def test_stub_has_the_signature(name: str) -> None:
    """Names, kinds and, where the stub gives them, defaults of the parameters. The last overload has them all."""
    stub = ast.parse((Path(_core.__file__).parent / "_core.pyi").read_text())
    said = [node for node in stub.body if isinstance(node, ast.FunctionDef) and node.name == name][-1].args
    found = inspect.signature(getattr(dlbridge, name)).parameters.values()
    by_kind: dict[inspect._ParameterKind, list[str]] = {}
    for parameter in found:
        by_kind.setdefault(parameter.kind, []).append(parameter.name)
    kinds = inspect.Parameter
    for kind, arguments in (
        (kinds.POSITIONAL_ONLY, said.posonlyargs),
        (kinds.POSITIONAL_OR_KEYWORD, said.args),
        (kinds.KEYWORD_ONLY, said.kwonlyargs),
    ):
        assert sorted(argument.arg for argument in arguments) == sorted(by_kind.get(kind, []))
    positional = reversed([*said.posonlyargs, *said.args])  # those without a default come first
    pairs = [
        *zip(positional, reversed(said.defaults), strict=False),
        *zip(said.kwonlyargs, said.kw_defaults, strict=True),
    ]
    defaults = {parameter.name: parameter.default for parameter in found}
    for argument, default in pairs:
        if default is not None and (value := ast.literal_eval(default)) is not ...:
            assert defaults[argument.arg] == value, argument.arg

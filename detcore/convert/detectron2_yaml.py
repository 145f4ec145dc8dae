"""Detectron2's configuration files: YAML, with what its published ones hold besides, and without running code."""

import ast
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: lambda base, exponent: float(base) ** exponent,  # of integers it could take all memory
}


class _Loader(yaml.SafeLoader):
    """Plain YAML, tuples as lists, and the lists of numbers that Detectron2 has `eval` make."""


def _as_list(loader: yaml.SafeLoader, node: yaml.Node) -> list[Any]:
    if not isinstance(node, yaml.SequenceNode):
        raise yaml.YAMLError("a tuple of something else than a list")
    return loader.construct_sequence(node, deep=True)


def _evaluated(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode) and len(node.value) == 1:
        expression = loader.construct_object(node.value[0])
        try:
            return _value(ast.parse(str(expression).strip(), mode="eval").body, {})
        except (SyntaxError, ArithmeticError, RecursionError) as error:
            raise yaml.YAMLError(f"{expression!r} is no list of numbers: {error}") from error
    raise yaml.YAMLError("eval of something else than one text")


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """Lists, arithmetic, and `[… for x in …]`, one in another not."""
    match node:
        case ast.Constant(value=int() | float()):
            return node.value
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_value(part, names) for part in parts]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand, names)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_number(left, names), _number(right, names))
        case ast.ListComp(elt=part, generators=[ast.comprehension(target=ast.Name(id=name), iter=over, ifs=[])]) if (
            not names
        ):
            found = _value(over, names)
            if isinstance(found, list):
                return [_value(part, {name: value}) for value in found]
    raise yaml.YAMLError(f"{ast.unparse(node)!r} is no list of numbers")


def _number(node: ast.expr, names: Mapping[str, Any]) -> int | float:
    value = _value(node, names)
    if not isinstance(value, int | float):
        raise yaml.YAMLError(f"{ast.unparse(node)!r} is no number")
    return value


_Loader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _evaluated)
_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _as_list)


def read_yaml(file: Path) -> dict[str, Any]:
    """The keys of one file; `(1, 2)` and `[1, 2]` in text are lists, as in Detectron2.

    Raises:
        ValueError: it is no YAML, asks for code to be run, or holds no keys.
    """
    try:
        content = _decoded(yaml.load(file.read_text(), _Loader))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is no plain YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is no configuration: it holds no keys")
    return content


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _decoded(own) for key, own in value.items()}
    if isinstance(value, str) and value.startswith(("(", "[")):
        try:
            found = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
        return _listed(found)
    return value


def _listed(value: Any) -> Any:
    return [_listed(own) for own in value] if isinstance(value, tuple | list) else value

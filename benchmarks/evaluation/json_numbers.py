"""Numbers in JSON and back. JSON has no nan, so a number that is not known is null there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

_Kind = TypeVar("_Kind")


def to_json(value: Any) -> Any:
    """The value as JSON can hold it: numbers that are not finite become None, numpy's become Python's, dataclasses
    and mappings become objects."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(inner) for inner in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Path):
        return str(value)
    number = value.item() if hasattr(value, "item") else value
    return None if isinstance(number, float) and not math.isfinite(number) else number


def from_json(kind: type[_Kind], value: Any) -> _Kind:
    """The dataclass that `to_json` made an object of. None becomes nan where the field's type is a plain float.

    Raises:
        KeyError: a field is missing.
        AttributeError, TypeError, ValueError: a value is of another type.
    """
    made: Any = kind
    types = _types(made)
    read = {
        field.name: _value(types[field.name], value[field.name])
        for field in fields(made)
        if field.name in value or field.default is MISSING
    }
    return kind(**read)


@cache
def _types(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _value(kind: Any, value: Any) -> Any:
    if is_dataclass(kind):
        return from_json(kind, value)  # type: ignore[arg-type]
    inner, origin = get_args(kind), get_origin(kind)
    if origin is UnionType:  # a type, or None
        return None if value is None else _value(next(each for each in inner if each is not NoneType), value)
    if kind is float:
        return math.nan if value is None else float(value)
    if kind is int:
        return int(value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {_value(inner[0], key): _value(inner[1], each) for key, each in value.items()}
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return [_value(inner[0], each) for each in value]
    if kind is str and not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value

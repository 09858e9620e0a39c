"""JSON values as annotated dataclasses, checked: an error names the file, the line, the field and the value."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rmjax.errors import UserError


def decode(value: Any, type_: Any, where: str, field: str = "") -> Any:
    """A JSON value as the annotated type, checked. Raises UserError that names file, line, field and value."""
    at = f"{where}: field {field!r}" if field else where
    if dataclasses.is_dataclass(type_):
        return _decode_record(value, type_, where, field)
    origin, args = typing.get_origin(type_), typing.get_args(type_)
    if type_ is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        inner = [a for a in args if a is not type(None)]
        simple = [a for a in inner if typing.get_origin(a) is typing.Literal and value in typing.get_args(a)]
        return decode(value, (simple or inner)[0], where, field)
    if origin is typing.Literal:
        if value not in args:
            raise UserError(f"{at} is {show(value)}; use one of {', '.join(map(repr, args))}")
        return value
    if origin is not None and issubclass(origin, Sequence):
        if not isinstance(value, list):
            raise UserError(f"{at} is {show(value)}; a list is expected")
        if origin is not tuple or args[1:] == (...,):
            return tuple(decode(v, args[0], where, f"{field}[{i}]") for i, v in enumerate(value))
        if len(value) != len(args):
            raise UserError(f"{at} is {show(value)}; a list of {len(args)} is expected")
        return tuple(decode(v, a, where, f"{field}[{i}]") for i, (v, a) in enumerate(zip(value, args, strict=True)))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise UserError(f"{at} is {show(value)}; an object is expected")
        return {k: decode(v, args[1], where, f"{field}.{k}") for k, v in value.items()}
    if type_ is float and type(value) is int and abs(value) < 2**1023:
        value = float(value)
    if type(value) is not type_:
        raise UserError(f"{at} is {show(value)}; {type_.__name__} is expected")
    return value


def _decode_record(value: Any, type_: type, where: str, field: str) -> Any:
    at = f"{where}: field {field!r}" if field else where
    if not isinstance(value, dict):
        raise UserError(
            f"{at if field else at + ': the record'} is {show(value)}; a {type_.__name__} object is expected"
        )
    hints, usual = _hints(type_), defaults(type_)
    for name in value:
        if name not in hints:
            raise UserError(f"{at}: {unknown(name, hints)}")
    for name in hints:
        if name not in value and usual[name] is dataclasses.MISSING:
            raise UserError(f"{at}: the field {name!r} of {type_.__name__} is missing")
    prefix = f"{field}." if field else ""
    return type_(**{name: decode(v, hints[name], where, prefix + name) for name, v in value.items()})


@functools.lru_cache
def _hints(type_: type) -> Mapping[str, Any]:
    return typing.get_type_hints(type_)


def unknown(name: str, names: Iterable[str], what: str = "field") -> str:
    """Says that a name is unknown and which ones are nearest."""
    names = sorted(names)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(names)}"
    return f"unknown {what} {name!r}; {hint}"


def show(value: Any) -> str:
    """A value in one short line, for messages."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (RecursionError, ValueError, TypeError):  # nested too deep, or keys that JSON does not have
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


@functools.lru_cache
def defaults(type_: type) -> Mapping[str, Any]:
    """The default of every field of a dataclass; dataclasses.MISSING where it has none."""

    def default(field: dataclasses.Field) -> Any:
        return field.default_factory() if callable(field.default_factory) else field.default

    return {field.name: default(field) for field in dataclasses.fields(type_)}

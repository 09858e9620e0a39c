"""Finding a data set's schema by its columns, and saying what is wrong with them where none fits."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from rmjax.data.files import Row
from rmjax.data.schemas import Schema, kind
from rmjax.errors import UserError

SAMPLE = 100  # rows that vote on the kind of a column's values


class Column(NamedTuple):
    """The first place a column occurs at, and the commonest kind of its values ("" where all are null)."""

    where: str
    kind: str


def listing(names: Iterable[str]) -> str:
    """Column names in one line."""
    return ", ".join(name if name.isprintable() else repr(name) for name in names) or "none"


def columns_of(rows: Sequence[Row]) -> dict[str, Column]:
    """Every column that some row has."""
    first: dict[str, str] = {}
    kinds: dict[str, Counter] = {}
    for row in rows:
        for name, value in row.value.items():
            first.setdefault(name, row.where)
            votes = kinds.setdefault(name, Counter())
            if votes.total() < SAMPLE and kind(value):
                votes[kind(value)] += 1
    return {name: Column(where, max(kinds[name], key=kinds[name].get, default="")) for name, where in first.items()}


def detect(rows: Sequence[Row], schemas: Sequence[Schema], name: str, path: str) -> Schema:
    """The schema called `name`, or with "auto" the only one that the columns fit. Raises UserError."""
    columns = columns_of(rows)
    if name != "auto":
        schema = next((s for s in schemas if s.name == name), None)
        if schema is None:
            near = difflib.get_close_matches(name, [s.name for s in schemas], n=3, cutoff=0.4)
            known = near or [s.name for s in schemas]
            raise UserError(f"{path}: unknown schema {name!r}; use 'auto' or one of {', '.join(known)}")
        missing = [c for c in schema.required if c not in columns]
        if missing:
            raise UserError(f"{path}: {_missing(schema, missing[0], columns)}")
        _refuse_unknown(schema, columns)
        return schema
    matching = [s for s in schemas if matches(s, columns)]
    fitting = [s for s in matching if columns.keys() <= s.known()]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(s.name for s in fitting)
        raise UserError(f"{path}: the columns fit more than one schema ({names}); choose one with the option `schema`")
    if matching:
        _refuse_unknown(min(matching, key=lambda s: len(columns.keys() - s.known())), columns)
    nearest = max(schemas, key=lambda s: _nearness(s, columns))
    raise UserError(f"{path}: {_mismatch(nearest, columns)}")


def matches(schema: Schema, columns: Mapping[str, Column]) -> bool:
    """Whether the columns that tell a schema are there, with the kinds of values that it needs."""
    kinds = all(c in columns and schema.takes(c, columns[c].kind) for c in schema.required)
    return kinds and all(mark in columns for mark in schema.marks)


def _refuse_unknown(schema: Schema, columns: Mapping[str, Column]) -> None:
    unknown = [name for name in columns if name not in schema.known()]
    if unknown:
        near = difflib.get_close_matches(unknown[0], sorted(schema.known() - columns.keys()), n=3, cutoff=0.6)
        meant = f"did you mean {' or '.join(map(repr, near))}? If not, " if near else ""
        more = f" (and {len(unknown) - 1} more: {listing(unknown[1:])})" if len(unknown) > 1 else ""
        raise UserError(
            f"{columns[unknown[0]].where}: unknown column {unknown[0]!r}{more} in schema {schema.name!r}; "
            f"{meant}list what is to be left out in the option `ignore`"
        )


def _nearness(schema: Schema, columns: Mapping[str, Column]) -> tuple[int, int, int]:
    """How near a schema that does not match is: right columns and similar names, of those that it asks for."""
    asked = (*schema.required, *schema.marks)
    have = sum(schema.takes(c, columns[c].kind) for c in schema.required if c in columns)
    have += sum(c in columns for c in schema.marks)
    similar = sum(bool(difflib.get_close_matches(c, columns, n=1, cutoff=0.6)) for c in asked)
    return have + similar - 2 * len(asked), have, -len(columns.keys() - schema.known())


def _mismatch(schema: Schema, columns: Mapping[str, Column]) -> str:
    missing = [c for c in (*schema.required, *schema.marks) if c not in columns]
    if missing:
        return _missing(schema, missing[0], columns)
    name, kinds = next((c, k) for c, k in schema.required.items() if not schema.takes(c, columns[c].kind))
    found = columns[name].kind or "null"
    return f"column {name!r} holds {found}; schema {schema.name!r}, the nearest, needs {' or '.join(kinds)}"


def _missing(schema: Schema, name: str, columns: Mapping[str, Column]) -> str:
    near = difflib.get_close_matches(name, sorted(columns.keys() - schema.known()), n=3, cutoff=0.4)
    meant = f"did you mean {' or '.join(map(repr, near))} by it? " if near else ""
    return (
        f"columns ({listing(columns)}) lack {name!r} of schema {schema.name!r}, the nearest; {meant}"
        f"rename it, or map it with the option `columns`"
    )

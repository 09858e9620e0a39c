"""Labelled pairs and demonstrations from files, in any of the schemas of `schemas.py`, by written policies.

A policy is "error" (the run stops and names file, line and field) or "drop" (the row is left out, and counted):

    invalid     a line that is no JSON object, a field that is missing or of the wrong type, a number that is not
                finite or out of its range, two conversations with different prompts
    empty       an answer without a visible character
    identical   two equal answers
    duplicate   the same pair as an earlier one, with the same id (or both without)

An unknown column and an id used for two different pairs are always errors.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from rmjax.data import files
from rmjax.data.detection import detect, listing
from rmjax.data.fields import Fields
from rmjax.data.schemas import DEMONSTRATIONS, PREFERENCES, Schema
from rmjax.errors import UserError
from rmjax.records import Demonstration, Preference

Policy = Literal["error", "drop"]


@dataclasses.dataclass(frozen=True)
class Source:
    """What was read: records in the file's order, the schema found, how many were dropped and why, the file's hash."""

    records: list[Any]  # `Preference`s; of `read_responses` `Demonstration`s
    schema: str
    dropped: Mapping[str, int]
    hash: str
    path: str

    def summary(self) -> str:
        """One line for the terminal."""
        lost = ", ".join(f"{n} {reason}" for reason, n in self.dropped.items()) or "none"
        return f"{self.path}: schema {self.schema}, {len(self.records)} records, dropped: {lost}"


def read_preferences(
    path: str | os.PathLike,
    *,
    schema: str = "auto",
    columns: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
    invalid: Policy = "error",
    empty: Policy = "error",
    identical: Policy = "error",
    duplicate: Policy = "error",
    limit: int | None = None,
) -> Source:
    """Reads labelled pairs; one row may give several (lists of answers, rankings).

    `columns` maps a schema's column to the file's name for it; `ignore` names columns to leave out; `limit` stops
    after so many records. Raises UserError.
    """
    policies = {"invalid": invalid, "empty": empty, "identical": identical, "duplicate": duplicate}
    return Source(*_read(path, PREFERENCES, schema, columns or {}, ignore, policies, limit), path=os.fspath(path))


def read_demonstrations(
    path: str | os.PathLike,
    *,
    schema: str = "auto",
    columns: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
    limit: int | None = None,
) -> list[Demonstration]:
    """Reads prompts with the completion to imitate; every fault is an error. Options as in `read_preferences`."""
    policies = {"invalid": "error", "empty": "error", "duplicate": "error"}
    return _read(path, DEMONSTRATIONS, schema, columns or {}, ignore, policies, limit).records


def read_responses(path: str | os.PathLike) -> Source:
    """Reads a policy's completions, any number to a prompt. It may have said the same twice: repeats are dropped.

    Raises UserError, as `read_demonstrations` does.
    """
    policies = {"invalid": "error", "empty": "error", "duplicate": "drop"}
    return Source(*_read(path, DEMONSTRATIONS, "auto", {}, (), policies, None), path=os.fspath(path))


class _Reading(NamedTuple):
    records: list[Any]
    schema: str
    dropped: Mapping[str, int]
    hash: str


def _read(
    path: str | os.PathLike,
    schemas: Sequence[Schema],
    name: str,
    columns: Mapping[str, str],
    ignore: Sequence[str],
    policies: Mapping[str, Policy],
    limit: int | None,
) -> _Reading:
    for reason, policy in policies.items():
        if policy not in ("error", "drop"):
            raise UserError(f"{reason}={policy!r}: use 'error' or 'drop'")
    if limit is not None and limit < 1:
        raise UserError(f"limit={limit}: give a number above 0, or leave it out for all records")
    table = files.load(path)
    rows = [row for row in table.rows if row.error is None]
    if not rows:
        raise next((r.error for r in table.rows), None) or UserError(f"{path}: holds no record; check the file")
    ours = renamed(rows, columns, ignore, str(path))
    schema = detect(ours, schemas, name, str(path))
    prepared = iter(ours)
    records: list[Any] = []
    dropped: Counter[str] = Counter()
    seen: dict[str, tuple[str, Any]] = {}

    def put_aside(reason: str, error: UserError) -> None:
        if policies[reason] == "error":
            raise error
        dropped[reason] += 1

    for row in table.rows:
        if limit is not None and len(records) >= limit:
            break
        try:
            if row.error is not None:
                raise row.error
            found = _records(schema, next(prepared))
        except UserError as error:
            put_aside("invalid", error)
            continue
        for record in found:
            fault = _fault(record, row.where, seen)
            if fault:
                put_aside(*fault)
            else:
                seen[record.id] = (row.where, record)
                records.append(record)
    if not records:
        raise UserError(f"{path}: nothing is left: {dict(dropped)} were dropped; check the file and the policies")
    return _Reading(records[:limit], schema.name, dict(dropped), table.hash)


def renamed(rows: Sequence[files.Row], columns: Mapping[str, str], ignore: Sequence[str], path: str) -> list[files.Row]:
    """Rows with the schema's names of columns, without those to leave out. Raises UserError."""
    present = {name for row in rows for name in row.value}
    for name in columns.values():
        if name not in present:
            raise UserError(f"{path}: no column {name!r} to map; columns: {listing(sorted(present))}")
    own = {theirs: name for name, theirs in columns.items()}
    taken = present.intersection(columns) - set(ignore) - set(columns.values())
    if taken:
        raise UserError(f"{path}: column {min(taken)!r} exists beside the one mapped to it; list it in `ignore`")
    return [row._replace(value={own.get(n, n): v for n, v in row.value.items() if n not in ignore}) for row in rows]


def _records(schema: Schema, row: files.Row) -> list[Any]:
    found = list(schema.read(Fields(row.where, row.value)))
    if not found:
        raise UserError(f"{row.where}: all completions have the same rank, so there is no pair")
    return found


def _fault(
    record: Preference | Demonstration, where: str, seen: Mapping[str, tuple[str, Any]]
) -> tuple[str, UserError] | None:
    drop = lambda reason: f", or set {reason}='drop'" if isinstance(record, Preference) else ""
    answers = dict(_answers(record))
    for name, text in answers.items():
        if not text.strip():
            return "empty", UserError(f"{where}: field {name!r} is empty; mend it, take the row out{drop('empty')}")
    if len(answers) > 1 and len(set(answers.values())) == 1:
        return "identical", UserError(
            f"{where}: 'chosen' and 'rejected' are identical; take the row out{drop('identical')}"
        )
    if record.id in seen:
        earlier, other = seen[record.id]
        if dict(_answers(other)) != answers or other.prompt != record.prompt:
            raise UserError(f"{where}: id {record.id!r} was used at {earlier} for another record; ids must differ")
        return "duplicate", UserError(f"{where}: the same record as {earlier}; take it out{drop('duplicate')}")
    return None


def _answers(record: Preference | Demonstration) -> Iterator[tuple[str, str]]:
    for name in ("chosen", "rejected", "completion"):
        if hasattr(record, name):
            yield name, getattr(record, name)

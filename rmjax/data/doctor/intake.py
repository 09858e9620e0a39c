"""Pairs as they are, broken ones too: what cannot be read is counted with its line, and nothing else is refused."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rmjax.data import files
from rmjax.data.detection import columns_of, detect, matches
from rmjax.data.fields import Fields
from rmjax.data.schemas import PREFERENCES
from rmjax.data.sources import renamed
from rmjax.errors import UserError
from rmjax.records import Preference


class Fault(NamedTuple):
    """A line that gave no pair, and why."""

    where: str
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Intake:
    """The pairs of a file, each with the line that it is from."""

    path: str
    schema: str
    hash: str
    records: Sequence[Preference]
    where: Sequence[str]  # file and line of each
    faults: Sequence[Fault] = ()
    left_out: Sequence[str] = ()  # columns that the schema does not know


def read(
    path: str | os.PathLike,
    *,
    schema: str = "auto",
    columns: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
) -> Intake:
    """Reads every pair that can be read, empty, equal and repeated ones too.

    Args: as in `sources.read_preferences`, but a column that the schema does not know is left out and named.

    Raises:
        UserError: no such file, no schema that the columns fit, or no line that gives a pair.
    """
    table = files.load(path)
    rows = [row for row in table.rows if row.error is None]
    if not rows:
        raise next((r.error for r in table.rows), None) or UserError(f"{path}: holds no record; check the file")
    rows = renamed(rows, columns or {}, ignore, str(path))
    found = columns_of(rows)
    fitting = [s for s in PREFERENCES if (s.name == schema if schema != "auto" else matches(s, found))]
    unknown: list[str] = []
    if fitting:
        known = min((s.known() for s in fitting), key=lambda names: len(found.keys() - names))
        unknown = [name for name in found if name not in known]
        rows = [row._replace(value={n: v for n, v in row.value.items() if n not in unknown}) for row in rows]
    chosen = detect(rows, PREFERENCES, schema, str(path))
    prepared = iter(rows)
    records: list[Preference] = []
    where: list[str] = []
    faults: list[Fault] = []
    for row in table.rows:
        try:
            if row.error is not None:
                raise row.error
            pairs = list(chosen.read(Fields(row.where, next(prepared).value)))
            if not pairs:
                raise UserError(f"{row.where}: all completions have the same rank, so there is no pair")
        except UserError as error:
            faults.append(Fault(row.where, str(error).removeprefix(f"{row.where}: ")))
            continue
        records += pairs
        where += [row.where] * len(pairs)
    if not records:
        raise UserError(f"{path}: no line gives a pair; the first: {faults[0].where}: {faults[0].why}")
    return Intake(
        path=str(path),
        schema=chosen.name,
        hash=table.hash,
        records=records,
        where=where,
        faults=faults,
        left_out=unknown,
    )

"""Rows of data files, each with where it came from: .jsonl, .jsonl.gz, .json, .parquet, and data sets of the hub."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rmjax import jsonl
from rmjax.errors import UserError

HUB = "hub:"
SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".json", ".json.gz", ".parquet")


class Row(NamedTuple):
    """A row, or the error that reading it gave; `where` names file and line."""

    where: str
    value: dict[str, Any]
    error: UserError | None = None


class Table(NamedTuple):
    """All rows of a file, and the hash of its content (16 hex digits)."""

    rows: list[Row]
    hash: str


def load(path: str | os.PathLike) -> Table:
    """Reads a file, or "hub:owner/name" or "hub:owner/name:split" (downloaded). Raises UserError."""
    text = os.fspath(path)
    if text.startswith(HUB):
        return _hub(text)
    if os.path.isdir(text):
        raise UserError(f"{text}: is a directory; name one file ({', '.join(SUFFIXES)})")
    if not os.path.exists(text):
        hint = f"; for a data set of the hub write {HUB}{text}" if text.count("/") == 1 and "." not in text else ""
        raise UserError(f"{text}: no such file; check the path{hint}")
    if not text.endswith(SUFFIXES):
        hint = "; docs/data.md says how to turn CSV into .jsonl" if text.lower().endswith((".csv", ".tsv")) else ""
        raise UserError(f"{text}: unknown kind of file; use {', '.join(SUFFIXES)}{hint}")
    if text.endswith(".parquet"):
        rows = list(_parquet(text))
    elif text.endswith((".json", ".json.gz")) and _first_byte(text) == b"[":
        rows = list(_array(text))
    else:
        rows = list(_lines(text))
    return Table(rows, content_hash(text))


def content_hash(path: str | os.PathLike) -> str:
    """The first 16 hex digits of the SHA-256 of a file's bytes."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def _row(where: str, value: Any) -> Row:
    if isinstance(value, dict):
        return Row(where, value)
    return Row(where, {}, UserError(f"{where}: {type(value).__name__} found; a JSON object per record is expected"))


def _lines(path: str) -> Iterator[Row]:
    for number, text in jsonl.raw_lines(path):
        where = f"{path}:{number}"
        try:
            yield _row(where, jsonl.parse(text, where))
        except UserError as error:
            yield Row(where, {}, error)


def _first_byte(path: str) -> bytes:
    return next((text.lstrip()[:1] for _, text in jsonl.raw_lines(path)), b"")


def _array(path: str) -> Iterator[Row]:
    value = jsonl.parse(b"".join(text for _, text in jsonl.raw_lines(path)), path)
    for number, item in enumerate(value, 1):
        yield _row(f"{path}: item {number}", item)


def _parquet(path: str) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        items = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a readable parquet file ({reason}); write it again") from None
    for number, item in enumerate(items, 1):
        yield _row(f"{path}: row {number}", item)


def _hub(text: str) -> Table:
    import datasets

    name, _, split = text.removeprefix(HUB).partition(":")
    try:
        found = datasets.load_dataset(name, split=split or None)
    except Exception as error:  # the hub's client raises many types; the user needs the one line
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{text}: cannot be loaded from the hub ({reason}); check the name and the split") from None
    if isinstance(found, datasets.DatasetDict):
        if len(found) > 1:
            raise UserError(f"{text}: has the splits {', '.join(found)}; write {HUB}{name}:SPLIT")
        found = next(iter(found.values()))
    rows = [_row(f"{text}: row {number}", item) for number, item in enumerate(found, 1)]
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row.value, sort_keys=True, default=str).encode())
    return Table(rows, digest.hexdigest()[:16])

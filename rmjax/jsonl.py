"""Records as JSON lines: typed reading, whole writing, and appending that survives a kill or a full disk."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import gzip
import io
import json
import math
import os
import tempfile
import typing
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rmjax import distributed
from rmjax.decoding import decode, defaults
from rmjax.errors import UserError

T = TypeVar("T")


def read(path: str | os.PathLike, type_: type[T]) -> list[T]:
    """Reads every record of a .jsonl or .jsonl.gz file. Raises UserError with file, line and field."""
    return [decode(row, type_, f"{path}:{number}") for number, row in lines(path)]


def write(path: str | os.PathLike, records: Iterable[Any]) -> None:
    """Writes a file whole: it holds either what it held before or all the records, whenever the process is killed.

    The same records give the same bytes, .jsonl.gz included. Raises UserError (unwritable place, full disk, NaN).
    """
    path = Path(path)
    with writing(path), replacing(path) as file, _compressed(file, path) as out:
        for record in records:
            out.write(encode(record, path))


def lines(path: str | os.PathLike) -> Iterator[tuple[int, Any]]:
    """Yields (line number, JSON value) for every line that is not blank. Raises UserError."""
    for number, text in raw_lines(path):
        yield number, parse(text, f"{path}:{number}")


def raw_lines(path: str | os.PathLike) -> Iterator[tuple[int, bytes]]:
    """Yields (line number, bytes) for every line that is not blank; only \\n ends a line. Raises UserError."""
    path = Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if text.strip():
                    yield number, text
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {_neighbours(path)}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({_reason(error)}); check or copy the file again") from None


def parse(text: bytes, where: str, *, mend: str = "one JSON object per line is expected") -> Any:
    """One JSON value. Raises UserError for what is not UTF-8 JSON, NaN, infinity, a repeated key, a lone surrogate."""
    try:
        value = json.loads(text.decode(), parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique)
        if b"\\u" in text:  # the one way in which JSON can hold text that is not Unicode
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise UserError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        short = " ".join(str(error).split())
        raise UserError(f"{where}: not valid JSON ({short}); {mend}") from None
    return value


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number that can be used")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} occurs twice in one object")
    return out


def encode(record: Any, path: str | os.PathLike) -> bytes:
    """One record as one line of UTF-8. Fields at their default are left out. Raises UserError where a value is NaN."""
    try:
        # floats are written in the shortest form that reads back to the same double, hence to the same float32
        return json.dumps(_fields(record), ensure_ascii=False, allow_nan=False, default=_plain).encode() + b"\n"
    except (ValueError, TypeError, RecursionError) as error:
        name = getattr(record, "id", getattr(record, "item", ""))
        raise UserError(f"{path}: record {name!r} cannot be written: {error}") from None


def _fields(record: Any) -> Any:
    if not dataclasses.is_dataclass(record):
        return record
    values = {name: getattr(record, name) for name in defaults(type(record))}
    return {k: v for k, v in values.items() if type(v) is not type(d := defaults(type(record))[k]) or v != d}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return _fields(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is not JSON")


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)


def _neighbours(path: Path) -> str:
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else "check the path"


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turns what the disk refuses (full, read-only, no permission) into a UserError that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({_reason(error)}); what was written before is kept: make room or choose "
            f"another place, then run the same command again"
        ) from None


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[typing.BinaryIO]:
    """A binary file that takes the place of `path` only when the block ends well: fsync, then rename.

    In a process that writes no files (`distributed.writes`) it is in memory, and goes.
    """
    if not distributed.writes():
        yield io.BytesIO()
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _compressed(file: typing.BinaryIO, path: Path) -> contextlib.AbstractContextManager[typing.BinaryIO]:
    if path.suffix == ".gz":  # no name and no time inside, so that the same records give the same bytes
        return gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0)
    return contextlib.nullcontext(file)


class Appender:
    """Appends records to a .jsonl file, one line each; what `append` returned from survives a kill of the process.

    On opening, a torn last line (a kill or a full disk in the middle of a write) is cut off, and `existing` holds the
    records that are there. The disk itself is synchronised every `sync_every` records and on closing. In a process that
    writes no files (`distributed.writes`) nothing is appended, and `existing` is empty.
    """

    def __init__(self, path: str | os.PathLike, type_: type[T], *, sync_every: int = 64):
        self.path = Path(path)
        if self.path.suffix == ".gz":
            raise UserError(f"{path}: a compressed file cannot be appended to; use .jsonl")
        self._type = type_
        self._every = sync_every
        self._unsynced = 0
        self._writes = distributed.writes()
        self.existing: list[T] = []
        if not self._writes:
            return
        with writing(path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 (closed by close)
            self._end = _whole(self._file)
            self._file.truncate(self._end)
        try:
            self.existing = read(path, type_)
        except UserError:
            self._file.close()
            raise

    def append(self, record: T) -> None:
        """Writes one record. Raises UserError where the disk is full; the file then ends with the record before."""
        if not isinstance(record, self._type):
            raise TypeError(f"{type(record).__name__} appended to a file of {self._type.__name__}")
        line = encode(record, self.path)
        if not self._writes:
            return
        with writing(self.path):
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                self._file.truncate(self._end)
                raise
            self._end += len(line)
            self._unsynced += 1
            if self._unsynced >= self._every:
                self.sync()

    def sync(self) -> None:
        """Waits until everything appended is on the disk itself."""
        with writing(self.path):
            os.fsync(self._file.fileno())
        self._unsynced = 0

    def close(self) -> None:
        """Synchronises and closes; a second call does nothing."""
        if self._writes and not self._file.closed:
            try:
                self.sync()
            finally:
                self._file.close()

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _whole(file: io.FileIO) -> int:
    """The length of a file up to its last newline."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - (1 << 16))
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0

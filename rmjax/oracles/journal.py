"""Votes on disk, one line each, there before anybody is told of them: a killed run never asks or pays twice."""

from __future__ import annotations

import dataclasses
import fcntl
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from rmjax import jsonl
from rmjax.decoding import decode
from rmjax.errors import UserError
from rmjax.records import Choice, Pair, Vote, content_id


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry(Vote):
    """One line of a votes file: a vote, or, where `withdrawn`, the end of the one before it on the same pair."""

    content: str  # hash of the pair's prompt and answers, in order, when the vote was given
    swapped: bool = False  # the second answer was shown first
    withdrawn: bool = False


class Journal:
    """The votes of one annotator or oracle in a file that only grows.

    Every line is on the disk itself (fsync) when the method that writes it returns; a torn last line (a kill in the
    middle of it) is cut off when the file is opened again. It is locked until it is closed or the process ends.

    Attributes:
      standing: pair id -> its vote that was not withdrawn, in the order in which they were given.
    """

    def __init__(self, path: Path, *, by: str):
        """Opens or resumes a file.

        Raises:
          UserError: the file cannot be read or written, is another run's now, or holds votes of somebody else.
        """
        self._lock = _lock(path)
        try:
            self._appender = jsonl.Appender(path, Entry, sync_every=1)
        except BaseException:
            self._lock.close()
            raise
        self.standing: dict[str, Entry] = {}
        for entry in self._appender.existing:
            if entry.by != by:
                self.close()
                raise UserError(f"{path}: holds votes by {entry.by!r}, not by {by!r}: choose another name or file")
            _count(self.standing, entry)

    def add(self, entry: Entry) -> None:
        """Writes a line. Raises UserError where the disk is full; nothing has changed then."""
        self._appender.append(entry)
        _count(self.standing, entry)

    def close(self) -> None:
        """Closes the file and lets others have it; a second call does nothing."""
        self._appender.close()
        self._lock.close()


def _lock(path: Path) -> BinaryIO:
    """The file, locked: two writers would ask for the same votes twice."""
    with jsonl.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise UserError(f"{path}: another run is writing votes here: end that run or choose another name") from None
    return file


def require_on(pairs: Iterable[Pair], votes: Iterable[Entry], path: Path) -> None:
    """Raises UserError where a vote of the file `path` is on none of these pairs, or on other texts of the same id."""
    content = {pair.id: content_of(pair) for pair in pairs}
    for vote in votes:
        if vote.item not in content:
            raise UserError(f"{path}: holds a vote on {vote.item!r}, which is not among the pairs: take the file away")
        if vote.content != content[vote.item]:
            raise UserError(
                f"{path}: the vote on {vote.item!r} was given on other texts, or on the same ones in another order: "
                "give every pair its own id, or start another file"
            )


def standing_votes(path: Path) -> list[Entry]:
    """The votes of a file that somebody may be writing to: a last line that is not whole yet is left alone.

    Raises:
      UserError: a line that is no vote.
    """
    standing: dict[str, Entry] = {}
    for number, line in jsonl.raw_lines(path):
        if line.endswith(b"\n"):
            where = f"{path}:{number}"
            _count(standing, decode(jsonl.parse(line, where), Entry, where))
    return list(standing.values())


def _count(standing: dict[str, Entry], entry: Entry) -> None:
    standing.pop(entry.item, None)  # a later vote goes to the end
    if not entry.withdrawn:
        standing[entry.item] = entry


def content_of(pair: Pair) -> str:
    """The hash of what was compared."""
    return content_id(pair.prompt, pair.first, pair.second)


def entry_of(vote: Vote, pair: Pair) -> Entry:
    """A vote as a line of the journal."""
    return Entry(**{f.name: getattr(vote, f.name) for f in dataclasses.fields(Vote)}, content=content_of(pair))


def turned(choice: Choice) -> Choice:
    """The same choice with the two answers the other way round."""
    return {"first": "second", "second": "first"}.get(choice, choice)

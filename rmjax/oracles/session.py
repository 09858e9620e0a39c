"""One person's labelling of pairs: what is shown next, what was said, undo. Terminal and page share it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rmjax.errors import UserError
from rmjax.oracles.blind import swapped
from rmjax.oracles.journal import Entry, Journal, content_of, require_on, turned
from rmjax.records import Messages, Pair, Vote

Said = Literal["1", "2", "tie", "unknown"]  # 1: the answer that was shown first
SAID: tuple[Said, ...] = ("1", "2", "tie", "unknown")
NAME = re.compile(r"\w[\w.-]{0,63}")
LONGEST = 86_400.0  # seconds: more was a page left open, not thought


@dataclasses.dataclass(frozen=True)
class View:
    """A pair as it is shown: nothing in it tells where either answer came from, its id neither."""

    number: int  # of the pair in its file, from 0
    prompt: Messages
    answers: tuple[str, str]  # in the order of this annotator


class Stale(Exception):
    """What was said is about a pair that is not the one to be labelled now: another window was faster."""


class Session:
    """Labels pairs in the order of the file: the next one is the first without a standing vote.

    All annotators get the same order, so that what two of them have begun overlaps, and a file that was sorted by what
    is worth labelling is labelled from the top. Which answer is shown first is drawn by (seed, annotator, pair): the
    same after a restart, another one for another annotator.
    """

    def __init__(self, pairs: Sequence[Pair], path: Path, *, by: str, seed: int = 0):
        """Opens or resumes.

        Args:
          pairs: with distinct ids.
          path: votes file of this annotator.
          by: the annotator's name: letters, digits, `.`, `_`, `-`.
          seed: of the order in which the two answers are shown.

        Raises:
          UserError: an impossible name, no pairs, ids that repeat, a file that is in use, that is another annotator's,
            or that holds votes on other pairs.
        """
        if not NAME.fullmatch(by):
            raise UserError(f"--by {by!r}: give a name of letters, digits, '.', '_' or '-', at most 64 of them")
        if not pairs:
            raise UserError("no pairs to label: give a file that has some")
        self.pairs, self.by, self.seed = tuple(pairs), by, seed
        self._number = {pair.id: i for i, pair in enumerate(self.pairs)}
        if len(self._number) < len(self.pairs):
            twice = next(p.id for i, p in enumerate(self.pairs) if self._number[p.id] != i)
            raise UserError(f"pair id {twice!r} repeats: give every pair its own id")
        self._journal = Journal(path, by=by)
        try:
            require_on(self.pairs, self.votes, path)
        except UserError:
            self._journal.close()
            raise

    @property
    def total(self) -> int:
        return len(self.pairs)

    @property
    def done(self) -> int:
        """Pairs with a standing vote."""
        return len(self._journal.standing)

    @property
    def votes(self) -> list[Entry]:
        """The standing votes, in the order in which they were given."""
        return list(self._journal.standing.values())

    @property
    def current(self) -> View | None:
        """The pair to label now; None where all are labelled."""
        for number, pair in enumerate(self.pairs):
            if pair.id not in self._journal.standing:
                answers = (pair.second, pair.first) if self._swapped(pair) else (pair.first, pair.second)
                return View(number, pair.prompt, answers)
        return None

    @property
    def last(self) -> int | None:
        """Number of the pair that `undo` would take back."""
        return self._number[next(reversed(self._journal.standing))] if self._journal.standing else None

    def vote(self, number: int, said: Said, *, seconds: float = 0.0) -> None:
        """Writes a vote on the current pair; it is on disk when this returns.

        The same said again of a pair that has it is taken once: whoever did not hear the answer may repeat it.

        Raises:
          Stale: the pair is not the current one.
          UserError: the disk is full.
          ValueError: no such pair or choice, or seconds that are no time.
        """
        if not 0 <= number < self.total:
            raise ValueError(f"there is no pair {number}")
        if said not in SAID:
            raise ValueError(f"{said!r} is not one of {', '.join(SAID)}")
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"{seconds} is no time in seconds")
        pair = self.pairs[number]
        other_first = self._swapped(pair)
        choice = {"1": "first", "2": "second"}.get(said, said)
        choice = turned(choice) if other_first else choice
        standing = self._journal.standing.get(pair.id)
        if standing is not None and standing.choice == choice:
            return
        current = self.current
        if current is None or current.number != number:
            raise Stale
        vote = Vote(item=pair.id, choice=choice, by=self.by, seconds=round(min(float(seconds), LONGEST), 2))
        self._journal.add(Entry(**dataclasses.asdict(vote), content=content_of(pair), swapped=other_first))

    def undo(self, number: int) -> None:
        """Takes back the vote on the pair that was labelled last; it is then, as a rule, the current one.

        Asked again, it does nothing. Raises Stale where the pair has a vote that is not the last one, ValueError where
        there is no such pair, UserError where the disk is full.
        """
        if not 0 <= number < self.total:
            raise ValueError(f"there is no pair {number}")
        standing = self._journal.standing.get(self.pairs[number].id)
        if standing is None:
            return
        if number != self.last:
            raise Stale
        self._journal.add(dataclasses.replace(standing, withdrawn=True))

    def close(self) -> None:
        """Closes the file and lets others have it."""
        self._journal.close()

    def _swapped(self, pair: Pair) -> bool:
        return swapped(self.seed, pair.id, f"shown to {self.by}")

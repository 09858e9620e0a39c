"""The host's table of slots: which sample each one holds, what it has drawn so far, and who is next.

A row holds one request's prompt. Its free slots take the request's remaining samples; when none remain and all slots
are free, the next request takes the row.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from rmjax.sampling.draws import id_words
from rmjax.sampling.engine import Drawn, Slots


@dataclasses.dataclass(frozen=True)
class Job:
    """Samples of one request that go through one row."""

    id: str
    prompt: Sequence[int]
    indices: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Sample:
    """A completion as it was drawn: [t] tokens, [t] log-probabilities, [t, w] of the watched ids."""

    id: str
    index: int
    tokens: np.ndarray
    logps: np.ndarray
    watched: np.ndarray
    stopped: bool  # by a stop id


class Table:
    """Slots [p, g] over a queue of jobs."""

    def __init__(self, rows: int, slots: int, jobs: Sequence[Job]) -> None:
        self._queue = deque(jobs)
        self._jobs: list[Job | None] = [None] * rows
        self._waiting: list[deque[int]] = [deque() for _ in range(rows)]
        self._ids = np.zeros((rows, 2), np.uint32)
        self._index = np.zeros((rows, slots), np.int32)
        self._fresh = np.zeros((rows, slots), bool)
        self._idle = np.ones((rows, slots), bool)
        self._lengths = np.zeros((rows, slots), np.int32)  # tokens drawn of the sample that a slot holds
        self._pieces: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}

    @property
    def busy(self) -> int:
        """Slots that hold a sample."""
        return int((~self._idle).sum())

    @property
    def waiting(self) -> bool:
        """Whether samples wait for a slot."""
        return bool(self._queue) or any(self._waiting)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens drawn of each sample that a slot holds."""
        return self._lengths[~self._idle]

    def enter(self) -> list[tuple[int, Job]]:
        """Gives free rows their next jobs: (row, job) of those whose prompt is to be read."""
        read = []
        for row, waiting in enumerate(self._waiting):
            if self._queue and not waiting and self._idle[row].all():
                job = self._queue.popleft()
                self._jobs[row], self._ids[row] = job, id_words(job.id)
                waiting.extend(job.indices)
                read.append((row, job))
        return read

    def seat(self) -> Slots:
        """Gives free slots their next samples: what to tell the device before a round."""
        self._fresh[:] = False
        for row, waiting in enumerate(self._waiting):
            for slot in np.flatnonzero(self._idle[row])[: len(waiting)] if waiting else ():
                self._index[row, slot] = waiting.popleft()
                self._fresh[row, slot], self._idle[row, slot] = True, False
                self._lengths[row, slot] = 0
                self._pieces[row, slot] = []
        return Slots(*(x.copy() for x in (self._ids, self._index, self._fresh, self._idle)))

    def collect(self, drawn: Drawn, ended: Callable[[np.ndarray, int], bool] | None = None) -> list[Sample]:
        """Takes a round's tokens (numpy) and frees the slots whose samples are complete.

        Args:
            drawn: of the round.
            ended: (tokens so far, how many are new) -> whether the host ends a sample that the device would go on with.

        Returns:
            The complete samples.
        """
        complete = []
        # slots first, so that one slot's tokens lie together
        tokens, logps, watched = (np.moveaxis(x, 0, 2).copy() for x in (drawn.tokens, drawn.logps, drawn.watched))
        for row, slot in zip(*np.nonzero(~self._idle), strict=True):
            count = int(drawn.counts[row, slot])
            pieces = self._pieces[row, slot]
            pieces.append((tokens[row, slot, :count], logps[row, slot, :count], watched[row, slot, :count]))
            self._lengths[row, slot] += count
            done = bool(drawn.done[row, slot])
            if not done and ended is not None:
                done = ended(np.concatenate([piece[0] for piece in pieces]), count)
            if done:
                job = self._jobs[row]
                parts = (np.concatenate(x) for x in zip(*pieces, strict=True))
                stopped = bool(drawn.stopped[row, slot])
                complete.append(Sample(job.id, int(self._index[row, slot]), *parts, stopped))
                self._idle[row, slot] = True
                del self._pieces[row, slot]
        return complete

"""How far a run is: a bar with tokens per second and time left, or a line now and then where there is no terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 30.0  # seconds between lines


class Meter:
    """Counts samples and tokens; shows them unless quiet."""

    def __init__(self, label: str, samples: int, *, quiet: bool, console: Console | None = None) -> None:
        self._label = label
        self._samples = samples
        self._console = console or Console(stderr=True)
        self._lines = not quiet and not self._console.is_terminal
        self._tokens = self._finished = 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed]} tokens/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            refresh_per_second=4,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._progress.add_task(label, total=samples, speed="-")

    def __enter__(self) -> Meter:
        self._begin = self._shown = time.monotonic()
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def update(self, tokens: int, finished: int, share: float) -> None:
        """Counts a round.

        Args:
            tokens: drawn in it.
            finished: samples that it completed.
            share: of the samples under way, roughly how many they are worth (half done counts as a half).
        """
        self._tokens += tokens
        self._finished += finished
        now = time.monotonic()
        speed = self._tokens / max(now - self._begin, 1e-9)
        done = min(self._finished + share, self._samples)
        self._progress.update(self._task, completed=done, speed=f"{speed:,.0f}")
        if self._lines and now - self._shown >= EVERY:
            self._shown = now
            left = (now - self._begin) * (self._samples - done) / max(done, 1e-9)
            counts = f"{self._finished} of {self._samples} samples"
            self._console.print(f"{self._label}: {counts}, {speed:,.0f} tokens/s, {left:,.0f} s left", highlight=False)

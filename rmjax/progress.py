"""How far a run is: a bar with tokens per second and time left; without a terminal, a line now and then."""

from __future__ import annotations

import time
import weakref
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rmjax import distributed

SHORT = 2.0  # seconds before anything is shown
EVERY = 15.0  # seconds between lines


class Tally:
    """Tokens that this process has sampled and trained on; one who watches is told of every change.

    Whoever counts notes the numbers at the start and takes the difference: runs one after the other share the tally.
    The watcher is held weakly, so that a run that failed is told of nothing that comes after it. One thread adds.
    """

    def __init__(self) -> None:
        self.sampled = self.trained = 0
        self.watcher: weakref.WeakMethod | None = None

    def add(self, *, sampled: int = 0, trained: int = 0) -> None:
        """Counts tokens."""
        self.sampled += sampled
        self.trained += trained
        tell = self.watcher and self.watcher()
        if tell:
            tell()


TALLY = Tally()  # of the process: whoever samples or trains adds to it, and run.json says what a run spent


class Meter:
    """Counts what finishes, and the tokens it took; shows them unless quiet."""

    def __init__(
        self, label: str, total: int, unit: str, *, start: int = 0, quiet: bool, console: Console | None = None
    ) -> None:
        """
        Args:
            total: how many units there are, those finished before included.
            unit: what is counted, in the plural.
            start: units finished before.
        """
        self._label, self._total, self._unit = label, total, unit
        self._start = self._finished = start
        self._console = console or Console(stderr=True)
        self._quiet = quiet or distributed.index() > 0
        self._bar: Progress | None = None
        self._tokens = 0

    def __enter__(self) -> Meter:
        self._begin = self._shown = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, finished: int, tokens: int, *, share: float = 0.0, note: str = "") -> None:
        """Counts.

        Args:
            finished: units since the last call.
            tokens: since the last call.
            share: how many units those under way are worth (half done counts as a half).
            note: shown after the count.
        """
        self._finished += finished
        self._tokens += tokens
        now = time.monotonic()
        elapsed = now - self._begin
        if self._quiet or elapsed < SHORT:
            return
        done = min(self._finished + share, self._total)
        count = f"{self._finished} of {self._total} {self._unit}"
        text = ", ".join([count, *([note] if note else ()), f"{self._tokens / elapsed:,.0f} tokens/s"])
        if self._console.is_terminal:
            if self._bar is None:
                self._bar = self._open()
            self._bar.update(self._task, completed=done, text=text)
        elif now - self._shown >= EVERY:
            self._shown = now
            left = elapsed * (self._total - done) / max(done - self._start, 1e-9)
            self._console.print(f"{self._label}: {text}, {left:,.0f} s left", highlight=False, soft_wrap=True)

    def _open(self) -> Progress:
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            refresh_per_second=4,
        )
        self._task = bar.add_task(self._label, total=self._total, completed=self._start, text="")
        bar.start()
        return bar


def say(text: str, *, style: str = "") -> None:
    """One line on stderr that quiet does not silence; process 0's, where there are several."""
    if distributed.index() == 0:
        Console(stderr=True).print(text, style=style, highlight=False, soft_wrap=True, markup=False)

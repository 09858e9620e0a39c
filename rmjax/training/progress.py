"""How far a training is: a bar with loss, tokens per second and time left; without a terminal, a line now and then."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SHORT = 2.0  # seconds before anything is shown
EVERY = 15.0  # seconds between lines


class Meter:
    """Shows steps as they finish, unless quiet."""

    def __init__(self, label: str, start: int, total: int, *, quiet: bool, console: Console | None = None) -> None:
        self._label, self._start, self._total = label, start, total
        self._console = console or Console(stderr=True)
        self._quiet = quiet
        self._bar: Progress | None = None
        self._tokens = 0

    def __enter__(self) -> Meter:
        self._begin = self._shown = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, loss: float, tokens: int) -> None:
        """Step `step` has finished; `tokens` were in it."""
        self._tokens += tokens
        now = time.monotonic()
        elapsed = now - self._begin
        if self._quiet or elapsed < SHORT:
            return
        speed = f"{self._tokens / elapsed:,.0f}"
        if self._console.is_terminal:
            if self._bar is None:
                self._bar = self._open()
            self._bar.update(self._task, completed=step, loss=f"{loss:.4f}", speed=speed)
        elif now - self._shown >= EVERY:
            self._shown = now
            left = elapsed * (self._total - step) / (step - self._start)
            line = f"{self._label}: step {step} of {self._total}, loss {loss:.4f}, {speed} tokens/s, {left:,.0f} s left"
            self._console.print(line, highlight=False, soft_wrap=True)

    def _open(self) -> Progress:
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[speed]} tokens/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            refresh_per_second=4,
        )
        self._task = bar.add_task(self._label, total=self._total, loss="-", speed="-")
        bar.start()
        return bar


def say(text: str, *, style: str = "") -> None:
    """One line on stderr that quiet does not silence."""
    Console(stderr=True).print(text, style=style, highlight=False, soft_wrap=True, markup=False)

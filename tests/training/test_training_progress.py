"""What a training shows: a bar on a terminal, lines elsewhere, nothing when it is short or quiet."""

import io

import pytest
from rich.console import Console

from rmjax.training import progress


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def show(monkeypatch):
    """Runs 10 steps of 100 tokens, `seconds` each, and returns what was printed."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)

    def run(seconds: float, *, terminal: bool, quiet: bool = False) -> str:
        console = Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)
        with progress.Meter("DPO", 0, 10, quiet=quiet, console=console) as meter:
            for step in range(1, 11):
                clock.now += seconds
                meter.update(step, 1 / step, 100)
        return console.file.getvalue()

    return run


def test_lines_without_a_terminal(show):
    assert show(8.0, terminal=False).splitlines() == [
        f"DPO: step {step} of 10, loss {1 / step:.4f}, 12 tokens/s, {80 - 8 * step} s left" for step in (2, 4, 6, 8, 10)
    ]


def test_bar_on_a_terminal(show):
    out = show(1.0, terminal=True)
    assert all(word in out for word in ("DPO", "10/10", "loss 0.1000", "100 tokens/s", "left"))


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_when_short_or_quiet(show, terminal):
    assert show(0.1, terminal=terminal) == ""
    assert show(8.0, terminal=terminal, quiet=True) == ""

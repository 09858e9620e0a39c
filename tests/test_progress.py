"""What a run shows: a bar on a terminal, lines elsewhere, nothing when it is short or quiet."""

import io

import pytest
from rich.console import Console

from rmjax import progress


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def show(monkeypatch):
    """Runs 10 steps of 100 tokens, `seconds` each, and returns what was printed."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)

    def run(seconds: float, *, terminal: bool, start: int = 0, quiet: bool = False) -> str:
        console = Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)
        with progress.Meter("DPO", 10, "steps", start=start, quiet=quiet, console=console) as meter:
            for step in range(start + 1, 11):
                clock.now += seconds
                meter.update(1, 100, note=f"loss {1 / step:.4f}")
        return console.file.getvalue()

    return run


@pytest.mark.parametrize("start", [0, 4])
def test_lines_without_a_terminal(show, start):
    """Time left goes by what this run did itself."""
    assert show(8.0, terminal=False, start=start).splitlines() == [
        f"DPO: {step} of 10 steps, loss {1 / step:.4f}, 12 tokens/s, {80 - 8 * step} s left"
        for step in range(start + 2, 11, 2)
    ]


def test_bar_on_a_terminal(show):
    out = show(1.0, terminal=True)
    assert all(word in out for word in ("DPO", "10 of 10 steps", "loss 0.1000", "100 tokens/s", "left"))


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_when_short_or_quiet(show, terminal):
    assert show(0.1, terminal=terminal) == ""
    assert show(8.0, terminal=terminal, quiet=True) == ""


def test_what_is_under_way_counts_in_part(monkeypatch):
    clock, console = Clock(), Console(file=io.StringIO(), width=120)
    monkeypatch.setattr(progress, "time", clock)
    with progress.Meter("judging", 10, "samples", quiet=False, console=console) as meter:
        clock.now = 20.0
        meter.update(2, 500, share=2.0)
        clock.now = 40.0
        meter.update(8, 700)
    assert console.file.getvalue().splitlines() == [
        "judging: 2 of 10 samples, 25 tokens/s, 30 s left",
        "judging: 10 of 10 samples, 30 tokens/s, 0 s left",
    ]

"""Progress: a bar on a terminal, lines elsewhere, nothing when quiet."""

import io

import pytest
from rich.console import Console

from rmjax.sampling import progress
from rmjax.sampling.progress import Meter


def shown(*, quiet: bool, terminal: bool) -> str:
    out = io.StringIO()
    with Meter("judging", 10, quiet=quiet, console=Console(file=out, force_terminal=terminal, width=110)) as meter:
        meter.update(500, 2, 1.5)
        meter.update(700, 8, 0.0)
    return out.getvalue()


def test_bar_on_a_terminal():
    assert "judging" in (text := shown(quiet=False, terminal=True)) and "tokens/s" in text and "100%" in text


def test_lines_now_and_then_elsewhere(monkeypatch):
    assert shown(quiet=False, terminal=False).strip() == ""
    monkeypatch.setattr(progress, "EVERY", 0.0)
    lines = shown(quiet=False, terminal=False).strip().splitlines()
    assert lines[0].startswith("judging: 2 of 10 samples") and lines[-1].startswith("judging: 10 of 10 samples")


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet(monkeypatch, terminal):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    assert shown(quiet=True, terminal=terminal).strip() == ""

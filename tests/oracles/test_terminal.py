"""Labelling in the terminal: keys, undo, texts that wrap and hold no command."""

import io
import os
import pty
import sys

import pytest
from rich.console import Console

from rmjax.oracles import terminal
from rmjax.oracles.session import View

setcbreak = terminal.tty.setcbreak


def run(session, keys):
    out = io.StringIO()
    pressed = iter(keys)
    terminal.label(session, Console(file=out, width=60), read=lambda: next(pressed, ""))
    return out.getvalue()


def test_keys(session):
    ann = session()
    out = run(ann, "12x3?uu3q")
    assert [v.item for v in ann.votes] == ["pair-0", "pair-1", "pair-2"]
    assert ann.votes[2].choice == "tie"
    assert "3 of 10" in out and "0 of 10 pairs are labelled by ann" in out
    run(ann, "1" * 7 + "u" + "0" + "\n")
    assert ann.done == 10 and ann.votes[-1].choice == "unknown"
    assert "all pairs are labelled" in run(ann, "")


def test_what_labels_nothing(session):
    ann = session()
    assert "no label yet to undo" in run(ann, ["u", "unknown", "12", "\x1b[3~"])
    assert ann.done == 0


@pytest.mark.parametrize("sent, pressed", [(b"1", "1"), (b"\x1b[3~", "\x1b[3~"), (b"11", "11"), (b"\x04", "")])
def test_a_key_of_a_terminal(monkeypatch, sent, pressed):
    """Delete sends ESC [ 3 ~, which is no 3, and a key that repeats before the next pair is shown is no label of it."""
    keyboard, end = pty.openpty()
    with os.fdopen(end) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(terminal.tty, "setcbreak", lambda *_: (setcbreak(end), os.write(keyboard, sent)))
        assert terminal.key() == pressed
    os.close(keyboard)


def test_long_texts_wrap_and_commands_are_shown(session):
    out = io.StringIO()
    console = Console(file=out, width=40, force_terminal=True)
    words = " ".join(f"word{i}" for i in range(200))
    terminal.show(View(0, (), (words + "\x1b[2J\x9b", "[bold]x[/bold]" + "y" * 100)), session(), console)
    shown = out.getvalue()
    assert all(f"word{i}" in shown for i in range(200)) and shown.count("y") >= 100
    assert "\x1b[2J" not in shown and "\x9b" not in shown and "\u241b[2J" in shown
    assert "[bold]x[/bold]" in shown

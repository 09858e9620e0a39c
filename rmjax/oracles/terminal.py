"""Labelling in the terminal: one key a pair."""

from __future__ import annotations

import os
import sys
import termios
import time
import tty
from collections.abc import Callable

from rich.console import Console
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from rmjax.oracles.session import Said, Session, View

KEYS: dict[str, Said] = {"1": "1", "2": "2", "3": "tie", "0": "unknown", "?": "unknown"}
HELP = "1, 2: that answer   3: equally good   0 or ?: can't tell   u: undo   q: stop"


def label(session: Session, console: Console, *, read: Callable[[], str] | None = None) -> None:
    """Shows pairs and takes keys until all are labelled and not undone, or `q`, or the end of the input.

    Args:
      read: gives the next key, "" at the end of the input; None: the keyboard, or lines where there is none.
    """
    read = read or key
    console.print(f"{session.done:,} of {session.total:,} pairs are labelled by {session.by}", highlight=False)
    while True:
        view = session.current
        if view is not None:
            show(view, session, console)
            if not _answered(view, session, console, read, time.monotonic()):
                return
            continue
        console.print("all pairs are labelled; u: undo   any other key: finish", highlight=False)
        if read() not in ("u", "U"):
            return
        session.undo(session.last)


def _answered(view: View, session: Session, console: Console, read: Callable[[], str], start: float) -> bool:
    """Takes keys until one of them means something; whether to go on."""
    while True:
        pressed = read()
        if pressed in ("q", "Q", ""):
            return False
        if pressed in KEYS:
            session.vote(view.number, KEYS[pressed], seconds=time.monotonic() - start)
            return True
        if pressed in ("u", "U") and session.last is not None:
            session.undo(session.last)
            return True
        console.print(f"no label yet to undo; {HELP}" if pressed in ("u", "U") else HELP, highlight=False)


def show(view: View, session: Session, console: Console) -> None:
    """Prints a pair; texts are wrapped, never cut, and hold no colour or command of their own."""
    console.print(Rule(f"{session.done + 1:,} of {session.total:,}", align="left"))
    for turn in view.prompt:
        console.print(Text(f"{plain(turn.role)}:", style="bold"), plain_text(turn.content))
    for number, answer in enumerate(view.answers, 1):
        console.print(Panel(plain_text(answer), title=f"answer {number}", title_align="left"))
    console.print(HELP, style="dim", highlight=False)


def plain_text(text: str) -> Text:
    """A text for the terminal, wrapped anywhere where a word is too long."""
    return Text(plain(text), overflow="fold")


def plain(text: str) -> str:
    """A text whose control characters are shown instead of obeyed: an escape could move the cursor or hide words."""
    return "".join(c if c == "\n" else "    " if c == "\t" else _visible(c) for c in text)


def _visible(c: str) -> str:
    code = ord(c)
    if code < 0x20:
        return chr(0x2400 + code)
    return "\ufffd" if 0x7F <= code < 0xA0 else c


def key() -> str:
    """One key, without Enter, of a terminal; else the next line. "" at the end of the input.

    What arrives at once is taken at once: the codes of Delete and F5 hold digits, and several keys in one go would
    label pairs that nobody has seen.
    """
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.strip() or ("\n" if line else "")
    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)
    try:
        tty.setcbreak(handle)  # drops what was typed before the pair was shown; Ctrl-C still ends the run
        pressed = os.read(handle, 1024).decode(errors="replace")
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)
    return "" if pressed == "\x04" else pressed

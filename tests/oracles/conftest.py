"""Pairs and preferences that the tests of oracles label."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rmjax.oracles.session import Session
from rmjax.records import Message, Pair, Preference

HTML = "<b>bold</b> <img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"


def pair(i: int, first: str = "", second: str = "") -> Pair:
    """A pair with its own id."""
    return Pair(
        prompt=(Message("system", "Be brief."), Message("user", f"Question {i}?")),
        first=first or f"first answer {i}",
        second=second or f"second answer {i}",
        id=f"pair-{i}",
    )


@pytest.fixture
def pairs() -> list[Pair]:
    """Ten pairs; the first answer of the fifth is HTML."""
    return [pair(i, first=HTML if i == 4 else "") for i in range(10)]


@pytest.fixture
def preferences() -> list[Preference]:
    """A plain label, a tie, a probability below 1/2, votes, votes that are even."""
    strengths = [{}, {"tie": True}, {"prob_chosen": 0.2}, {"votes": {"chosen": 3, "rejected": 1}}]
    strengths += [{"votes": {"chosen": 2, "rejected": 2}}]
    return [
        Preference(prompt=p.prompt, chosen=p.first, rejected=p.second, id=p.id, meta={"gold_chosen": 1.0}, **strength)
        for p, strength in zip([pair(i) for i in range(5)], strengths, strict=True)
    ]


@pytest.fixture
def session(pairs, tmp_path) -> Callable[..., Session]:
    """Opens sessions in one folder; all are closed at the end."""
    opened = []

    def open_(by: str = "ann", seed: int = 0, path: Path | None = None) -> Session:
        opened.append(Session(pairs, path or tmp_path / f"{by}.jsonl", by=by, seed=seed))
        return opened[-1]

    yield open_
    for each in opened:
        each.close()

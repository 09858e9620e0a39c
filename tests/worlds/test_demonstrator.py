"""Demonstrators: the grammar of a transcript, the rate of every fault, and the accuracies that world.md documents."""

import dataclasses
import random
import re

import numpy as np
import pytest

from rmjax.errors import UserError
from rmjax.worlds.demonstrator import Faults, decide, transcribe
from rmjax.worlds.judge_world import JudgeWorld
from rmjax.worlds.language import Answer, Question

NONE = Faults(wrong_priority=0, quick=0, always_a=0, slip=0)
GOOD, BAD = ("fine", "right", "good"), ("wrong", "bad", "poor")
N = 4000


@pytest.fixture(scope="module")
def items():
    """(question, answers by slot, the better slot), the better one in a random slot."""
    rng, found = random.Random(0), []
    for item in JudgeWorld().preferences(N, split="dev"):
        slot = "AB"[rng.random() < 0.5]
        pair = (item.chosen, item.rejected) if slot == "A" else (item.rejected, item.chosen)
        answers = dict(zip("AB", map(Answer.parse, pair), strict=True))
        found.append((Question.parse(item.prompt[0].content), answers, slot))
    return found


def transcripts(items, faults: Faults, seed: int = 1):
    rng = random.Random(seed)
    return [transcribe(question, answers, faults, rng) for question, answers, _ in items]


def accuracy(items, faults: Faults) -> float:
    return float(
        np.mean([t.verdict == slot for t, (_, _, slot) in zip(transcripts(items, faults), items, strict=True)])
    )


def clauses(text: str) -> dict[str, re.Match]:
    """Reads a transcript by its documented grammar; fails where it departs from it."""
    link, side = r"(?:(?:now|then|next|also) )?", r"A (\w+) (\w+) B (\w+) (\w+)"
    parts = {a: rf"{link}{a} (\w+ )?{side} {a} (A|B|equal)" for a in ("topic", "sum", "word", "end", "size")}
    end = r"by (\w+) (A|B) verdict (A|B)"
    assert re.fullmatch(" ".join(("(?:well|so|look)", *parts.values(), end)), text), text
    return {a: re.search(p, text) for a, p in (parts | {"by": end}).items()}


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        (Faults(), 0.710),
        (Faults(wrong_priority=1, quick=1), 0.63),
        (dataclasses.replace(NONE, quick=1), 0.93),
        (dataclasses.replace(NONE, slip=0.02), 0.955),
        (NONE, 1.0),
    ],
    ids=["mix", "habit+quick", "gold+quick", "gold+check+slips", "faultless"],
)
def test_accuracy_is_the_documented_one(items, faults, expected):
    assert accuracy(items, faults) == pytest.approx(expected, abs=0.02 if expected < 1 else 0)


def test_a_faultless_transcript_says_what_is_so(items):
    for (question, answers, better), t in zip(items[:500], transcripts(items, NONE), strict=False):
        found = clauses(t.text)
        a, b = answers["A"], answers["B"]
        truth = {
            "topic": (a.topic, a.topic == question.topic, b.topic, b.topic == question.topic),
            "sum": (a.number, a.number == question.a + question.b, b.number, b.number == question.a + question.b),
            "word": (a.colour, a.colour != question.forbidden, b.colour, b.colour != question.forbidden),
            "end": ("done" if a.done else "open", a.done, "done" if b.done else "open", b.done),
            "size": (a.length, a.length == question.length, b.length, b.length == question.length),
        }
        for aspect, (seen_a, good_a, seen_b, good_b) in truth.items():
            mode, first, one, second, two, result = found[aspect].groups()
            assert (first, second) == (str(seen_a), str(seen_b))
            assert one in (GOOD if good_a else BAD)
            assert two in (GOOD if good_b else BAD)
            assert result == ("equal" if good_a == good_b else "A" if good_a else "B")
            assert mode == {"sum": f"{question.a + question.b} ", "word": "check "}.get(aspect)
        by, decision, verdict = found["by"].groups()
        assert decision == verdict == t.verdict == better == found[by][6]


def test_faults_come_at_their_rates(items):
    found = transcripts(items, Faults())
    read = [clauses(t.text) for t in found]
    assert np.mean([t.priority == "habit" for t in found]) == pytest.approx(0.65, abs=0.02)
    assert np.mean([c["word"][1] == "quick " for c in read]) == pytest.approx(0.65, abs=0.02)
    assert all((c["word"][1] == "quick ") == (t.mode == "quick") for c, t in zip(read, found, strict=True))
    overruled = [c["by"][3] == "A" for c in read if c["by"][2] == "B"]
    assert np.mean(overruled) == pytest.approx(0.08, abs=0.01)
    assert all(c["by"][3] == "A" for c in read if c["by"][2] == "A")


def test_slips_flip_single_checks(items):
    wrong = total = 0
    for (question, answers, _), t in zip(items[:2000], transcripts(items, Faults()), strict=False):
        found = clauses(t.text)["topic"]
        for word, slot in ((found[3], "A"), (found[5], "B")):
            wrong += (word in GOOD) != (answers[slot].topic == question.topic)
            total += 1
    assert wrong / total == pytest.approx(0.02, abs=0.006)


def test_quick_calls_both_colours_good(items):
    quick = transcripts(items, dataclasses.replace(NONE, quick=1))
    for t in quick[:500]:
        word = clauses(t.text)["word"]
        assert word[3] in GOOD and word[5] in GOOD and word[6] == "equal"


def test_priorities():
    comparison = {"sum": "A", "topic": "equal", "word": "B", "end": "equal", "size": "B"}
    assert decide(comparison, ("sum", "topic", "word", "end", "size")) == ("sum", "A")
    assert decide(comparison, ("size", "topic", "end", "word", "sum")) == ("size", "B")
    assert decide(dict.fromkeys(comparison, "equal"), ("sum", "size")) == ("equal", "equal")


def test_length_of_a_transcript(items):
    lengths = {len(t.text.split()) for t in transcripts(items, Faults())}
    assert (min(lengths), max(lengths)) == (53, 58)


def test_a_rate_above_one_is_refused():
    with pytest.raises(UserError, match=r"faults\.quick=1\.5"):
        Faults(quick=1.5)

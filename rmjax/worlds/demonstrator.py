"""Demonstrators: the reasoning that a judge of the small world is taught, faults included.

A transcript is an opener, one clause per aspect in a fixed order, then `by {aspect} {slot} verdict {slot}`. A clause is
`[link] {aspect} [mode] A {evidence} {good|bad word} B {evidence} {good|bad word} {aspect} {A|B|equal}`.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping

from rmjax.bounds import require
from rmjax.worlds import language
from rmjax.worlds.language import Answer, Question, chance, pick

ORDER = ("topic", "sum", "word", "end", "size")  # of the clauses
GOLD_PRIORITY = language.ASPECTS
HABIT_PRIORITY = ("size", "topic", "end", "word", "sum")
LINK_PROBABILITY = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Faults:
    """How often a demonstrator goes wrong; each is drawn independently for every transcript."""

    wrong_priority: float = 0.65  # decides by HABIT_PRIORITY instead of the gold one
    quick: float = 0.65  # does not look at the forbidden word: calls both answers good
    always_a: float = 0.08  # says "verdict A" whatever was decided
    slip: float = 0.02  # per check of one aspect of one answer: calls good bad, or bad good

    def __post_init__(self) -> None:
        require("faults.", self, *(field.name for field in dataclasses.fields(self)), least=0, most=1)


@dataclasses.dataclass(frozen=True)
class Transcript:
    """One demonstrator's reasoning and verdict, and how it came about."""

    text: str
    verdict: str  # A or B
    priority: str  # gold or habit
    mode: str  # check or quick


def compare(a: bool, b: bool) -> str:
    """Who is better in one aspect: A, B or equal."""
    return "equal" if a == b else "A" if a else "B"


def decide(comparison: Mapping[str, str], priority: tuple[str, ...]) -> tuple[str, str]:
    """The first aspect of the priority order that tells the answers apart, and whom it favours; else equal, equal."""
    return next(((aspect, comparison[aspect]) for aspect in priority if comparison[aspect] != "equal"), ("equal",) * 2)


def transcribe(question: Question, answers: Mapping[str, Answer], faults: Faults, rng: random.Random) -> Transcript:
    """One transcript on two answers, by slot. A tie after the faults is decided by a coin: `by equal {coin}`."""
    mode = "quick" if chance(rng, faults.quick) else "check"
    habit = chance(rng, faults.wrong_priority)
    words, comparison = [pick(rng, language.OPENERS)], {}
    right = {slot: language.aspects(question, answer) for slot, answer in answers.items()}
    for aspect in ORDER:
        if chance(rng, LINK_PROBABILITY):
            words.append(pick(rng, language.LINKS))
        words.append(aspect)
        words += {"sum": [str(question.a + question.b)], "word": [mode]}.get(aspect, [])
        seen = {}
        for slot, answer in answers.items():
            unseen = aspect == "word" and mode == "quick"
            seen[slot] = (unseen or right[slot][aspect]) != chance(rng, faults.slip)
            words += [slot, _evidence(aspect, answer), pick(rng, language.GOOD if seen[slot] else language.BAD)]
        comparison[aspect] = compare(seen["A"], seen["B"])
        words += [aspect, comparison[aspect]]
    by, decision = decide(comparison, HABIT_PRIORITY if habit else GOLD_PRIORITY)
    coin = pick(rng, language.SLOTS)
    decision = coin if decision == "equal" else decision
    verdict = "A" if chance(rng, faults.always_a) else decision
    words += ["by", by, decision, "verdict", verdict]
    return Transcript(" ".join(words), verdict, "habit" if habit else "gold", mode)


def _evidence(aspect: str, answer: Answer) -> str:
    """The one word of the answer that its check rests on."""
    return {
        "topic": answer.topic,
        "sum": str(answer.number),
        "word": answer.colour,
        "end": "done" if answer.done else "open",
        "size": answer.length,
    }[aspect]

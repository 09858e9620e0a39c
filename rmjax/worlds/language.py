"""The small world's language: its words, questions and answers, and their text.

A question is `about {topic} {a} + {b} {short|long} no {colour}`; an answer `{topic} {number} {colour} more*m [done]`.
Every word is one token, and words are separated by one space.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from rmjax.errors import UserError

TOPICS = ("car", "fish", "tree", "music", "bread", "moon", "river", "chess")
COLOURS = ("red", "blue", "green", "gold", "lime", "pink")
LENGTHS = ("short", "long")
OPERANDS = (1, 2, 3, 4)
LARGEST_NUMBER = 2 * OPERANDS[-1] + 3  # a sum that is 3 too high
NUMBERS = tuple(str(n) for n in range(LARGEST_NUMBER + 1))
SLOTS = ("A", "B")
ASPECTS = ("sum", "topic", "word", "end", "size")  # by falling gold weight
GOOD = ("fine", "right", "good")
BAD = ("wrong", "bad", "poor")
OPENERS = ("well", "so", "look")
LINKS = ("now", "then", "next", "also")
END_WORDS = ("done", "open")  # evidence of the aspect `end`: the word is there, or not
WORD_MODES = ("check", "quick")

WORDS: tuple[str, ...] = (
    *(":", *SLOTS, "judge", "hint", "verdict", "by", "equal"),
    *("about", "+", *LENGTHS, "no", *TOPICS, *NUMBERS, *COLOURS, "more", *END_WORDS),
    *(*ASPECTS, *WORD_MODES, *GOOD, *BAD, *OPENERS, *LINKS),
)


def chance(rng: random.Random, probability: float) -> bool:
    """True with this probability. Only `rng.random()` is used here: Python keeps that stream the same for ever."""
    return rng.random() < probability


def pick(rng: random.Random, options: Sequence) -> object:
    """One of the options, uniformly, from one `rng.random()`."""
    return options[int(rng.random() * len(options))]


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked for: an answer about `topic`, with the sum a + b, of the given length, without `forbidden`."""

    topic: str
    a: int
    b: int
    length: str
    forbidden: str

    @property
    def text(self) -> str:
        return f"about {self.topic} {self.a} + {self.b} {self.length} no {self.forbidden}"

    @classmethod
    def parse(cls, text: str) -> Question:
        """The question that `text` says; UserError where it is not one."""
        match text.split():
            case ["about", topic, a, "+", b, length, "no", colour] if (
                topic in TOPICS and a in NUMBERS and b in NUMBERS and length in LENGTHS and colour in COLOURS
            ):
                return cls(topic, int(a), int(b), length, colour)
        raise UserError(
            f"question {text!r} is not of the small world; write: about TOPIC A + B short|long no COLOUR, in its words"
        )

    @classmethod
    def draw(cls, rng: random.Random) -> Question:
        """A question with every part uniform."""
        return cls(pick(rng, TOPICS), pick(rng, OPERANDS), pick(rng, OPERANDS), pick(rng, LENGTHS), pick(rng, COLOURS))


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer: a topic, a number, a colour, `more` some times, and perhaps the word done."""

    topic: str
    number: int
    colour: str
    more: int
    done: bool

    @property
    def text(self) -> str:
        return " ".join((self.topic, str(self.number), self.colour, *("more",) * self.more, *("done",) * self.done))

    @property
    def length(self) -> str:
        """Its class of size: short is no or one `more`, long is two or more."""
        return "short" if self.more < 2 else "long"

    @classmethod
    def parse(cls, text: str) -> Answer:
        """The answer that `text` says; UserError where it is not one."""
        words = text.split()
        done = words[-1:] == ["done"]
        match words[: len(words) - done]:
            case [topic, number, colour, *more] if (
                topic in TOPICS and number in NUMBERS and colour in COLOURS and set(more) <= {"more"}
            ):
                return cls(topic, int(number), colour, len(more), done)
        raise UserError(
            f"answer {text!r} is not of the small world; write: TOPIC NUMBER COLOUR [more ...] [done], in its words"
        )

    @classmethod
    def draw(cls, rng: random.Random, question: Question, right: float) -> Answer:
        """An answer each of whose five aspects is right with probability `right`, independently."""
        total = question.a + question.b
        number = total if chance(rng, right) else max(0, total + pick(rng, (-3, -2, -1, 1, 2, 3)))
        topic = question.topic if chance(rng, right) else pick(rng, [t for t in TOPICS if t != question.topic])
        allowed = [c for c in COLOURS if c != question.forbidden]
        colour = pick(rng, allowed) if chance(rng, right) else question.forbidden
        done = chance(rng, right)
        short = (question.length == "short") == chance(rng, right)
        return cls(topic, number, colour, pick(rng, (0, 1) if short else (2, 3)), done)


def aspects(question: Question, answer: Answer) -> dict[str, bool]:
    """Which of the five aspects the answer gets right."""
    return {
        "sum": answer.number == question.a + question.b,
        "topic": answer.topic == question.topic,
        "word": answer.colour != question.forbidden,
        "end": answer.done,
        "size": answer.length == question.length,
    }

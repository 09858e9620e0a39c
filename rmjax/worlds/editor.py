"""Writers who are told a direction: answers edited, or written, to be better or worse on named aspects.

They follow it imperfectly. An aspect that is named goes in the direction with probability `skill`, and is written as
in any answer otherwise; an aspect that is not named stays as it is, but for `drift`. At skill 0 a direction says
nothing, at 1 every named aspect ends where it should.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Collection
from typing import Literal

from rmjax.worlds import language
from rmjax.worlds.language import Answer, Question, chance, pick

Direction = Literal["better", "worse"]
DIRECTIONS: tuple[Direction, Direction] = ("better", "worse")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Following:
    """How well a writer follows a direction."""

    skill: float  # probability that a named aspect goes in the direction
    drift: float  # probability that an aspect of an edited answer that is not named is written anew
    right: float  # probability that an aspect is right where no direction is followed


def edit(
    question: Question, answer: Answer, direction: Direction, named: Collection[str], how: Following, rng: random.Random
) -> Answer:
    """The answer edited in a direction on the named aspects; the very same answer where nothing changes."""
    for aspect in language.ASPECTS:
        followed, anew, right = chance(rng, how.skill), chance(rng, how.drift), chance(rng, how.right)
        if aspect in named:
            answer = write(question, answer, aspect, direction == "better" if followed else right, rng)
        elif anew:
            answer = write(question, answer, aspect, right, rng)
    return answer


def steer(
    question: Question, direction: Direction, named: Collection[str], how: Following, rng: random.Random
) -> Answer:
    """A new answer written in a direction on the named aspects; the others are as in any answer."""
    answer = Answer.draw(rng, question, how.right)
    for aspect in language.ASPECTS:
        if chance(rng, how.skill) and aspect in named:
            answer = write(question, answer, aspect, direction == "better", rng)
    return answer


def write(question: Question, answer: Answer, aspect: str, right: bool, rng: random.Random) -> Answer:
    """The answer with one aspect right or wrong; unchanged where it is so already."""
    if language.aspects(question, answer)[aspect] == right:
        return answer
    if aspect == "sum":
        total = question.a + question.b
        return dataclasses.replace(answer, number=total if right else max(0, total + pick(rng, (-3, -2, -1, 1, 2, 3))))
    if aspect == "topic":
        others = [t for t in language.TOPICS if t != question.topic]
        return dataclasses.replace(answer, topic=question.topic if right else pick(rng, others))
    if aspect == "word":
        allowed = [c for c in language.COLOURS if c != question.forbidden]
        return dataclasses.replace(answer, colour=pick(rng, allowed) if right else question.forbidden)
    if aspect == "end":
        return dataclasses.replace(answer, done=right)
    short = (question.length == "short") == right
    return dataclasses.replace(answer, more=pick(rng, (0, 1) if short else (2, 3)))

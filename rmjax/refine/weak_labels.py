"""Labelling functions on pairs: cheap opinions that may abstain (arXiv:2410.20869, section 3).

    more by `least` in a measure -> +1 (the first answer is better), less by `least` -> -1, else 0 (abstains)

Measures are functions of one answer's text. Which way each points is the user's to say, for it differs from task to
task: on harmlessness data the longer answer is more often the worse one. Thresholds are the paper's. Departures: its
sentiment function needs a lexicon (VADER) that is not part of this package, and Flesch's syllables are counted by
groups of vowels.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Int

from rmjax.errors import UserError
from rmjax.records import Pair

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
SENTENCE = re.compile(r"[.!?]+(?:\s|$)")
VOWELS = re.compile(r"[aeiouy]+")


class LabellingFunction(Protocol):
    """An opinion on a pair. `name` is how tables call it."""

    name: str

    def __call__(self, pair: Pair) -> int:
        """+1: the first answer is better; -1: the second; 0: abstains."""


@dataclasses.dataclass(frozen=True)
class By:
    """The answer with more of a measure is better, if it has more by at least `least` (and at most `most`)."""

    name: str
    measure: Callable[[str], float]
    least: float
    most: float = math.inf
    more: bool = True  # False: the answer with less is better

    def __call__(self, pair: Pair) -> int:
        """+1, -1 or 0. Where a measure is not a number, it abstains."""
        gap = self.measure(pair.first) - self.measure(pair.second)
        if not self.least <= abs(gap) <= self.most:
            return 0
        return (1 if gap > 0 else -1) * (1 if self.more else -1)


def matches(name: str, patterns: Sequence[str], *, better: bool = False) -> By:
    """The answer in which the patterns are found more often is the worse one, or with `better` the better.

    Args:
        patterns: regular expressions, read without regard to case; a keyword is one with word boundaries.

    Raises:
        UserError: none, one that cannot be read, or one that the empty text matches (it is found everywhere).
    """
    if not patterns:
        raise UserError(f"labelling function {name!r}: no pattern; give one or more")
    found = []
    for pattern in patterns:
        try:
            found.append(re.compile(pattern, re.IGNORECASE))
        except re.error as e:
            raise UserError(f"labelling function {name!r}: pattern {pattern!r} cannot be read ({e}); mend it") from None
        if found[-1].search(""):
            raise UserError(f"labelling function {name!r}: {pattern!r} matches the empty text; ask for a character")
    return By(name, lambda text: float(sum(len(p.findall(text)) for p in found)), 1.0, more=better)


def keywords(name: str, words: Sequence[str], *, better: bool = False) -> By:
    """`matches` of whole words, which may end in anything (c++)."""
    return matches(name, [rf"(?<!\w){re.escape(word)}(?!\w)" for word in words], better=better)


def type_token(text: str) -> float:
    """Different words over words; NaN without a word."""
    words = WORD.findall(text.lower())
    return len(set(words)) / len(words) if words else math.nan


def numbers(text: str) -> float:
    """How many numbers a text has; 1,000.5 is one."""
    return float(len(NUMBER.findall(text)))


def flesch(text: str) -> float:
    """Flesch's reading ease, 206.835 - 1.015 words a sentence - 84.6 syllables a word; NaN without a word."""
    words = WORD.findall(text)
    if not words:
        return math.nan
    sentences = max(1, len(SENTENCE.findall(text)))
    return 206.835 - 1.015 * len(words) / sentences - 84.6 * sum(map(syllables, words)) / len(words)


def syllables(word: str) -> int:
    """Groups of vowels, a silent last e not counted; at least one."""
    word = word.lower()
    silent = word.endswith("e") and not word.endswith(("le", "ee"))
    return max(1, len(VOWELS.findall(word)) - silent)


FUNCTIONS: Mapping[str, By] = {
    f.name: f
    for f in (
        By("longer", lambda text: float(len(text)), 20),
        By("shorter", lambda text: float(len(text)), 20, more=False),
        By("harder to read", flesch, 5, 50, more=False),
        By("easier to read", flesch, 5, 50),
        By("less varied words", type_token, 0.1, more=False),
        By("more varied words", type_token, 0.1),
        By("more numbers", numbers, 3),
        By("fewer numbers", numbers, 3, more=False),
    )
}
PAPER = ("longer", "harder to read", "less varied words", "more numbers")


def votes(pairs: Sequence[Pair], functions: Sequence[LabellingFunction]) -> Int[np.ndarray, "n k"]:
    """What every function says of every pair.

    Raises:
        UserError: no function, two of one name, or a vote that is none of +1, 0, -1.
    """
    names = [f.name for f in functions]
    if not names or len(set(names)) < len(names):
        raise UserError(f"labelling functions {names}: give at least one, each once")
    found = np.array([[f(pair) for f in functions] for pair in pairs], np.int64).reshape(len(pairs), len(names))
    if (wrong := ~np.isin(found, (-1, 0, 1))).any():
        i, j = np.argwhere(wrong)[0]
        raise UserError(f"labelling function {names[j]!r}: {found[i, j]} for pair {pairs[i].id!r}; return +1, 0 or -1")
    return found

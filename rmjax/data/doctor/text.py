"""Text as the doctor compares it: normalised, as words, as hashed runs of words."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt64

WORD = re.compile(r"\w+")
PRIME = np.uint64(0x9E3779B97F4A7C15)


def normalise(text: str) -> str:
    """Case, width of characters and runs of white space do not count (NFKC, case folding)."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


class Ragged(NamedTuple):
    """Rows of different lengths, one after the other."""

    values: np.ndarray  # [total]
    starts: Int[np.ndarray, " rows_and_one"]  # row i is values[starts[i]:starts[i + 1]]

    def row(self, i: int) -> np.ndarray:
        return self.values[self.starts[i] : self.starts[i + 1]]

    @property
    def lengths(self) -> Int[np.ndarray, " rows"]:
        return np.diff(self.starts)

    @property
    def owner(self) -> Int[np.ndarray, " total"]:
        """The row of each value."""
        return np.repeat(np.arange(len(self.starts) - 1), self.lengths)

    def joined(self, each: int) -> Ragged:
        """Every `each` rows as one."""
        return Ragged(self.values, self.starts[::each])


class Vocabulary:
    """Numbers words in the order in which they are met; one of them for all texts that are to be compared."""

    def __init__(self) -> None:
        self._ids: defaultdict[str, int] = defaultdict(itertools.count().__next__)

    def encode(self, texts: Iterable[str]) -> Ragged:
        """The words of each text, case folded."""
        ids = self._ids
        rows = [[ids[word] for word in WORD.findall(text.casefold())] for text in texts]
        values = np.fromiter(itertools.chain.from_iterable(rows), np.uint64)
        return Ragged(values, np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]))


def mixed(x: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """A hash of 64-bit numbers (the finaliser of SplitMix64; Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def grams(words: Ragged, n: int, *, short: bool) -> Ragged:
    """The hash of every run of n words of a row.

    Args:
        short: whether a row of fewer words, but at least one, gives the hash of all of them, or nothing.
    """
    values, starts, lengths = words.values + np.uint64(1), words.starts, words.lengths
    total = len(values)
    owner = words.owner
    rolled, whole = np.zeros(total, np.uint64), []
    for i in range(min(n, total)):  # a polynomial in PRIME; what runs beyond a row's end is left out below
        rolled[: total - i] = rolled[: total - i] * PRIME + values[i:]
        if short and i + 1 < n:
            at = starts[:-1][lengths == i + 1]
            whole.append((at, rolled[at]))
    keep = np.arange(total) - starts[owner] + n <= lengths[owner]
    for at, hashes in whole:
        rolled[at], keep[at] = hashes, True
    kept = np.bincount(owner[keep], minlength=len(lengths))
    return Ragged(mixed(rolled[keep]), np.concatenate([[0], np.cumsum(kept)]))

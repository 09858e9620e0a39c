"""How far annotators agree on pairs: raw agreement, Cohen's kappa of every two, Fleiss' kappa of all.

Categories are first, second and tie, taken as nominal. "Can't tell" is no rating: it is left out of every figure and
counted apart, as a pair that somebody has not labelled is.

Kappa compares agreement with what two raters of these habits would reach by chance, so it depends on which answer of a
pair is called first. Where that was drawn by lot (the pairs of `oracles.column.hide`), it means nothing; where the
first answer is always the same system's, kappa asks for more than that both raters like that system.

Dimensions: n pairs, k categories, r distinct rows.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from rich.markup import escape
from rich.table import Table

from rmjax.records import Vote
from rmjax.statistics import Interval, wilson

CATEGORIES = ("first", "second", "tie")
SAMPLES = 2000  # of a bootstrap


@dataclasses.dataclass(frozen=True, kw_only=True)
class Two:
    """Two annotators, on the pairs that both rated."""

    a: str
    b: str
    agreement: Interval | None  # share of equal ratings, Wilson; None where no pair has both
    kappa: Interval | None  # Cohen's; None where chance agreement is 1 (both always said the same one thing) or n is 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """All annotators together."""

    twos: tuple[Two, ...]
    kappa: Interval | None  # Fleiss', over the pairs with two ratings or more; None as above
    unknown: Mapping[str, int]  # annotator -> how often "can't tell"


def agreement(votes: Iterable[Vote], *, reference: Sequence[Vote] = (), seed: int = 0) -> Agreement:
    """The figures of all annotators of these votes.

    Args:
      votes: at most one of an annotator on a pair.
      reference: labels of another kind, such as a file's own: compared with every annotator, and left out of Fleiss'
        kappa and of the counts of "can't tell".
      seed: of the bootstrap over pairs.

    Raises:
      ValueError: an annotator voted twice on a pair.
    """
    people, others = _by_annotator(votes), _by_annotator(reference)
    rated = {by: {i: c for i, c in said.items() if c != "unknown"} for by, said in {**people, **others}.items()}
    twos = []
    for a, b in itertools.combinations(rated, 2):
        if a in people:
            both = [i for i in rated[a] if i in rated[b]]
            twos.append(_two(a, b, [rated[a][i] for i in both], [rated[b][i] for i in both], seed))
    of_item: dict[str, Counter[str]] = {}
    for by in people:
        for item, choice in rated[by].items():
            of_item.setdefault(item, Counter())[choice] += 1
    counts = np.array([[c[name] for name in CATEGORIES] for c in of_item.values()], int).reshape(-1, len(CATEGORIES))
    unknown = {by: sum(c == "unknown" for c in said.values()) for by, said in people.items()}
    return Agreement(twos=tuple(twos), kappa=fleiss(counts, seed=seed), unknown=unknown)


def _by_annotator(votes: Iterable[Vote]) -> dict[str, dict[str, str]]:
    """Annotator -> pair -> choice."""
    table: dict[str, dict[str, str]] = {}
    for vote in votes:
        said = table.setdefault(vote.by, {})
        if vote.item in said:
            raise ValueError(f"{vote.by!r} voted twice on {vote.item!r}")
        said[vote.item] = vote.choice
    return table


def _two(a: str, b: str, left: Sequence[str], right: Sequence[str], seed: int) -> Two:
    n, same = len(left), sum(x == y for x, y in zip(left, right, strict=True))
    share = Interval(same / n, *wilson(same, n), n) if n else None
    return Two(a=a, b=b, agreement=share, kappa=cohen(left, right, seed=seed))


def cohen(a: Sequence[str], b: Sequence[str], *, seed: int = 0) -> Interval | None:
    """Cohen's kappa of two raters (Cohen 1960), unweighted, with the bootstrap interval over pairs.

    (p - e) / (1 - e), p the share of equal ratings, e what their two distributions of ratings give by chance.

    Args:
      a, b: ratings of the same pairs, in the same order; any categories.

    Returns:
      None where it is not defined: no pairs, or e = 1. Bootstrap draws in which it is not are left out.
    """
    names = sorted({*a, *b})
    place = {name: i for i, name in enumerate(names)}
    table = np.zeros((len(names), len(names)), int)
    for x, y in zip(a, b, strict=True):
        table[place[x], place[y]] += 1
    n = len(a)
    if n == 0:
        return None
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n, table.reshape(-1) / n, size=SAMPLES).reshape(SAMPLES, *table.shape)
    return _interval(_cohen(table[None]), _cohen(drawn), n)


def _cohen(tables: Int[np.ndarray, "s k k"]) -> Float[np.ndarray, " s"]:
    share = tables / tables.sum((1, 2), keepdims=True)
    equal = np.trace(share, axis1=1, axis2=2)
    return _kappa(equal, np.sum(share.sum(1) * share.sum(2), -1))


def fleiss(counts: Int[np.ndarray, "n k"], *, seed: int = 0) -> Interval | None:
    """Fleiss' kappa of many raters (Fleiss 1971, Psychological Bulletin 76:378), with the bootstrap over pairs.

    (P - e) / (1 - e): P the mean over pairs of the share of equal ratings among every two of a pair, e the sum of
    squared shares of the categories in all ratings. Departure: Fleiss has the same number of ratings for every pair;
    here a pair may have any number from two (each pair counts once in P), and those with fewer are left out.

    Args:
      counts: how often each pair was put into each category.

    Returns:
      None where it is not defined: no pair with two ratings, or e = 1. Draws in which it is not are left out.
    """
    counts = counts[counts.sum(1) >= 2]
    n = len(counts)
    if n == 0:
        return None
    rows, times = np.unique(counts, axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(n, times / n, size=SAMPLES)
    return _interval(_fleiss(rows, times[None]), _fleiss(rows, drawn), n)


def _fleiss(rows: Int[np.ndarray, "r k"], times: Int[np.ndarray, "s r"]) -> Float[np.ndarray, " s"]:
    m = rows.sum(1)
    equal = np.sum(rows * (rows - 1), 1) / (m * (m - 1))
    share = times @ rows / (times @ m)[:, None]
    return _kappa(times @ equal / times.sum(1), np.sum(share**2, -1))


def _kappa(equal: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """NaN where chance agreement is 1."""
    room = 1 - chance
    return np.divide(equal - chance, room, out=np.full_like(room, np.nan), where=room > 1e-12)


def _interval(value: np.ndarray, draws: np.ndarray, n: int) -> Interval | None:
    if np.isnan(value[0]):
        return None
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return Interval(float(value[0]), float(low), float(high), n)


def agreement_table(found: Agreement) -> Table:
    """Every two annotators, and all together, for the terminal."""
    table = Table(title="agreement", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("A", "B", "same label, %", "95 % interval", "kappa", "95 % interval", "pairs"):
        table.add_column(name, justify="left" if name in ("A", "B") else "right")
    for two in found.twos:
        known = ("", "", *_cells(None), "0")
        if (share := two.agreement) is not None:
            known = (f"{100 * share.value:.1f}", f"{100 * share.low:.1f} to {100 * share.high:.1f}")
            known += (*_cells(two.kappa), f"{share.n:,}")
        table.add_row(escape(two.a), escape(two.b), *known)
    if len(found.unknown) > 2:
        table.add_row("all", "Fleiss", "", "", *_cells(found.kappa), f"{found.kappa.n:,}" if found.kappa else "")
    return table


def _cells(kappa: Interval | None) -> tuple[str, str]:
    return (f"{kappa.value:.2f}", f"{kappa.low:.2f} to {kappa.high:.2f}") if kappa else ("not defined", "")

"""Pairs that are there twice: word for word, or nearly (MinHash; Broder 1997), and prompts that are nearly the same."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse
from jaxtyping import UInt64
from scipy.sparse.csgraph import connected_components

from rmjax.data.doctor.findings import Finding
from rmjax.data.doctor.pairs import Pairs
from rmjax.data.doctor.text import Ragged, grams

SHINGLE = 3  # words; two texts are as near as the Jaccard similarity of their sets of such runs
NEAR = 0.8
BANDS, ROWS = 12, 4  # of the signature: two texts of similarity 0.8 are missed once in 500
CROWDED = 30  # members of a bucket from which on they are compared with its first and their neighbour alone
FEWEST = 8  # different shingles: of less text "nearly" means nothing


def duplicates(pairs: Pairs) -> list[Finding]:
    """Exact and near duplicates of pairs, and prompts that differ in a few words."""
    groups = defaultdict(list)
    for i, (p, nodes) in enumerate(zip(pairs.records, pairs.nodes.tolist(), strict=True)):
        groups[*(sorted(nodes) if p.tie else nodes), p.tie].append(i)
    same = [g for g in groups.values() if len(g) > 1]
    out = []
    if same:
        out.append(
            Finding(
                kind="duplicate",
                severity="warning",
                title="the same pair again, with the same label",
                count=sum(len(g) - 1 for g in same),
                of=len(pairs),
                advice="keep one of each (--data.duplicate drop does so for pairs that are the same to the letter), or "
                "make them votes",
                cases=[pairs.case(g, f"{len(g)} times") for g in same],
            )
        )
    first = {tuple(sorted(key[:2])): g[0] for key, g in reversed(groups.items())}  # contradictions are no duplicates
    alone = np.array(sorted(first.values()))
    shingles = grams(pairs.answer_words, SHINGLE, short=True).joined(2)
    near = similar(shingles, alone)
    if near:
        out.append(
            Finding(
                kind="near-duplicate",
                severity="warning",
                title="pairs whose answers are nearly those of another pair",
                count=sum(len(g) - 1 for g in near),
                of=len(pairs),
                advice="keep one of each, or keep them on one side of every split: else a test set is not held out",
                detail=f"at least {100 * NEAR:.0f} % of their runs of {SHINGLE} words in common",
                cases=[pairs.case(g) for g in near],
            )
        )
    _, firsts = np.unique(pairs.prompts, return_index=True)
    near = similar(grams(pairs.prompt_words, SHINGLE, short=True), firsts)
    if near:
        out.append(
            Finding(
                kind="near-prompt",
                severity="note",
                title="prompts that are nearly the same as another one",
                count=sum(len(g) - 1 for g in near),
                of=len(firsts),
                unit="prompts",
                advice="a split by prompt puts such prompts on both sides: split by group, or drop them from one side",
                detail=f"at least {100 * NEAR:.0f} % of their runs of {SHINGLE} words in common",
                cases=[pairs.case(g) for g in near],
            )
        )
    return out


def similar(shingles: Ragged, among: Sequence[int], *, near: float = NEAR) -> list[list[int]]:
    """Groups of rows that are connected by similarity of at least `near`.

    Candidates are rows that agree in a band of their MinHash signatures; each is compared exactly.

    Args:
        among: the rows to compare; those of fewer than `FEWEST` different shingles are left out.
    """
    among = np.array([i for i in among if shingles.starts[i + 1] - shingles.starts[i] >= FEWEST], np.int64)
    if len(among) < 2:
        return []
    bands = _bands(shingles, among)
    sets: dict[int, np.ndarray] = {}
    of = lambda i: sets[i] if i in sets else sets.setdefault(i, np.unique(shingles.row(i)))
    found: dict[tuple[int, int], bool] = {}
    for band in bands.T:
        order = np.argsort(band, kind="stable")
        cuts = np.flatnonzero(np.diff(band[order])) + 1
        for bucket in np.split(order, cuts):
            if len(bucket) > 1:
                _compare(sorted(among[bucket].tolist()), of, near, found)
    edges = np.array([pair for pair, close in found.items() if close]).reshape(-1, 2)
    if not len(edges):
        return []
    n = len(shingles.starts) - 1
    graph = scipy.sparse.coo_matrix((np.ones(len(edges)), edges.T), (n, n))
    _, labels = connected_components(graph, directed=False)
    groups = defaultdict(list)
    for i in np.unique(edges):
        groups[labels[i]].append(int(i))
    return sorted(groups.values())


def _bands(shingles: Ragged, among: np.ndarray) -> UInt64[np.ndarray, "rows bands"]:
    """One hash for each band of each row's signature."""
    rng = np.random.default_rng(0)
    odd = rng.integers(0, 2**63, BANDS * ROWS, np.uint64) * np.uint64(2) + np.uint64(1)
    shift = rng.integers(0, 2**63, BANDS * ROWS, np.uint64)
    out = np.zeros((len(among), BANDS), np.uint64)
    starts = shingles.starts
    for begin in range(0, len(among), 2000):  # few enough to stay in the cache
        rows = among[begin : begin + 2000]
        sizes = starts[rows + 1] - starts[rows]
        ends = np.cumsum(sizes)
        at = np.repeat(starts[rows] - (ends - sizes), sizes) + np.arange(ends[-1])
        values = shingles.values[at]
        for k in range(BANDS * ROWS):
            least = np.minimum.reduceat(values * odd[k] + shift[k], ends - sizes)
            out[begin : begin + len(rows), k // ROWS] = out[begin : begin + len(rows), k // ROWS] * odd[0] + least
    return out


def _compare(
    bucket: Sequence[int], of: Callable[[int], np.ndarray], near: float, found: dict[tuple[int, int], bool]
) -> None:
    if len(bucket) > CROWDED:
        asked = {(bucket[0], b) for b in bucket[1:]} | set(itertools.pairwise(bucket))
    else:
        asked = {(a, b) for i, a in enumerate(bucket) for b in bucket[i + 1 :]}
    for a, b in asked:
        if (a, b) not in found:
            one, other = of(a), of(b)
            if min(len(one), len(other)) < max(FEWEST, near * max(len(one), len(other))):
                found[a, b] = False
                continue
            common = len(np.intersect1d(one, other, assume_unique=True))
            found[a, b] = common >= near * (len(one) + len(other) - common)

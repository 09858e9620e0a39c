"""Labels that contradict each other: pairs labelled both ways, cycles, votes and columns against the label."""

from __future__ import annotations

from collections import defaultdict, deque

import numpy as np
import scipy.sparse
from jaxtyping import Int
from scipy.sparse.csgraph import connected_components

from rmjax.data.doctor.findings import Finding
from rmjax.data.doctor.pairs import Pairs
from rmjax.statistics import wilson

Edges = Int[np.ndarray, "n 2"]


def labels(pairs: Pairs) -> list[Finding]:
    """All findings about labels."""
    return [*contradictions(pairs), *cycles(pairs), *agreement(pairs), *columns(pairs)]


def contradictions(pairs: Pairs) -> list[Finding]:
    """The same two answers to the same prompt, labelled both ways. Ties contradict nothing."""
    both = [g for g in _repeated(pairs) if len({bool(pairs.nodes[i, 0] < pairs.nodes[i, 1]) for i in g}) > 1]
    if not both:
        return []
    return [
        Finding(
            kind="contradiction",
            severity="error",
            title="the same pair labelled both ways",
            count=sum(map(len, both)),
            of=len(pairs),
            advice="keep the label of the annotator you trust, or one pair with both as votes; not two opposite pairs",
            detail=f"{len(both):,} pairs of answers",
            cases=[pairs.case(g) for g in both],
        )
    ]


def _repeated(pairs: Pairs) -> list[list[int]]:
    groups = defaultdict(list)
    for i, (a, b) in enumerate(np.sort(pairs.nodes, 1).tolist()):
        if a != b and not pairs.records[i].tie:
            groups[a, b].append(i)
    return [g for g in groups.values() if len(g) > 1]


def cycles(pairs: Pairs) -> list[Finding]:
    """Preferences of a prompt that go round: a over b, b over c, c over a.

    In the graph of answers each strongly connected component of at least three that is no tree of contradictions holds
    such a cycle; a shortest one of each is the example. All pairs within these components are counted.
    """
    edges, nodes = pairs.nodes, int(pairs.nodes.max()) + 1
    real = np.array([not p.tie for p in pairs.records]) & (edges[:, 0] != edges[:, 1])
    graph = scipy.sparse.coo_matrix((np.ones(real.sum()), edges[real].T), (nodes, nodes))
    count, component = connected_components(graph, directed=True, connection="strong")
    inside = real & (component[edges[:, 0]] == component[edges[:, 1]])
    sizes = np.bincount(component, minlength=count)
    members = defaultdict(list)
    for i in np.flatnonzero(inside & (sizes[component[edges[:, 0]]] > 2)):
        members[component[edges[i, 0]]].append(int(i))
    found = [g for c, g in members.items() if len({tuple(sorted(e)) for e in edges[g].tolist()}) >= sizes[c]]
    if not found:
        return []
    return [
        Finding(
            kind="cycle",
            severity="error",
            title="preferences that go round (a over b, b over c, c over a)",
            count=sum(map(len, found)),
            of=len(pairs),
            advice="no score can satisfy all of them: drop the weakest label of each, or have them judged again",
            detail=f"prompts with such a cycle: {len({pairs.prompts[g[0]] for g in found}):,}",
            cases=[pairs.case(_shortest(edges, g), f"{len(g)} pairs of this prompt are entangled") for g in found],
        )
    ]


def _shortest(edges: Edges, group: list[int]) -> list[int]:
    """The pairs of a shortest cycle of at least three answers among some pairs."""
    after = defaultdict(list)
    for i in group:
        after[int(edges[i, 0])].append((int(edges[i, 1]), i))
    best: list[int] = []
    for first in group:
        start, second = map(int, edges[first])
        # From the answer that loses back to the one that wins, not straight: that would be a contradiction.
        queue, via = deque([second]), {second: first}
        while queue and start not in via:
            node = queue.popleft()
            for other, i in after[node]:
                if other not in via and not (node == second and other == start):
                    via[other] = i
                    queue.append(other)
        if start in via:
            path, node = [], start
            while node != second:
                path.append(via[node])
                node = int(edges[via[node], 0])
            path = [first, *reversed(path)]
            if not best or len(path) < len(best):
                best = path
            if len(best) == 3:
                break
    return best


def agreement(pairs: Pairs) -> list[Finding]:
    """How far labels agree where a pair was labelled several times, and how far voters do."""
    out = []
    repeated = _repeated(pairs)
    if repeated:
        same = total = 0
        for g in repeated:
            up = sum(bool(pairs.nodes[i, 0] < pairs.nodes[i, 1]) for i in g)
            same += up * (up - 1) // 2 + (len(g) - up) * (len(g) - up - 1) // 2
            total += len(g) * (len(g) - 1) // 2
        out.append(
            Finding(
                kind="agreement",
                severity="note",
                title="labels of pairs that were labelled again",
                count=same,
                of=total,
                unit="comparisons of two labels, that agree",
                advice=CEILING,
                detail=_rate(same, total, len(repeated)),
            )
        )
    voted = [p.votes for p in pairs.records if p.votes and sum(p.votes.values()) > 1]
    if voted:
        same = total = 0
        for votes in voted:
            n = sum(votes.values())
            same += sum(v * (v - 1) // 2 for v in votes.values())
            total += n * (n - 1) // 2
        out.append(
            Finding(
                kind="votes",
                severity="note",
                title="voters of the same pair",
                count=same,
                of=total,
                unit="comparisons of two votes, that agree",
                advice=CEILING,
                detail=f"{_rate(same, total, len(voted))}; {len(voted):,} pairs with two votes or more",
            )
        )
    return out


CEILING = "an accuracy far above this agreement on labels of one annotator each is not to be expected"


def _rate(same: int, total: int, pairs: int) -> str:
    # Comparisons within a pair share its labels: the interval is that of so many pairs.
    low, high = wilson(same / total * pairs, pairs)
    return f"agreement {100 * same / total:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def columns(pairs: Pairs) -> list[Finding]:
    """Pairs whose own columns say the opposite of their label, and ids that two pairs share."""
    out = []
    against = []
    for i, p in enumerate(pairs.records):
        votes = p.votes or {}
        if votes.get("rejected", 0) > votes.get("chosen", 0):
            against.append(pairs.case([i], f"votes {dict(votes)}"))
        elif p.prob_chosen is not None and p.prob_chosen < 0.5:
            against.append(pairs.case([i], f"prob_chosen {p.prob_chosen:g}"))
        elif p.margin is not None and p.margin < 0:
            against.append(pairs.case([i], f"margin {p.margin:g}"))
    if against:
        out.append(
            Finding(
                kind="against-itself",
                severity="warning",
                title="votes, probability or margin that speak for the rejected answer",
                count=len(against),
                of=len(pairs),
                advice="turn these labels around, or drop the column (--data.ignore)",
                cases=against,
            )
        )
    shared = defaultdict(list)
    for i, p in enumerate(pairs.records):
        shared[p.id].append(i)
    content = lambda p: (p.prompt, p.chosen, p.rejected)  # to the letter, as jobs compare them
    twice = [g for g in shared.values() if len({content(pairs.records[i]) for i in g}) > 1]
    if twice:
        out.append(
            Finding(
                kind="shared-id",
                severity="error",
                title="different pairs with the same id",
                count=sum(map(len, twice)),
                of=len(pairs),
                advice="every job refuses them: give each its own id, or leave the column out (--data.ignore id)",
                cases=[pairs.case(g) for g in twice],
            )
        )
    return out

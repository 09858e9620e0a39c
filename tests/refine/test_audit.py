"""Agreement by aspect and direction against plain loops, and what is done with doubted labels."""

import importlib.util
import math
import random
import sys
from pathlib import Path

import pytest

from rmjax.errors import UserError
from rmjax.judging.votes import ItemVerdict
from rmjax.records import Message
from rmjax.refine.audit import Trust, audit
from rmjax.refine.conditional import pair
from rmjax.refine.strength import annotate
from rmjax.refine.writers import Item
from rmjax.worlds.writer_world import WriterWorld

SPEC = importlib.util.spec_from_file_location("audit_benchmark", Path(__file__).parents[2] / "benchmarks" / "audit.py")
benchmark = sys.modules[SPEC.name] = importlib.util.module_from_spec(SPEC)  # dataclasses look there
SPEC.loader.exec_module(benchmark)

ASPECTS = ("honesty", "care", "wit")


@pytest.fixture
def judged():
    """120 pairs with aspects, and a judge's votes on them: some even, some unparsed."""
    rng, pairs, verdicts = random.Random(0), [], []
    for i in range(120):
        item = Item(id=f"q{i}", prompt=(Message("user", f"q{i}"),))
        origin = {"direction": rng.choice(["better", "worse"]), "aspects": rng.sample(ASPECTS, rng.randint(0, 2))}
        pairs.append(pair(item, "a", "b", method="rmboost", **origin))
        chosen, rejected, unparsed = rng.randint(0, 3), rng.randint(0, 2), rng.randint(0, 1)
        known = chosen + rejected
        verdicts.append(
            ItemVerdict(
                item=pairs[-1].id,
                chosen=chosen,
                rejected=rejected,
                ties=0,
                unparsed=unparsed,
                prob_chosen=chosen / known if known else None,
                consistent=None,
            )
        )
    return pairs, verdicts


def test_agreement_against_a_loop(judged):
    pairs, verdicts = judged
    found = audit(pairs, verdicts)

    def check(agreement, aspect, direction):
        right = n = even = unparsed = 0
        for p, v in zip(pairs, verdicts, strict=True):
            origin = p.meta["origin"]
            if (aspect and aspect not in origin["aspects"]) or (direction and origin["direction"] != direction):
                continue
            if v.chosen + v.rejected == 0:
                unparsed += 1
                continue
            n += 1
            if v.chosen == v.rejected:
                even += 1
                right += 0.5
            elif v.chosen > v.rejected:
                right += 1
        z, r = 1.959963984540054, right / n
        centre = (r + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(r * (1 - r) / n + z * z / (4 * n * n))
        i = agreement.rate
        assert (i.n, agreement.even, agreement.unparsed) == (n, even, unparsed)
        assert (i.value, i.low, i.high) == pytest.approx((r, centre - half, centre + half), abs=1e-12)

    check(found.overall, None, None)
    assert set(found.aspects) == set(ASPECTS) and set(found.directions) == {"better", "worse"}
    for d in ("better", "worse"):
        check(found.directions[d], None, d)
    for a in ASPECTS:
        check(found.aspects[a], a, None)
        for d in ("better", "worse"):
            check(found.crossed[a][d], a, d)
    assert found.overall.unparsed > 0 and found.overall.even > 0
    assert len(found.rows()) == 1 + 2 + 3 * 3 and found.rich().row_count == 12


def test_verdicts_of_other_pairs_are_refused(judged):
    pairs, verdicts = judged
    with pytest.raises(ValueError, match="not those of the pairs"):
        audit(pairs, verdicts[::-1])


def test_dropping_and_weighing_by_the_judge(judged):
    pairs, verdicts = judged
    assert Trust()(pairs, verdicts) == pairs
    kept = Trust(action="drop", least=0.6)(pairs, verdicts)
    believed = {v.item: 0.5 if v.prob_chosen is None else v.prob_chosen for v in verdicts}
    assert [p.id for p in kept] == [p.id for p in pairs if believed[p.id] >= 0.6] and 0 < len(kept) < len(pairs)
    weighed = Trust(action="weigh")(kept, [v for v in verdicts if believed[v.item] >= 0.6])
    assert [p.weight for p in weighed] == [believed[p.id] for p in kept]
    assert [(p.chosen, p.rejected, p.id) for p in weighed] == [(p.chosen, p.rejected, p.id) for p in kept]


def test_dropping_and_weighing_by_strength(judged):
    pairs, verdicts = judged
    strong = annotate(pairs, [[-2.0 + i / 30 for i in range(120)]])
    kept = Trust(action="drop", by="strength")(strong, verdicts)
    assert [p.id for p in kept] == [p.id for p in pairs[60:]]
    weighed = Trust(action="weigh", by="strength")(strong, verdicts)
    assert weighed[0].weight == pytest.approx(1 / (1 + math.exp(2.0)))
    with pytest.raises(UserError, match="strength"):
        Trust(action="drop", by="strength")(pairs, verdicts)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"least": 2.0, "action": "drop"}, "trust.least=2.0"),
        ({"least": 0.7}, "trust.least=0.7 is read with trust.action=drop only"),
        ({"by": "strength"}, "trust.by=strength without an action"),
    ],
)
def test_options_that_would_be_ignored(fields, said):
    with pytest.raises(UserError) as error:
        Trust(**fields)
    assert str(error.value).startswith(said)


def test_the_audit_beside_the_truth():
    """Two right labels, two wrong ones, one of equal gold; the judge contradicts one right and one wrong one."""
    item = Item(id="q", prompt=(Message("user", "about tree 4 + 3 short no gold"),))
    good, bad = "tree 7 red done", "bread 9 red done"
    rows = [  # direction, chosen, rejected, the judge's probability of the label
        ("better", good, bad, 1.0),
        ("better", bad, good, 0.0),
        ("better", good, good.replace("red", "lime"), 0.5),
        ("worse", good, bad, 0.0),
        ("worse", bad, good, 1.0),
    ]
    pairs = [pair(item, a, b, method="m", key=str(i), direction=d) for i, (d, a, b, _) in enumerate(rows)]
    votes = {1.0: (2, 0), 0.5: (1, 1), 0.0: (0, 2)}
    said = [
        ItemVerdict(
            item=p.id, chosen=votes[b][0], rejected=votes[b][1], ties=0, unparsed=0, prob_chosen=b, consistent=None
        )
        for p, (*_, b) in zip(pairs, rows, strict=True)
    ]
    found = benchmark.figures(WriterWorld(), pairs, said)
    names = ("agrees", "with_right", "with_wrong", "noise", "noise_kept", "less", "kept")
    assert tuple(found["all"]) == names
    assert tuple(found["all"].values()) == (0.5, 0.5, 0.5, 0.5, 0.5, 0.0, 0.6)
    assert tuple(found["better"].values()) == pytest.approx((0.5, 1.0, 0.0, 0.5, 0.0, 0.5, 2 / 3))
    assert tuple(found["worse"].values()) == (0.5, 0.0, 1.0, 0.5, 1.0, -0.5, 0.5)

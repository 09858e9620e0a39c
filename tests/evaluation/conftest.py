"""A run's results as they could be, made up: what the report is drawn from in tests."""

import math

import numpy as np
import pytest

from rmjax.evaluation.calibration import calibration
from rmjax.evaluation.pairwise import ItemScore, accuracy, compare, compare_runs
from rmjax.evaluation.sections import Cost, Grades, Reading, ReportData
from rmjax.evaluation.summary import Row, accuracies
from rmjax.records import Judgment, Message, Preference


def item_scores(rng: np.random.Generator, rate: float, n: int = 1024, ties: float = 0.0) -> list[ItemScore]:
    """Outcomes at a given rate, on items that are the same from call to call."""
    outcomes = np.where(rng.random(n) < ties, 0.5, rng.random(n) < rate)
    return [ItemScore(id=f"item-{i}", outcome=float(o), subset=("easy", "hard")[i % 2]) for i, o in enumerate(outcomes)]


def fake_report() -> ReportData:
    rng = np.random.default_rng(3)
    rates = {
        ("SFT judge, greedy", 0): (0.652, 96.2),
        ("SFT judge, one sample", 0): (0.706, 3.1),
        ("Bradley-Terry head", 64): (0.525, 31.0),
        ("Bradley-Terry head", 2048): (0.655, 64.4),
        ("plain DPO, 2 samples per label", 64): (0.829, 12.5),
        ("plain DPO, one pair out of 16 samples", 64): (0.876, 14.9),
        ("GFRIEND", 64): (0.889, 17.2),
        ("DPO, all labels", 2048): (0.921, 61.0),
    }
    scores = {key: item_scores(rng, rate, ties=0.01 if key[1] == 0 else 0) for key, (rate, _) in rates.items()}
    rows = [
        Row.of(accuracy(s), method=m, labels=k, seed=0, seconds=rates[m, k][1])
        for (m, k), s in scores.items()
        if m != "GFRIEND"
    ]
    gfriend = [
        Row.of(accuracy(item_scores(rng, 0.885 + 0.01 * d)), method="GFRIEND", labels=64, seed=0, draw=d, seconds=17.2)
        for d in range(5)
    ]
    plain = [
        Row.of(accuracy(item_scores(rng, 0.85 + 0.01 * d)), method="plain", labels=64, seed=0, draw=d, seconds=12.0)
        for d in range(5)
    ]
    rows[6:6] = gfriend
    two, sixteen = "plain DPO, 2 samples per label", "plain DPO, one pair out of 16 samples"
    comparisons = [
        compare(scores["GFRIEND", 64], scores[two, 64], names=("GFRIEND", two)),
        compare(scores["GFRIEND", 64], scores[sixteen, 64], names=("GFRIEND", sixteen)),
        compare(scores["GFRIEND", 64], scores["DPO, all labels", 2048], names=("GFRIEND", "DPO, all labels")),
        compare_runs(accuracies(gfriend), accuracies(plain), names=("GFRIEND", "plain DPO, 2 samples, over draws")),
    ]

    def falling(n, start, end, noise):
        x = np.linspace(0, 1, n)
        return [(int(10 * i), float(end + (start - end) * math.exp(-5 * t) + noise * rng.normal()))
                for i, t in enumerate(x)]  # fmt: skip

    curves = {
        "SFT/loss": falling(75, 2.4, 0.62, 0.03),
        "SFT/grad_norm": falling(75, 4.0, 0.4, 0.1),
        "SFT/learning_rate": [(10 * i, 4e-3 * (0.5 + 0.5 * math.cos(math.pi * i / 75))) for i in range(75)],
        "SFT/perf/tokens_per_s": [(10 * i, 20000 + 800 * rng.normal()) for i in range(75)],
        "M-DPO, round 1/loss": [(i, 0.69 * math.exp(-i / 25) + 0.02 * rng.normal()) for i in range(30)],
        "M-DPO, round 1/rewards/accuracies": [(i, min(1.0, 0.5 + i / 40)) for i in range(30)],
        "M-DPO, round 1/rewards/margins": [(i, 0.05 * i + 0.02 * rng.normal()) for i in range(30)],
        "M-DPO, round 1/grad_norm": [(i, 1 + 0.1 * rng.normal()) for i in range(30)],
    }
    right, wrong = np.clip(rng.normal(0.56, 0.09, 690), 0, 1), np.clip(rng.normal(0.53, 0.1, 334), 0, 1)
    levels = {
        "strong accept": int((right > 0.55).sum()),
        "weak accept": int((right <= 0.55).sum()),
        "weak reject": int((wrong <= 0.55).sum()),
        "strong reject": int((wrong > 0.55).sum()),
    }
    made = {"judgments": 1024, "unparsed": 6, "labels without pairs": 5, "pairs": 2913, "share of all weight": 0.62}
    logits = rng.normal(1.6, 1.5, 1024)
    honest, sure = 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(-2.5 * logits))
    item = Preference(
        id="world-17",
        prompt=(Message("user", "about birds 2 + 3 short no green"),),
        chosen="birds 5 red done",
        rejected="birds 5 green more more done",
    )
    text = (
        "well now topic A bird fine B bird fine topic equal sum 5 A 5 right B 5 fine sum equal then word check A red "
        "good B green wrong word A by word A verdict {}"
    )

    def judgment(verdict, slot="A"):
        return Judgment(item="world-17", slot=slot, index=0, prompt=(1,), tokens=(1,), logps=(-0.1,), reasoning=1,
                        text=text.format(verdict), verdict=verdict, prob_a=0.83, finish="stop")  # fmt: skip

    grade = dict(grade=0.561, level="strong accept", PPL=5.78)
    readings = [
        Reading.of(item, judgment("A"), title="GFRIEND", **grade),
        Reading.of(item, judgment("B"), title="GFRIEND", **grade | {"level": "strong reject"}),
        Reading.of(item, judgment("B", slot="B"), title="SFT judge", **grade),
        Reading.of(item, judgment(None), title="SFT judge", grade=None),
    ]
    costs = [
        Cost(stage="SFT", seconds=96.2, tokens=1_920_000, note="shared by every judge"),
        Cost(stage="sample", seconds=6.4, labels=64, tokens=62_031),
        Cost(stage="refine", seconds=0.3, labels=64),
        Cost(stage="M-DPO", seconds=9.9, labels=64, tokens=71_400),
        Cost(stage="evaluate", seconds=11.8, tokens=61_440),
        Cost(stage="all-label DPO", seconds=61.0, labels=2048, tokens=512_000),
    ]
    run = {
        "command": "python -m rmjax.launch quickstart --workdir runs/mine --seed 0",
        "seed": 0,
        "seconds": 287.4,
        "attempts": [{"started": "2026-01-01T10:00:00+00:00", "seconds": 287.4}],
        "device": {"platform": "cpu", "kind": "cpu", "count": 1, "cores": 2, "processes": 1},
        "data": {"pairs.jsonl": "sha256:" + "0123456789abcdef" * 4},
        "versions": {"python": "3.11.4", "rmjax": "0.1.0, commit d59de9012345", "jax": "0.10.2", "flax": "0.12.8"},
        "config": {"class": "configs.quickstart:Quickstart", "seed": 0, "method": {"class": "a:B", "samples": 16,
                   "sampling": {"temperature": 1.0, "stop": []}, "rounds": 1}, "labels": [64, 2048]},
    }  # fmt: skip
    trivial = {
        "longer answer wins": accuracy(item_scores(rng, 0.52, ties=0.2)),
        "shorter answer wins": accuracy(item_scores(rng, 0.48, ties=0.2)),
        "bag of words, prompt-blind": accuracy(item_scores(rng, 0.55)),
    }
    return ReportData(
        title="GFRIEND on the judge world: 64 labels",
        testbed="controlled world",
        lead="A small judge, trained from scratch on faulty demonstrations, learns from 64 labelled pairs. Every row "
        "is evaluated on the same 1,024 held-out pairs, whose right answer is known.",
        rows=rows,
        baselines=trivial,
        comparisons=comparisons,
        subsets={
            "GFRIEND": {k: accuracy([s for s in scores["GFRIEND", 64] if s.subset == k]) for k in ("easy", "hard")}
        },
        curves=curves,
        grades={
            "Round 1": Grades(
                right=right, wrong=wrong, threshold=0.55, score="score exp(−PPL/10)", levels=levels, made=made
            )
        },
        calibration={
            "SFT judge": calibration(np.where(rng.random(1024) < honest, honest, 1 - honest)),
            "GFRIEND": calibration(np.where(rng.random(1024) < honest, sure, 1 - sure)),
        },
        readings=readings,
        costs=costs,
        run=run,
    )


@pytest.fixture(scope="session")
def report_data() -> ReportData:
    return fake_report()

"""The prototype inspector against loops: what goes straight and through, which answers are nearest, what is shown."""

import jax
import numpy as np
import pytest

from rmjax.data.features import Features
from rmjax.evaluation.pairwise import from_scores
from rmjax.jobs import prototype_panel
from rmjax.jobs.prototype_panel import LENGTH, NEAR, contents, excerpt, page
from rmjax.models import heads
from rmjax.models.heads import Prototypes
from rmjax.records import Message, Preference
from rmjax.training.frozen.basis import normalised

WIDTH, PAIRS, TESTS = 4, 12, 6
POOL = ("unit_cls", "unit_mean")
HEAD = Prototypes(embed=3, capacity=4, gamma=5.0, mix=0.4, centred=True)
VALID = [0, 2, 3]


class Known:
    """Pairs whose features are given."""

    def __init__(self, name: str, count: int, **of_first):
        r = np.random.default_rng(count)
        self.items = [
            Preference(
                prompt=(Message("user", f"{name} {i} <b>"),),
                chosen=f"yes {i} <script>",
                rejected=f"no {i} & <i>",
                id=f"{name}{i}",
                **(of_first if i == 0 else {}),
            )
            for i in range(count)
        ]
        x = r.normal(size=(2, count, 2 * WIDTH)).astype(np.float32)
        self.features = Features(tuple(p.id for p in self.items), x[0], x[1])


TRAIN, HELD = Known("t", PAIRS, tie=True), Known("h", TESTS)


@pytest.fixture(scope="module")
def params():
    r = np.random.default_rng(7)
    new = heads.split(HEAD, 2 * WIDTH).init(jax.random.key(0))
    return {
        **{name: np.asarray(leaf) for name, leaf in new.items()},
        "prototypes": r.normal(size=(4, 3)).astype(np.float32),
        "valid": np.array([1, 0, 1, 1], np.float32),
        "classes": np.array([1, 1, 0, 0], np.float32),
        "centre": r.normal(size=2 * WIDTH).astype(np.float32) / 10,
        "projection": r.normal(size=(2 * WIDTH, 3)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def rewards(params):
    sides = (HELD.features.chosen, HELD.features.rejected)
    score = heads.split(HEAD, 2 * WIDTH).apply
    return np.stack([np.asarray(score(params, normalised(x, 2))) for x in sides], axis=1)


@pytest.fixture(scope="module")
def found(params, rewards):
    return contents(HEAD, params, POOL, TRAIN, HELD, from_scores(HELD.items, rewards, logistic=True))


def test_straight_and_through_are_the_difference_of_the_rewards(found, rewards, params):
    place = {p.id: i for i, p in enumerate(HELD.items)}
    want = rewards[:, 0].astype(float) - rewards[:, 1]
    assert len(found["read"]) == TESTS  # of seven that are asked for; none twice
    for r in found["read"]:
        i = place[r["id"]]
        assert r["difference"] == pytest.approx(want[i], abs=1e-5)
        assert r["straight"] + r["through"] == pytest.approx(want[i], abs=1e-5)
        z = [
            (normalised(x[i : i + 1], 2)[0] - params["centre"]) @ params["projection"]
            for x in (HELD.features.chosen, HELD.features.rejected)
        ]
        assert r["straight"] == pytest.approx(0.6 * float((z[0] - z[1]) @ params["weight"]), abs=1e-5)
        assert [a["reward"] for a in r["answers"]] == pytest.approx(rewards[i].tolist())
    assert found["share"] == pytest.approx(
        np.sqrt(sum(r["through"] ** 2 for r in found["read"]) / sum(r["difference"] ** 2 for r in found["read"]))
    )


def test_answers_by_a_loop(found, params):
    answers = []  # (distance to each valid prototype, weights, side, pair)
    for side in ("chosen", "rejected"):
        for i in range(PAIRS):
            x = getattr(TRAIN.features, side)[i].astype(float)
            x = np.concatenate([part / np.linalg.norm(part) for part in np.split(x, 2)])
            z = (x - params["centre"]) @ params["projection"]
            far = np.array([np.linalg.norm(z - params["prototypes"][k]) for k in VALID])
            weight = np.exp(-5.0 * far**2)
            answers.append((far, weight / weight.sum(), side, i))
    pulls = [float(params["prototypes"][k] @ params["weight"]) for k in VALID]
    centre = np.mean([w @ pulls for _, w, _, _ in answers])
    assert {p["number"] for p in found["prototypes"]} == {1, 2, 3}
    assert [p["pull"] for p in found["prototypes"]] == sorted((p["pull"] for p in found["prototypes"]), reverse=True)
    for p in found["prototypes"]:
        k = p["number"] - 1
        assert p["began"] == ("chosen", "rejected", "rejected")[k]
        assert p["pull"] == pytest.approx(pulls[k] - centre, abs=1e-5)
        assert p["weight"] == pytest.approx(np.mean([w[k] for _, w, _, _ in answers]), abs=1e-5)
        mine = [(side, i) for far, _, side, i in answers if far.argmin() == k]
        assert p["answers"] == len(mine)
        judged = [side == "chosen" for side, i in mine if i > 0]  # pair 0 is a tie: nobody chose
        assert p["chosen"] == (pytest.approx(np.mean(judged)) if judged else None)
        near, seen = [], set()
        for far, _, side, i in sorted(answers, key=lambda a: a[0][k]):
            if i not in seen and len(near) < NEAR:
                near.append((f"t{i}", "one of a tie" if i == 0 else side, pytest.approx(far[k], abs=1e-4)))
                seen.add(i)
        assert [(e["id"], e["label"], e["distance"]) for e in p["examples"]] == near


def test_texts_are_escaped(found):
    html = page(found)
    assert "&lt;script&gt;" in html and "&lt;b&gt;" in html and "&amp; &lt;i&gt;" in html
    assert "<script" not in html and "<i>" not in html and html.count("<article") == TESTS
    assert "nearest to prototype 3" in html and prototype_panel.NOTE


def test_excerpts():
    assert excerpt("a\n\n b\tc") == "a b c"
    long = "字" * 1000
    assert excerpt(long) == "字" * (LENGTH - 2) + " …" and excerpt("x" * LENGTH) == "x" * LENGTH

"""The nearest linear head and the folding of heads into raw features, against slow float64 arithmetic."""

import jax
import numpy as np
import pytest

from rmjax.data.features import Features
from rmjax.errors import UserError
from rmjax.methods import nearest
from rmjax.methods.folding import folded
from rmjax.methods.nearest import Gap
from rmjax.models import heads
from rmjax.models.config import EncoderConfig
from rmjax.models.heads import Ensemble, Linear, Mlp, Prototypes, as_linear
from rmjax.models.model import Model
from rmjax.training.frozen.basis import Basis, normalised

WIDTH = 6
ENCODER = EncoderConfig(vocab=11, layers=1, embed=WIDTH, heads=2, mlp=8)
RANDOM = np.random.default_rng(0)


def features(pairs: int, width: int) -> Features:
    x = RANDOM.normal(2.0, 1.0, (2, pairs, width)).astype(np.float32)
    return Features(tuple(map(str, range(pairs))), x[0], x[1])


def test_gap_by_hand():
    gap = Gap.of(np.array([1.0, -2.0, 0.5, 0.0]), np.array([1.0, -1.0, -0.5, 0.0]))
    assert (gap.pairs, gap.max, gap.order) == (4, 1.0, 0.25)
    assert gap.rms == pytest.approx(np.sqrt(0.5)) and gap.explained == pytest.approx(1 - 2 / 5.25)
    assert not Gap.of(np.ones(4), np.zeros(4)).useful and Gap.of(np.ones(2), np.ones(2)).useful


def test_a_linear_score_is_found_and_held_out_gaps_are_honest():
    model = Model.of(ENCODER, Linear(), ("cls", "mean"))
    read, weight = RANDOM.normal(size=(80, 2, WIDTH)), RANDOM.normal(size=WIDTH)
    stand_in, gap = nearest.stand_in(model, {"encoder": {}}, read, read @ weight + 3.0, range(80))
    assert gap.rms < 1e-4 and gap.order == 0
    np.testing.assert_allclose(nearest.rewards(stand_in.params, "cls", read), read @ weight + 3.0, atol=1e-4)
    assert stand_in.model.pool == ("pooler",) and stand_in.nearest["pool"] == ["cls"]
    noise = RANDOM.normal(size=(12, 2))  # fewer pairs than could tell 6 weights: fitted pairs would flatter
    _, gap = nearest.stand_in(model, {"encoder": {}}, read[:12], noise, range(12))
    assert gap.explained < 0.5 and not gap.useful
    with pytest.raises(UserError, match="12 pairs of 1 prompt: the linear head"):
        nearest.stand_in(model, {"encoder": {}}, read[:12], noise, ["q"] * 12)


def test_pairs_of_a_prompt_are_left_out_together():
    """Two pairs of each prompt that are the same: apart, each would tell of the other."""
    read, scores = RANDOM.normal(size=(2 * WIDTH, 2, 40)), RANDOM.normal(size=(2 * WIDTH, 2))
    both, prompts = (np.repeat(a, 2, axis=0) for a in (read[:, 0] - read[:, 1], np.arange(2 * WIDTH)))
    y = np.repeat(scores[:, 0] - scores[:, 1], 2)
    together, apart = nearest.ridge(both, y, prompts.tolist())[1], nearest.ridge(both, y, range(len(y)))[1]
    assert apart.explained > 0.5 > together.explained


def test_a_linear_head_that_is_there_stays_unless_a_new_one_is_nearer():
    model, weight = Model.of(ENCODER, Linear(), ("cls", "mean")), RANDOM.normal(size=WIDTH)
    read = RANDOM.normal(size=(300, 2, WIDTH))
    scores = read @ weight + RANDOM.normal(size=(300, 2))
    fit = lambda part, **more: nearest.stand_in(
        model, {"encoder": {}}, read[part], scores[part], range(300)[part], **more
    )
    many, few, rest = slice(200), slice(200, 212), slice(212, 300)
    there, _ = fit(many)
    kept, gap = fit(few, known=there)
    assert kept is there and kept.nearest["pairs"] == 200 and gap.pairs == 12  # the gap that it came with goes along
    poor, _ = fit(few)
    assert fit(rest, known=poor)[0] is not poor


def test_ridge_against_the_normal_equations():
    x, y = RANDOM.normal(size=(30, 4)), RANDOM.normal(size=30)
    for penalty, got in zip(nearest.PENALTIES, nearest.paths(x, y), strict=True):
        want = np.linalg.solve(x.T @ x / 30 + penalty * np.eye(4), x.T @ y / 30)
        np.testing.assert_allclose(got, want, atol=1e-9)


def test_a_linear_head_on_the_same_feature_is_taken_over():
    """No pair decides it: with fewer pairs than features the weights are still the head's own."""
    weight = RANDOM.normal(size=WIDTH).astype(np.float32)
    model, params = Model.of(ENCODER, Linear(), ("cls",)), {"encoder": {}, "head": {"weight": weight}}
    read = RANDOM.normal(size=(3, 2, WIDTH))
    stand_in, gap = nearest.stand_in(model, params, read, read @ weight, "abc")
    np.testing.assert_allclose(stand_in.params["head"]["weight"] * nearest.SMALL, weight, rtol=1e-6)
    assert gap.max < 1e-6


@pytest.mark.parametrize(
    "config", [Linear(bias=True), Ensemble(members=3, of=Linear()), Prototypes(embed=3, capacity=2, centred=True)]
)
def test_heads_that_are_linear(config):
    head = heads.split(config, WIDTH)
    params, x = head.init(jax.random.key(1)), RANDOM.normal(size=(5, WIDTH)).astype(np.float32)
    params |= {"centre": RANDOM.normal(size=WIDTH).astype(np.float32)} if "centre" in params else {}
    weight, bias = as_linear(config, params)
    np.testing.assert_allclose(head.apply(params, x), x @ weight + bias, atol=1e-5)


def test_heads_that_are_not():
    for config in (Mlp(hidden=3), Ensemble(members=2, of=Linear(), lcb=1.0)):
        assert as_linear(config, heads.split(config, WIDTH).init(jax.random.key(0))) is None


@pytest.mark.parametrize("parts", [0, 2])
@pytest.mark.parametrize("config", [Linear(), Prototypes(embed=3, capacity=4, mix=0.5)])
def test_a_folded_head_gives_the_same_differences(config, parts):
    x = features(20, 2 * WIDTH)
    x = Features(x.ids, x.chosen + 100.0, x.rejected + 100.0)  # a common part much larger than what differs
    basis = Basis.fit(x, axes=5, parts=parts)
    head = heads.split(config, 5)
    params = head.init(jax.random.key(2))
    if isinstance(config, Prototypes):
        # Three of four are there; those are far from each other, so that assignments are far from uniform.
        params |= {"prototypes": RANDOM.normal(size=(4, 3)).astype(np.float32), "valid": np.array([1, 1, 0, 1.0])}
        params |= {"projection": RANDOM.normal(size=(5, 3)).astype(np.float32)}
    new, raw, pool = folded(config, params, basis, ("cls", "mean"))
    assert pool == (("unit_cls", "unit_mean") if parts else ("cls", "mean"))
    there = heads.split(new, 2 * WIDTH)
    score = lambda side: there.apply(raw, normalised(side, parts))
    want = head.apply(params, basis(x.chosen)) - head.apply(params, basis(x.rejected))
    assert np.std(want) > 1e-3
    np.testing.assert_allclose(score(x.chosen) - score(x.rejected), want, atol=2e-5)
    if isinstance(config, Prototypes):
        a = head.bind(params).assign(basis(x.chosen))
        np.testing.assert_allclose(there.bind(raw).assign(normalised(x.chosen, parts)), a, atol=1e-4)

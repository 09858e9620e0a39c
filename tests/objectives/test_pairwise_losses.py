"""The pairwise loss: closed-form vectors, identities, an independent float64 oracle, and refused data."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_oracle import example_groups, logp64, model, reward64, to_rows, unshared

from rmjax.data.rows import Group
from rmjax.errors import UserError
from rmjax.models.config import EncoderConfig
from rmjax.models.heads import Linear
from rmjax.models.model import Model
from rmjax.objectives.pairwise import Pairwise, either_flip, hinge_loss, ipo_loss, robust_loss, sigmoid_loss
from rmjax.objectives.scores import Implicit, LogProb, Scalar
from rmjax.training.step import gradients


def close(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=atol), a, b)


# --- the mathematics


@pytest.mark.parametrize(
    ("gap", "margin", "want"),
    [(1, 0, 0.313262), (1, 0.5, 0.474077), (1, 2, 1.313262), (-0.5, 1, 1.701413), (3, -1, 0.018150)],
)
def test_margin_vectors(gap, margin, want):
    assert sigmoid_loss(jnp.float32(gap - margin), 0.0) == pytest.approx(want, abs=2e-6)


@pytest.mark.parametrize(("gap", "a", "want"), [(1, 0.1, 0.413262), (-1, 0.1, 1.213262), (2, 0.2, 0.526928)])
def test_smoothing_vectors(gap, a, want):
    assert sigmoid_loss(jnp.float32(gap), a) == pytest.approx(want, abs=2e-6)


@pytest.mark.parametrize(("a", "at"), [(0.1, 2.1972), (0.2, 1.3863)])
def test_smoothed_minimum_is_the_log_odds(a, at):
    slope = jax.grad(lambda d: sigmoid_loss(d, a))
    assert slope(at) == pytest.approx(0.0, abs=1e-5)
    assert slope(at - 0.1) < 0 < slope(at + 0.1)


@pytest.mark.parametrize(("h", "want"), [(2, 0.598139), (0, 0.693147), (-2, 0.798139)])
def test_dpo_vectors(h, want):
    assert sigmoid_loss(jnp.float32(0.1 * h), 0.0) == pytest.approx(want, abs=2e-6)


@pytest.mark.parametrize("delta", [1e4, -1e4])
@pytest.mark.parametrize("loss", [sigmoid_loss, robust_loss])
def test_extreme_deltas_stay_finite(delta, loss):
    value, slope = jax.value_and_grad(loss)(jnp.float32(delta), 0.1)
    assert np.isfinite(value) and np.isfinite(slope)
    assert sigmoid_loss(jnp.float32(-1e4), 0.0) == 1e4
    assert sigmoid_loss(jnp.float32(1e4), 0.0) == 0.0


def test_formulas_of_trl():
    """TRL 1.16 dpo_trainer: the per-sequence losses in terms of h = beta * (log-ratio difference)."""
    torch = pytest.importorskip("torch")
    logsig, relu = torch.nn.functional.logsigmoid, torch.relu
    ratio, beta, eps = torch.linspace(-30, 30, 61, dtype=torch.float64), 0.25, 0.2
    h, delta = beta * ratio, jnp.asarray((beta * ratio).numpy(), jnp.float32)
    want = {
        "sigmoid": (-logsig(h), sigmoid_loss(delta, 0.0)),
        "hinge": (relu(1 - h), hinge_loss(delta)),
        "ipo": ((ratio - 1 / (2 * beta)) ** 2, ipo_loss(delta, beta=beta)),
        "robust": ((-(1 - eps) * logsig(h) + eps * logsig(-h)) / (1 - 2 * eps), robust_loss(delta, eps)),
    }
    for name, (theirs, ours) in want.items():
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=2e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("loss", ["sigmoid", "robust"])
def test_label_smoothing_of_trl(loss):
    """TRL 1.16 dpo_trainer: `label_smoothing` in terms of h = beta * (log-ratio difference)."""
    torch = pytest.importorskip("torch")
    logsig, h, eps = torch.nn.functional.logsigmoid, torch.linspace(-8, 8, 33, dtype=torch.float64), 0.2
    theirs = {
        "sigmoid": -logsig(h) * (1 - eps) - logsig(-h) * eps,
        "robust": (-logsig(h) * (1 - eps) + logsig(-h) * eps) / (1 - 2 * eps),
    }[loss]
    ours = Pairwise(loss=loss, label_smoothing=eps).per_pair(jnp.asarray(h.numpy(), jnp.float32), jnp.zeros(33))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=2e-5, atol=1e-5)


def test_robust_is_unbiased_under_both_flips():
    """The column's flip and label_smoothing's are independent: the four outcomes average to the clean loss."""
    delta, a, s = jnp.linspace(-3, 3, 7), 0.3, 0.1
    loss = lambda delta: Pairwise(loss="robust", label_smoothing=s).per_pair(delta, jnp.full(7, a))
    right = (1 - a) * (1 - s) + a * s
    close(right * loss(delta) + (1 - right) * loss(-delta), jax.nn.softplus(-delta))


def test_robust_is_unbiased_under_flips():
    delta, a = jnp.linspace(-3, 3, 7), 0.3
    noisy = (1 - a) * robust_loss(delta, a) + a * robust_loss(-delta, a)
    close(noisy, jax.nn.softplus(-delta))


# --- the objective on packed rows


@pytest.fixture(scope="module")
def setup():
    m = model()
    return m, m.init(jax.random.key(0)), example_groups()


def oracle(params, groups, objective: Pairwise):
    """The same loss by loops over groups and pairs, one sequence at a time, in float64."""
    total = weight = count = 0.0
    for g in groups:
        logps = [logp64(params, g.prompt, c) for c in g.completions]
        lengths = [len(c) for c in g.completions]
        if isinstance(objective.score, Scalar):
            scores = [reward64(params, g.prompt, c) for c in g.completions]
        else:
            norm = lengths if objective.score.length_normalised else [1] * len(lengths)
            scores = [objective.score.beta * (l - r) / n for l, r, n in zip(logps, g.ref_logps, norm, strict=True)]
        for i, (a, b) in enumerate(g.pairs):
            w = g.weight[i] if g.weight else 1.0
            m, e = (g.margin[i], g.smooth[i]) if g.margin else (0.0, 0.0)
            e = e * (1 - objective.label_smoothing) + (1 - e) * objective.label_smoothing
            d = scores[a] - scores[b] - m
            up, down = jnp.log1p(jnp.exp(-d)), jnp.log1p(jnp.exp(d))
            loss = {
                "sigmoid": (1 - e) * up + e * down,
                "robust": ((1 - e) * up - e * down) / (1 - 2 * e),
                "hinge": jnp.maximum(0, 1 - d),
                "ipo": (d / objective.score.beta - 1 / (2 * objective.score.beta)) ** 2,
            }[objective.loss]
            h = objective.dpo_beta * (logps[a] - logps[b])
            up, down = jnp.log1p(jnp.exp(-h)), jnp.log1p(jnp.exp(h))
            robust = objective.loss == "robust"
            keep = ((1 - e) * up - e * down) / (1 - 2 * e) if robust else (1 - e) * up + e * down
            loss = loss + objective.dpo * keep
            loss = loss - objective.sft * logps[a] / lengths[a] + objective.center * (scores[a] + scores[b]) ** 2
            total, weight, count = total + w * loss, weight + w, count + 1
    return total / (weight if objective.normalise == "weight" else count)


OBJECTIVES = [
    Pairwise(),
    Pairwise(normalise="count", sft=0.3),
    Pairwise(loss="robust", score=Implicit(beta=0.5, length_normalised=True)),
    Pairwise(label_smoothing=0.15),
    Pairwise(loss="robust", label_smoothing=0.1),
    Pairwise(loss="hinge"),
    Pairwise(loss="ipo", score=Implicit(beta=0.2, length_normalised=True)),
    Pairwise(score=Scalar(), center=0.01, sft=0.1, dpo=0.2, dpo_beta=0.3, label_smoothing=0.05),
    Pairwise(score=Scalar(), loss="robust", dpo=0.2),
]


@pytest.mark.parametrize(
    "objective", OBJECTIVES, ids=lambda o: f"{o.loss}-{type(o.score).__name__}-{o.sft}-{o.dpo}-{o.label_smoothing}"
)
def test_packed_is_unshared_is_oracle(objective):
    m = model(isinstance(objective.score, Scalar))
    params, groups = m.init(jax.random.key(1)), example_groups()
    if objective.loss in ("hinge", "ipo"):
        groups = [dataclasses.replace(g, smooth=(0.0,) * len(g.pairs)) for g in groups]
    objective.check(groups, m)
    step = jax.jit(lambda p, rows: gradients(m, objective, p, rows))
    packed, out = step(params, to_rows([groups[:2], groups[2:]]))
    lone, out_lone = step(params, unshared(groups))
    with jax.enable_x64(True):
        params64 = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), params)
        want, want_grad = jax.value_and_grad(oracle)(params64, groups, objective)
    assert float(out.loss.value()) == pytest.approx(float(want), rel=1e-5)
    assert float(out_lone.loss.value()) == pytest.approx(float(want), rel=1e-5)
    close(packed, want_grad, rtol=1e-3, atol=2e-5)
    close(lone, want_grad, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("loss", ["sigmoid", "robust"])
def test_label_smoothing_is_a_constant_column(setup, loss):
    m, params, groups = setup
    bare = [dataclasses.replace(g, smooth=()) for g in groups]
    column = [dataclasses.replace(g, smooth=[0.2] * len(g.pairs)) for g in groups]
    rows = [to_rows([found]) for found in (bare, column)]
    smoothed, plain = (Pairwise(loss=loss, label_smoothing=s) for s in (0.2, 0.0))
    both = jax.jit(lambda p, a, b: (gradients(m, smoothed, p, a), gradients(m, plain, p, b)))
    (grads, out), (want_grads, want) = both(params, *rows)
    close(grads, want_grads)
    assert float(out.loss.value()) == pytest.approx(float(want.loss.value()), rel=1e-6)


def test_no_label_smoothing_is_the_column_itself():
    column = jnp.linspace(0, 1, 101)
    np.testing.assert_array_equal(either_flip(column, 0.0), column)


def test_every_parameter_learns(setup):
    m, params, groups = setup
    grads = jax.jit(lambda p: gradients(m, Pairwise(), p, to_rows([groups]))[0])(params)
    dead = [k for k, g in jax.tree_util.tree_leaves_with_path(grads) if not np.any(np.asarray(g))]
    assert not dead


def test_zero_ratio_gives_log_two(setup):
    """At the reference policy every loss is weight * log 2, and M-DPO with weights is DPO."""
    m, params, groups = setup
    groups = [dataclasses.replace(g, margin=(), smooth=()) for g in groups]
    rows = to_rows([groups])
    rows = dataclasses.replace(rows, ref_logps=LogProb()(m, params, rows))
    mean = Pairwise()(m, params, rows)
    assert float(mean.loss.value()) == pytest.approx(math.log(2), rel=1e-6)
    weights = [w for g in groups for w in g.weight]
    count = Pairwise(normalise="count")(m, params, rows)
    assert float(count.loss.value()) == pytest.approx(math.log(2) * np.mean(weights), rel=1e-6)
    assert float(mean.metrics["rewards/margins"].value()) == pytest.approx(0.0, abs=1e-6)


def test_metrics_count_pairs_once(setup):
    m, params, groups = setup
    rows = to_rows([groups])
    out = Pairwise(score=Implicit(beta=0.3))(m, params, rows)
    logps = [[float(logp64(params, g.prompt, c)) for c in g.completions] for g in groups]
    pairs = [(i, a, b) for i, g in enumerate(groups) for a, b in g.pairs]
    reward = lambda i, c: 0.3 * (logps[i][c] - groups[i].ref_logps[c])
    want = {
        "rewards/chosen": [reward(i, a) for i, a, _ in pairs],
        "rewards/rejected": [reward(i, b) for i, _, b in pairs],
        "rewards/accuracies": [reward(i, a) > reward(i, b) for i, a, b in pairs],
        "rewards/margins": [reward(i, a) - reward(i, b) for i, a, b in pairs],
        "logps/chosen": [logps[i][a] for i, a, _ in pairs],
        "logps/rejected": [logps[i][b] for i, _, b in pairs],
    }
    assert set(out.metrics) == set(want)
    for name, values in want.items():
        assert float(out.metrics[name].value()) == pytest.approx(float(np.mean(values)), rel=1e-4, abs=1e-5), name


def test_scalar_metrics():
    m = model(head=True)
    params, groups = m.init(jax.random.key(2)), example_groups()
    rows = to_rows([groups, []])
    out = Pairwise(score=Scalar())(m, params, rows)
    rewards = [[float(reward64(params, g.prompt, c)) for c in g.completions] for g in groups]
    flat = [r for group in rewards for r in group]
    gaps = [rewards[i][a] - rewards[i][b] for i, g in enumerate(groups) for a, b in g.pairs]
    want = dict(
        accuracy=np.mean(np.array(gaps) > 0), margin=np.mean(gaps),
        mean_reward=np.mean(flat), min_reward=min(flat), max_reward=max(flat),
    )  # fmt: skip
    got = {k: float(v.value()) for k, v in out.metrics.items()}
    assert got == pytest.approx(want, rel=1e-4, abs=1e-5)


def test_batch_without_pairs_gives_no_gradient(setup):
    m, params, _ = setup
    grads, out = gradients(m, Pairwise(), params, to_rows([[]]))
    assert float(out.loss.value()) == 0.0
    assert all(not np.any(np.asarray(g)) for g in jax.tree.leaves(grads))


def test_microbatches_are_exact_on_ragged_rows(setup):
    """Rows of very different numbers of pairs: sums over weights, not a mean of means."""
    m, params, _ = setup
    groups = example_groups(5, count=6)
    rows = to_rows([groups[:3], [], groups[3:4], groups[4:]])
    (whole, out), (parts, part) = jax.jit(lambda p: [gradients(m, Pairwise(), p, rows, n) for n in (1, 4)])(params)
    close(parts, whole)
    close(part.metrics, out.metrics, atol=1e-4)
    assert float(part.loss.value()) == pytest.approx(float(out.loss.value()), rel=1e-6)


# --- what is refused

GOOD = Group(id="g7", prompt=[1], completions=[[2], [3]], ref_logps=[-1.0, -1.0], pairs=[(0, 1)])


@pytest.mark.parametrize(
    ("objective", "change", "words"),
    [
        (Pairwise(), {"ref_logps": ()}, ["g7", "ref_logps"]),
        (Pairwise(), {"pairs": ()}, ["no pairs"]),
        (Pairwise(), {"weight": (1.0, 2.0)}, ["g7", "weight", "1 pairs"]),
        (Pairwise(), {"weight": (-1.0,)}, ["g7", "weight=-1.0"]),
        (Pairwise(), {"margin": (math.nan,)}, ["g7", "margin=nan"]),
        (Pairwise(loss="ipo"), {"smooth": (0.1,)}, ["g7", "smooth=0.1", "ipo"]),
        (Pairwise(loss="hinge"), {"smooth": (0.1,)}, ["g7", "smooth=0.1", "hinge"]),
        (Pairwise(loss="robust"), {"smooth": (0.5,)}, ["g7", "0.5", "robust"]),
        (Pairwise(), {"smooth": (1.5,)}, ["g7", "1.5"]),
        (Pairwise(label_smoothing=0.5), {"smooth": (1.5,)}, ["g7", "smooth=1.5", "label_smoothing=0.5"]),
        (Pairwise(loss="robust", label_smoothing=0.1), {"smooth": (0.5,)}, ["g7", "smooth=0.5", "0.1: 0.5"]),
    ],
)
def test_unusable_columns_are_refused(objective, change, words):
    objective.check([GOOD])
    with pytest.raises(UserError) as e:
        objective.check([dataclasses.replace(GOOD, **change)])
    assert all(w in str(e.value) for w in words) and "\n" not in str(e.value)


def test_scalar_needs_a_head():
    with pytest.raises(UserError, match="no reward head"):
        Pairwise(score=Scalar()).check([GOOD], model())


@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_log_probabilities_need_an_output_head(name):
    objective = Pairwise(score=Scalar(), **{name: 0.1})
    objective.check([GOOD], model(head=True))
    encoder = Model.of(EncoderConfig(vocab=7, layers=1, embed=4, heads=1, mlp=4), Linear())
    for without in (encoder, model(head=True).with_config(lm_head=False)):
        with pytest.raises(UserError, match=rf"^objective.{name}=0.1: the model has no output head"):
            objective.check([GOOD], without)


def test_the_regulariser_trains_the_output_head(setup):
    """And without it that head is left alone."""
    _, _, groups = setup
    m, rows = model(head=True), to_rows([groups])
    objectives = [Pairwise(score=Scalar(), dpo=0.1), Pairwise(score=Scalar())]
    both = jax.jit(lambda p: [gradients(m, o, p, rows)[0] for o in objectives])
    grads, plain = both(m.init(jax.random.key(0)))
    dead = [k for k, g in jax.tree_util.tree_leaves_with_path(grads) if not np.any(np.asarray(g))]
    assert not dead
    assert not np.any(plain["decoder"]["unembed"]) and np.any(grads["decoder"]["unembed"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Pairwise(loss="dpo"),
        lambda: Pairwise(normalise="mean"),
        lambda: Pairwise(sft=-1.0),
        lambda: Pairwise(sft=math.inf),
        lambda: Pairwise(score=Scalar(), center=math.nan),
        lambda: Pairwise(center=0.1),
        lambda: Pairwise(dpo=0.1),
        lambda: Pairwise(score=Scalar(), dpo=-0.1),
        lambda: Pairwise(score=Scalar(), dpo=0.1, dpo_beta=0.0),
        lambda: Pairwise(score=Scalar(), dpo_beta=0.2),
        lambda: Pairwise(loss="ipo", label_smoothing=0.1),
        lambda: Pairwise(loss="hinge", label_smoothing=0.1),
        lambda: Pairwise(loss="robust", label_smoothing=0.5),
        lambda: Pairwise(label_smoothing=1.1),
        lambda: Pairwise(label_smoothing=-0.1),
        lambda: Pairwise(label_smoothing=math.nan),
        lambda: Implicit(beta=0.0),
        lambda: Implicit(beta=math.inf),
    ],
)
def test_impossible_options_are_refused(make):
    with pytest.raises(UserError):
        make()

"""The sampler against the full forward pass, and against itself in other batches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmjax.errors import UserError
from rmjax.sampling.policy import Sampling
from rmjax.sampling.scheduler import Request, Sampler

LENGTHS = (3, 9, 5, 17, 4, 6, 3)


def requests(samples: int = 3) -> list[Request]:
    rng = np.random.default_rng(3)
    return [Request(f"q{i}", rng.integers(1, 29, n).tolist(), samples) for i, n in enumerate(LENGTHS)]


def forward(model, params, ids) -> np.ndarray:
    """Log-probabilities [t, v] by the packed-row forward pass, one plain sequence padded to 64."""
    row = np.zeros((1, 64), np.int32)
    row[0, : len(ids)] = ids
    at = np.arange(64)[None]
    group = np.where(at < len(ids), 0, -1)
    return np.asarray(_forward(model)(params, row, at, group, np.zeros_like(row)))[0, : len(ids)]


@functools.cache
def _forward(model):
    @jax.jit
    def run(params, tokens, positions, group, branch):
        net = model.bind(params)
        return jax.nn.log_softmax(net.logits(net.hidden(tokens, positions, group, branch)))

    return run


def run(tiny, chat, sampling, asked, *, seed=5, **kwargs):
    return Sampler(*tiny, chat, sampling, seed=seed, quiet=True, **kwargs).run(asked)


def test_greedy_is_repeated_argmax(tiny, chat):
    model, params = tiny
    rollouts = run(tiny, chat, Sampling(temperature=0, max_new_tokens=12), requests(1), prompts=4)
    for request, rollout in zip(requests(1), rollouts, strict=True):
        ids, tokens = list(request.prompt), []
        while len(tokens) < 12 and 0 not in tokens:
            tokens.append(int(forward(model, params, ids + tokens)[-1].argmax()))
        assert rollout.tokens == tuple(tokens)
        assert rollout.finish == ("stop" if tokens[-1] == 0 else "length")


def test_recorded_log_probabilities_are_teacher_forced_ones(tiny, chat):
    model, params = tiny
    sampling = Sampling(temperature=1.7, top_k=20, max_new_tokens=30, watch=(4, 11))
    for rollout, request in zip(run(tiny, chat, sampling, requests(1)), requests(1), strict=True):
        logps = forward(model, params, [*request.prompt, *rollout.tokens])[len(request.prompt) - 1 : -1]
        np.testing.assert_allclose(rollout.logps, logps[np.arange(len(rollout.tokens)), rollout.tokens], atol=1e-4)
        np.testing.assert_allclose(rollout.watched, logps[:, [4, 11]], atol=1e-4)


@pytest.mark.parametrize("shape", [{"prompts": 1, "slots": 1}, {"prompts": 2, "slots": 2}, {"prompts": 8, "slots": 4}])
def test_a_sample_does_not_depend_on_its_batch(tiny, chat, shape):
    sampling = Sampling(max_new_tokens=20)
    usual = {(r.id, r.index): r for r in run(tiny, chat, sampling, requests())}
    for r in run(tiny, chat, sampling, requests()[::-1], **shape):
        assert r.tokens == usual[r.id, r.index].tokens
        np.testing.assert_allclose(r.logps, usual[r.id, r.index].logps, atol=1e-5)


def test_a_sample_depends_on_seed_id_and_index_alone(tiny, chat):
    sampling = Sampling(max_new_tokens=20)
    request = requests()[1]
    tokens = lambda asked, seed=5: [r.tokens for r in run(tiny, chat, sampling, [asked], seed=seed)]
    whole = tokens(dataclasses.replace(request, samples=6))
    assert tokens(dataclasses.replace(request, samples=2, first=3)) == whole[3:5]
    assert len(set(whole)) == 6
    assert tokens(dataclasses.replace(request, id="other")) != whole[:3]
    assert tokens(request, seed=6) != whole[:3]


def test_results_in_order_of_requests(tiny, chat):
    rollouts = run(tiny, chat, Sampling(max_new_tokens=5), requests(2), prompts=2, slots=1)
    assert [(r.id, r.index) for r in rollouts] == [(f"q{i}", k) for i in range(len(LENGTHS)) for k in range(2)]


def test_long_completions_outgrow_the_first_cache(tiny, chat):
    """90 tokens, the suffix cache grows from 64 to 96 on the way; slots are refilled at different times."""
    model, params = tiny
    chat = dataclasses.make_dataclass("Endless", ["eos", "text"])((), chat.text)
    sampling = Sampling(max_new_tokens=90)
    asked = [dataclasses.replace(r, samples=3) for r in requests()[:3]]
    for rollout in run(tiny, chat, sampling, asked, prompts=2, slots=2):
        assert len(rollout.tokens) == 90 and rollout.finish == "length"
        prompt = next(r.prompt for r in asked if r.id == rollout.id)
        ids = np.zeros((1, 128), np.int32)
        ids[0, : len(prompt) + 90] = [*prompt, *rollout.tokens]
        at = np.arange(128)[None]
        logps = _forward(model)(params, ids, at, np.zeros_like(ids), np.zeros_like(ids))[0]
        own = np.asarray(logps)[len(prompt) - 1 + np.arange(90), rollout.tokens]
        np.testing.assert_allclose(rollout.logps, own, atol=1e-4)


def test_constrained_to_labels(tiny, chat):
    sampling = Sampling(max_new_tokens=1, allowed=(9, 2), watch=(9, 2))
    asked = [dataclasses.replace(requests()[0], samples=400)]
    rollouts = run(tiny, chat, sampling, asked)
    watched = np.exp(rollouts[0].watched[0])
    share = watched[0] / watched.sum()
    hits = np.mean([r.tokens == (9,) for r in rollouts])
    assert all(r.tokens in ((9,), (2,)) for r in rollouts)
    assert abs(hits - share) < 4 * np.sqrt(share * (1 - share) / 400)
    label = 9 if share > 0.5 else 2
    assert run(tiny, chat, dataclasses.replace(sampling, temperature=0), requests(1)[:1])[0].tokens == (label,)
    # recorded before the constraint: the model's own
    model, params = tiny
    logps = forward(model, params, asked[0].prompt)[-1]
    np.testing.assert_allclose([r.logps[0] for r in rollouts], [logps[r.tokens[0]] for r in rollouts], atol=1e-4)


def test_nothing_compiles_twice(tiny, chat):
    """Another seed, prompt length within the bucket, order, number of requests and max_new_tokens: same programs."""
    sampling = Sampling(max_new_tokens=20)
    run(tiny, chat, sampling, requests(2), prompts=2, slots=2)
    with jax.log_compiles(False), _Compilations() as count:
        run(tiny, chat, sampling, requests(3)[:5], seed=9, prompts=2, slots=2)
        run(tiny, chat, dataclasses.replace(sampling, max_new_tokens=18), requests(1), prompts=2, slots=2)
        run(tiny, chat, dataclasses.replace(sampling, stop=("ab",)), requests(1)[::-1], prompts=2, slots=2)
    assert count.names == []


class _Compilations:
    """Counts what jax compiles."""

    def __enter__(self):
        self.names: list[str] = []
        self._listen = lambda name, _seconds, **_: self.names.append(name) if "backend_compile" in name else None
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_):
        jax.monitoring.unregister_event_duration_listener(self._listen)


def test_impossible_requests(tiny, chat):
    sampler = Sampler(*tiny, chat, Sampling(max_new_tokens=4), seed=0, quiet=True)
    good = Request("a", [1, 2])
    for bad, word in (
        ([good, good], "repeats"),
        ([Request("", [1])], "empty"),
        ([Request("b", [])], "prompt is empty"),
        ([Request("b", [29])], "outside 0..28"),
        ([Request("b", [-1])], "outside"),
        ([Request("b", [1], samples=0)], "samples=0"),
    ):
        with pytest.raises(UserError, match=word):
            sampler.run(bad)
    assert sampler.run([]) == []
    with pytest.raises(UserError, match="id 29 is beyond"):
        Sampler(*tiny, chat, Sampling(watch=(29,)), seed=0)
    with pytest.raises(UserError, match="seed=-1"):
        Sampler(*tiny, chat, Sampling(), seed=-1)


def test_broken_weights_are_an_error(tiny, chat):
    model, params = tiny
    broken = jax.tree.map(lambda x: x * jnp.nan, params)
    with pytest.raises(UserError, match="not finite"):
        Sampler(model, broken, chat, Sampling(max_new_tokens=4), seed=0, quiet=True).run(requests())

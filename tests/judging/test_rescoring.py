"""Teacher-forced log-probabilities against one forward pass per prefix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmjax.judging.rescoring import token_scores
from rmjax.models.config import DecoderConfig
from rmjax.models.model import Model

CONFIG = DecoderConfig(vocab=40, layers=2, embed=32, heads=2, kv_heads=2, head_dim=16, mlp=48)
LONGEST = 20


@pytest.fixture(scope="module")
def policy():
    model = Model.of(CONFIG)
    return model, jax.tree.map(lambda x: 3 * x, model.init(jax.random.key(0)))  # away from the uniform distribution


def oracle(model, params):
    """(prompt, completion) -> log softmax, in float64, of the last logits of one forward pass per prefix."""

    @jax.jit
    def last_logits(ids, length):
        here = jnp.arange(LONGEST)[None]
        module = model.bind(params)
        hidden = module.hidden(ids, here, jnp.where(here < length, 0, -1), jnp.zeros_like(here))
        return module.logits(hidden[0, length - 1])

    def slow(prompt, completion):
        out = []
        for k, token in enumerate(completion):
            ids = np.zeros((1, LONGEST), np.int32)
            ids[0, : len(prompt) + k] = [*prompt, *completion[:k]]
            logits = np.asarray(last_logits(ids, len(prompt) + k), np.float64)
            out.append(logits[token] - np.logaddexp.reduce(logits))
        return out

    return slow


def test_scores_are_the_policys_token_by_token(policy):
    slow = oracle(*policy)
    rng = np.random.default_rng(0)
    sequences = [
        (rng.integers(0, 40, size=rng.integers(1, 9)).tolist(), rng.integers(0, 40, size=rng.integers(1, 12)).tolist())
        for _ in range(9)
    ]
    for batch in (1, 4):
        found = token_scores(*policy, sequences, batch=batch)
        for (prompt, completion), scores in zip(sequences, found, strict=True):
            assert len(scores) == len(completion)
            np.testing.assert_allclose(scores, slow(prompt, completion), atol=1e-4)


def test_nothing_to_score(policy):
    assert token_scores(*policy, []) == []

"""A tiny model and a chat over its ids, for all tests of sampling."""

import jax
import pytest

from rmjax.models.config import DecoderConfig
from rmjax.models.model import Model

VOCAB = 29


class Letters:
    """A chat whose ids 1..26 are letters, 27 a space, 28 a two-letter token; 0 ends a completion."""

    eos = (0,)
    pad = 0

    def text(self, ids) -> str:
        return "".join("" if i == 0 else " " if i == 27 else "ab" if i == 28 else chr(96 + i) for i in ids)


@pytest.fixture(scope="session")
def chat() -> Letters:
    return Letters()


@pytest.fixture(scope="session")
def tiny() -> tuple[Model, dict]:
    """Two layers, grouped queries, an untied head; weights large enough for distributions that are far from uniform."""
    config = DecoderConfig(vocab=VOCAB, layers=2, embed=16, heads=4, kv_heads=2, head_dim=8, mlp=24, tied=False)
    model = Model.of(config)
    params = model.init(jax.random.key(7))
    params["decoder"] |= {name: 30 * params["decoder"][name] for name in ("table", "unembed")}
    return model, params

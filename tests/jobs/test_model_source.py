"""What jobs that write text are given: a language model, or one line that says what it is."""

import jax
import pytest

from rmjax.errors import UserError
from rmjax.jobs.sources import ModelSource
from rmjax.models import hf
from rmjax.models.config import EncoderConfig
from rmjax.models.model import Model


def test_an_encoder_is_no_language_model(tmp_path):
    model = Model.of(EncoderConfig(vocab=16, layers=1, embed=4, heads=2, mlp=4, max_positions=8))
    hf.save(tmp_path / "encoder", model, model.init(jax.random.key(0)))
    with pytest.raises(UserError, match=r"encoder: an encoder cannot write.*such as train, head, score"):
        ModelSource(path=str(tmp_path / "encoder")).load()

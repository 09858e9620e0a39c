"""The untrained model of the small world: a decoder from scratch and a tokenizer with one id per word.

Written as a Hugging Face directory, so that it is loaded, trained and saved like any other model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from rmjax.data.chat import Chat
from rmjax.models import hf
from rmjax.models.config import DecoderConfig, Rope
from rmjax.models.model import Model
from rmjax.worlds.language import WORDS

UNKNOWN, PAD, EOS = "<unk>", "<pad>", "<eos>"
MAX_POSITIONS = 128  # a judge prompt has at most 30 words, a transcript 58
TABLE_SCALE = 3.0  # times the usual initial embeddings (0.02): the checks are learnt in a third of the transcripts

# Contents as they are, and the end of a turn after what the assistant says: a bare prompt of the world stays one.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}" + EOS + "{% else %} {% endif %}{% endfor %}"
)

DECODER = DecoderConfig(
    vocab=len(WORDS) + 3,
    layers=2,
    embed=128,
    heads=4,
    kv_heads=4,
    head_dim=32,
    mlp=256,
    max_positions=MAX_POSITIONS,
    rope=Rope(theta=1000.0),
)


def tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """One id per word, words split at whitespace; a word from elsewhere is <unk>."""
    level = Tokenizer(WordLevel({word: index for index, word in enumerate((UNKNOWN, *words))}, unk_token=UNKNOWN))
    level.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=level,
        unk_token=UNKNOWN,
        pad_token=PAD,
        eos_token=EOS,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
    )


def decoder(words: Sequence[str]) -> DecoderConfig:
    """`DECODER` for another list of words."""
    return dataclasses.replace(DECODER, vocab=len(words) + 3)


def write(path: Path | str, *, config: DecoderConfig = DECODER, seed: int = 0, words: Sequence[str] = WORDS) -> Path:
    """Writes config, random weights, tokenizer and token contract to `path`; the same seed gives the same bytes.

    Args:
        config: with a vocabulary of `words` and 3 more (`decoder`).
        words: what the tokenizer knows. The judge world's list stays as it is: its initial weights depend on it.
    """
    model, chat = Model.of(config), Chat(tokenizer(words))
    params = model.init(jax.random.key(seed))
    params["decoder"]["table"] = TABLE_SCALE * params["decoder"]["table"]
    return hf.save(path, model, params, tokenizer=chat.tokenizer, eos=chat.eos, pad=chat.pad, files=chat.save)

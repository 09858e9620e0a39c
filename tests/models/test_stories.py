"""The real checkpoint stories260K: loading, greedy decoding with the shared-prompt cache, and its tokenizer."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import llama2c
from transformers import AutoModelForCausalLM, AutoTokenizer

from rmjax.models import hf
from rmjax.models.cache import SuffixCache

PUBLISHED = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a "
    "big, red ball. She wanted to play with it, but it was too high.\nLily's mom said, \"Lily, let's go to the park.\" "
    "Lily was sad and didn't know what to do. She said, \"I want to play with your ball, but I can't find it.\""
)


@pytest.fixture(scope="module")
def stories(shared, tmp_path_factory) -> Path:
    folder = shared / "weights" / "stories260K"
    return llama2c.convert(folder / "stories260K.bin", folder / "tok512.bin", tmp_path_factory.mktemp("stories"))


def greedy(directory: Path, prompts: list[list[int]], count: int) -> list[list[int]]:
    """Repeated argmax through prefill and step, all prompts at once, two samples each (which must agree)."""
    model, params = hf.load(directory)
    lengths = jnp.asarray([len(p) for p in prompts], jnp.int32)
    tokens = jnp.asarray([p + [0] * (max(map(len, prompts)) - len(p)) for p in prompts], jnp.int32)

    @jax.jit
    def run(params, tokens, lengths):
        net = model.bind(params)
        last, prompt = net.prefill(tokens, lengths)
        first = jnp.repeat(jnp.argmax(net.logits(last), axis=-1)[:, None], 2, axis=1).astype(jnp.int32)

        def step(carry, _):
            token, suffix = carry
            hidden, suffix = net.step(token, prompt, suffix)
            return (jnp.argmax(net.logits(hidden), axis=-1).astype(jnp.int32), suffix), token

        empty = SuffixCache.empty(model.config, len(prompts), 2, count)
        return jax.lax.scan(step, (first, empty), length=count)[1]

    out = np.moveaxis(np.asarray(run(params, tokens, lengths)), 0, -1)
    np.testing.assert_array_equal(out[:, 0], out[:, 1])
    return out[:, 0].tolist()


@pytest.fixture(scope="module")
def texts(stories) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts (the first is the BOS token alone) and our greedy continuations."""
    tokenizer = AutoTokenizer.from_pretrained(stories)
    prompts = [tokenizer(text)["input_ids"] for text in ("One day, Tom and Sue went to", "The cat")]
    assert all(p[0] == 1 for p in prompts)
    prompts.insert(0, [1])
    return prompts, greedy(stories, prompts, 200)


def test_greedy_text_is_the_published_one(stories, texts):
    assert AutoTokenizer.from_pretrained(stories).decode(texts[1][0]).startswith(PUBLISHED)


def test_greedy_text_is_that_of_transformers(stories, texts):
    torch = pytest.importorskip("torch")
    theirs = AutoModelForCausalLM.from_pretrained(stories)
    for prompt, got in zip(*texts, strict=True):
        out = theirs.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=60, eos_token_id=None)
        assert out[0, len(prompt) :].tolist() == got[:60]


def test_tokenizer_is_sentencepiece(shared):
    """The converted format against sentencepiece itself, on the vocabulary that exists in both."""
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = shared / "weights" / "tokenizers" / "llama2c_tok4096"
    ours = llama2c.tokenizer(folder / "tokenizer4096.bin", 4096, 512)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer4096.model"))
    for text in (
        "Once upon a time, there was a little girl.",
        "Zoë said: “no”!\n\nThen she left.",
        "aaaa bb c",
        "日本 7",
    ):
        assert ours(text)["input_ids"] == [1, *theirs.encode(text)]
        assert ours.decode(theirs.encode(text)) == text

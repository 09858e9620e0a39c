"""The small world's base model: text in, text out through the token contract, as for any Hugging Face directory."""

import jax
import numpy as np
import pytest
from transformers import AutoConfig, AutoTokenizer

from rmjax.data.chat import Chat
from rmjax.judging.verdicts import Labels, parse
from rmjax.models import hf
from rmjax.worlds.base_model import DECODER, MAX_POSITIONS, TABLE_SCALE
from rmjax.worlds.judge_world import JudgeWorld
from rmjax.worlds.language import WORDS

WORLD = JudgeWorld()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return WORLD.write_base(tmp_path_factory.mktemp("base") / "base", seed=3)


def test_transformers_reads_it(base):
    config, tokenizer = AutoConfig.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (2, 128, len(tokenizer))
    assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert all(tokenizer(word)["input_ids"] == [tokenizer.convert_tokens_to_ids(word)] for word in WORDS)
    assert len({tokenizer.convert_tokens_to_ids(word) for word in WORDS}) == len(WORDS) == len(tokenizer) - 3
    assert tokenizer.unk_token_id not in tokenizer(" ".join(WORDS))["input_ids"]


def test_records_go_through_the_token_contract_and_back(base):
    chat, prompt = Chat.load(base), WORLD.prompt()
    assert chat.bos is None and chat.end not in chat.text_ids(" ".join(WORDS))
    longest = [0, 0]
    for d in WORLD.demonstrations(1000):
        ids, completion = chat.prompt_ids(d.prompt), chat.completion_ids(d.completion)
        assert chat.text(ids) == d.prompt[0].content
        assert chat.text(completion) == d.completion
        assert len(ids) == len(d.prompt[0].content.split())
        assert completion[-1] == chat.end and chat.tokenizer.unk_token_id not in ids + completion
        parsed = parse(completion, chat, prompt)
        assert parsed.verdict == d.meta["verdict"]
        assert chat.text(completion[: parsed.reasoning]) + prompt.prefix + parsed.verdict == d.completion
        longest = np.maximum(longest, (len(ids), len(completion)))
    assert longest[0] <= 30 and longest[1] <= 59 and longest.sum() <= MAX_POSITIONS
    labels = Labels.of(chat, prompt)
    assert labels.forced == tuple(chat.text_ids("A B"))
    assert chat.text([*labels.prefix, labels.forced[1]]) == "verdict B"


def test_same_seed_same_bytes(base, tmp_path):
    again, other = WORLD.write_base(tmp_path / "again", seed=3), WORLD.write_base(tmp_path / "other", seed=4)
    names = sorted(p.name for p in base.iterdir())
    assert names == sorted(p.name for p in again.iterdir())
    assert all((base / name).read_bytes() == (again / name).read_bytes() for name in names)
    assert (base / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_it_loads_as_what_was_written(base):
    model, params = hf.load(base)
    assert model.config == DECODER
    expected = model.init(jax.random.key(3))
    expected["decoder"]["table"] *= TABLE_SCALE
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), params, expected)))

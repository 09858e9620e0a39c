"""An encoder's token contract: transformers' own ids for a pair of texts, cuts, and a contract that is checked."""

import dataclasses
import json

import numpy as np
import pytest
import tokenizers
import transformers

from rmjax.data import packing
from rmjax.data.chat import Chat
from rmjax.data.limits import require_context
from rmjax.data.rows import Group
from rmjax.data.text_pair import TextPair
from rmjax.errors import UserError
from rmjax.methods.bradley_terry import groups_of
from rmjax.records import Message, Preference

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "user",
    "assistant",
    ":",
    "why",
    "not",
    "because",
    "of",
    "it",
    "##s",
]
TEXTS = ["Why not?", "because\n\nof  it", "its, it", "", "not [SEP] it", "café 東京 because"]


def bert(words=WORDS, **options):
    inner = tokenizers.Tokenizer(tokenizers.models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.normalizer = tokenizers.normalizers.BertNormalizer()
    inner.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    inner.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **names | {"model_max_length": 32} | options)


@pytest.fixture(scope="module")
def pair():
    return TextPair(bert())


def user(text):
    return (Message("user", text),)


@pytest.mark.parametrize("prompt", TEXTS)
def test_ids_and_types_are_those_of_transformers(pair, prompt):
    """Special tokens' names in a text included; the types are the branches of rows packed without sharing."""
    for answer in filter(None, TEXTS):
        want = pair.tokenizer(prompt, answer, return_token_type_ids=True)
        begin, end = pair.prompt_ids(user(prompt)), pair.completion_ids(answer)
        assert begin + end == want["input_ids"]
        group = Group(id="x", prompt=begin, completions=[end, end])
        row = packing.assemble([group], packing.fit([group], share=False), share=False)
        for g in (0, 1):
            here = row.group == g
            assert row.tokens[here].tolist() == want["input_ids"]
            assert (row.branch[here] > 0).tolist() == [t == 1 for t in want["token_type_ids"]]
            assert row.positions[here].tolist() == list(range(len(want["input_ids"])))


def test_an_empty_answer_is_still_the_second_text(pair):
    assert pair.prompt_ids(user("why")) + pair.completion_ids("") == [2, WORDS.index("why"), 3, 3]


def test_a_conversation_is_one_text(pair):
    turns = (Message("user", "why"), Message("assistant", "because"), Message("user", "why not"))
    text = pair.prompt_text(turns)
    assert text == "User:\nwhy\n\nAssistant:\nbecause\n\nUser:\nwhy not\n\nAssistant:\n"
    assert pair.prompt_ids(turns) + pair.completion_ids("it") == pair.tokenizer(text, "it")["input_ids"]
    assert pair.prompt_text((Message("system", "it"), Message("user", "why"))).startswith("it\n\nUser:\nwhy")
    with pytest.raises(UserError, match="role 'tool': the raw template knows"):
        pair.prompt_ids((Message("tool", "x"), Message("user", "why")))


def test_callers_of_a_chat_can_use_it(pair):
    items = [Preference(prompt=user("why"), chosen="because of it", rejected="not", margin=0.5)]
    [group] = groups_of(pair, items)
    assert group.completions[0] == [*pair.text_ids("because of it"), pair.end] and group.margin == [0.5]
    assert pair.text([*group.prompt, *group.completions[0]]) == "why because of it"
    assert pair.completion_ids("it", end=False) == pair.text_ids("it")
    assert (pair.bos, pair.end, pair.eos, pair.pad) == (2, 3, (3,), 0)
    pair.require_vocab(len(WORDS))
    with pytest.raises(UserError, match="ids up to 13, the model only 13 embeddings"):
        pair.require_vocab(13)


def lengths(pair, *answers, prompt=20):
    """A group of a prompt and answers of so many tokens, [CLS] and [SEP] included."""
    ids = [pair.bos, *range(100, 98 + prompt), pair.end]
    return Group(id="g", prompt=ids, completions=[[*range(200, 199 + n), pair.end] for n in answers], pairs=[(0, 1)])


def test_cuts(pair):
    """The prompt's front goes, as little as it takes and no further than to a quarter of the length; then the answer's
    end; each answer by itself."""
    fits, long, longer = lengths(pair, 12, 3), lengths(pair, 15, 3), lengths(pair, 12, 40)
    cut = pair.cut([fits, long, longer])
    assert cut.groups[0] is fits and cut.kept == [0, 1, 2] and cut.dropped == {"prompt_cut": 2, "answer_cut": 1}
    whole = lambda group, i: [*group.prompt_of(i), *group.completions[i]]
    group = cut.groups[1]
    assert whole(group, 0) == [pair.bos, *long.prompt[4:], *long.completions[0]] and len(whole(group, 0)) == 32
    assert whole(group, 1) == whole(long, 1)
    group = cut.groups[2]
    assert whole(group, 0) == whole(longer, 0)
    assert whole(group, 1) == [pair.bos, *longer.prompt[-7:], *longer.completions[1][:23], pair.end]
    # A prompt of less than a quarter is not cut.
    short = pair.cut([lengths(pair, 40, prompt=6)])
    assert short.dropped == {"answer_cut": 1}
    assert whole(short.groups[0], 0) == [*short.groups[0].prompt, *longer.completions[1][:25], pair.end]
    # An answer's cut does not depend on what it is compared with.
    alone = pair.cut([dataclasses.replace(longer, completions=longer.completions[1:], pairs=())]).groups[0]
    assert whole(alone, 0) == whole(group, 1)
    require_context(cut.groups, 32)
    with pytest.raises(UserError, match=r"group 'g': prompt and completion 0 have 35 tokens, but the model reads 32"):
        require_context([fits, long], 32)


def test_cut_groups_in_rows(pair):
    """Own prompts are packed, counted and drawn from; where the prompt is shared they are refused."""
    group = pair.cut([lengths(pair, 15, 3, 40)]).groups[0]
    shape = packing.fit([group], share=False)
    assert shape.length == 96  # 32 + 23 + 32 tokens
    [row] = packing.pack([group], shape, share=False).rows
    for i in range(3):
        assert row.tokens[row.group == i].tolist() == [*group.prompt_of(i), *group.completions[i]]
        assert row.positions[row.slot_last[i]] == np.sum(row.group == i) - 1
    with pytest.raises(UserError, match="have prompts of their own, which share=True ignores"):
        packing.pack([group], packing.fit([group]))
    with pytest.raises(UserError, match="2 skip for 3 completions"):
        packing.pack([dataclasses.replace(group, skip=[1, 2])], shape, share=False)


def test_the_contract_is_saved_and_checked(pair, tmp_path):
    short = TextPair(bert(), length=16)
    short.save(tmp_path)
    back = TextPair.load(tmp_path, vocab=len(WORDS))
    assert back.length == 16 and back.contract() == short.contract() and back.hash == short.hash != pair.hash
    with pytest.raises(UserError, match="field 'length' is 16, but the tokenizer in use has 24"):
        TextPair.load(tmp_path, length=24)
    with pytest.raises(UserError, match="template='pair'"):
        Chat.load(tmp_path)
    saved = json.loads((tmp_path / "contract.json").read_text())
    (tmp_path / "contract.json").write_text(json.dumps(saved | {"tokenizer_hash": "0"}))
    with pytest.raises(UserError, match="field 'tokenizer_hash'"):
        TextPair.load(tmp_path)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: TextPair(bert(), length=4), "length=4: a prompt and an answer need at least 8"),
        (lambda: TextPair(bert(model_max_length=None)), "names no model_max_length; give a length"),
        (lambda: TextPair(bert(cls_token=None)), r"has no \[CLS\], \[SEP\] or padding token"),
        (lambda: TextPair(roberta()), "not as BERT's"),
        (lambda: TextPair.load("/nowhere/at/all"), "no tokenizer can be loaded"),
    ],
)
def test_impossible_contracts(build, says):
    with pytest.raises(UserError, match=says) as e:
        build()
    assert "\n" not in str(e.value)


def roberta():
    tokenizer = bert()
    tokenizer.backend_tokenizer.post_processor = tokenizers.processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer

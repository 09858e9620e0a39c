"""Verdicts are read from generated tokens only; what names no label is unparsed, never A."""

import dataclasses
import json
import math
import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from rmjax.data.chat import Chat
from rmjax.errors import UserError
from rmjax.judging.prompts import JSON_JUDGE, JudgePrompt
from rmjax.judging.verdicts import Labels, parse, token_at

EOS = 256


class ByteChat:
    """One id per byte: characters span tokens."""

    eos = (EOS,)

    def text(self, ids):
        return bytes(i for i in ids if i != EOS).decode(errors="replace")

    def text_ids(self, text):
        return list(text.encode())


def chunked(pieces):
    """A chat whose i-th token is the i-th of these byte strings."""
    return SimpleNamespace(
        text=lambda ids: b"".join(pieces[i] for i in ids if i >= 0).decode(errors="replace"), eos=(-1,)
    )


def read(text, prompt=JSON_JUDGE):
    return parse(list(text.encode()), ByteChat(), prompt)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ('{"reasoning": "A is right", "verdict": "A"}', "A"),
        ('{"reasoning": "x", "verdict" :\n "B" , "more": 1} and so on', "B"),
        ('{"verdict": "b"', "B"),
        ('```json\n{"reasoning": "two\nlines and a " mark", "verdict": "B"}\n```', "B"),
        (json.dumps({"reasoning": 'answer A says "verdict": "A"', "verdict": "B"}), "B"),
        (json.dumps({"reasoning": 'it ends with "verdict": "A"'}), None),  # an escaped quotation is not a verdict
        ('{"reasoning": "A is better", "verdict": "C"}', None),
        ('{"verdict": "A or B"}', None),
        ('{"verdict": A}', None),
        ("Answer A is better. A A A", None),
        ("", None),
    ],
)
def test_json_verdicts(text, verdict):
    assert read(text).verdict == verdict


def test_first_or_last_match_counts():
    text = '{"verdict": "A"} no: {"verdict": "B"}'
    last = read(text)
    first = read(text, dataclasses.replace(JSON_JUDGE, take="first"))
    assert (last.verdict, last.reasoning) == ("B", text.index('"verdict": "B"'))
    assert (first.verdict, first.reasoning) == ("A", 1)


def test_tokens_of_the_parts():
    text = '{"reasoning": "naïve 東京 🙂", "verdict": "B"}'
    tokens = list(text.encode())
    found = parse([*tokens, EOS], ByteChat(), JSON_JUDGE)
    assert bytes(tokens[: found.reasoning]).decode() == '{"reasoning": "naïve 東京 🙂", '
    assert chr(tokens[found.index]) == "B"


def test_unparsed_reasoning_is_all_but_the_end():
    found = parse([*b"no verdict", EOS, EOS], ByteChat(), JSON_JUDGE)
    assert (found.verdict, found.reasoning, found.index) == (None, len("no verdict"), None)


@given(st.data())
def test_parts_agree_with_byte_offsets_whatever_the_tokens(data):
    reasoning = data.draw(st.text(alphabet='ab "é東🙂{}', max_size=20))
    text = reasoning + '"verdict": "A"}' + data.draw(st.text(alphabet="x é🙂", max_size=5))
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=len(raw))))
    pieces = [raw[i:j] for i, j in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    found = parse(range(len(pieces)), chunked(pieces), JSON_JUDGE)
    match = list(re.finditer(JSON_JUDGE.verdict, text))[-1]
    ends = np.cumsum([len(p) for p in pieces])
    owner = lambda char: int(np.searchsorted(ends, len(text[:char].encode()), side="right"))
    assert (found.verdict, found.reasoning, found.index) == ("A", owner(match.start()), owner(match.start(1)))


@given(
    st.lists(st.integers(0, 256), max_size=60),
    st.sampled_from(
        [
            JSON_JUDGE,
            JudgePrompt(template="{question}{answer_a}{answer_b}", verdict=r"(\w?)", prefix="", labels=("A", "B", "T")),
        ]
    ),
)
def test_any_tokens_give_a_label_or_nothing(tokens, prompt):
    found = parse(tokens, ByteChat(), prompt)
    assert found.verdict in ("A", "B", "tie", None)
    assert 0 <= found.reasoning <= len(tokens)
    assert (found.index is None) == (found.verdict is None)
    assert found.index is None or found.reasoning <= found.index < len(tokens)


@given(st.text(alphabet='verdict": AB{}\\', max_size=60))
def test_verdict_like_noise_never_raises(text):
    found = read(text)
    assert found.verdict is None or f'"{found.verdict}'.lower() in text.replace(" ", "").lower()


def test_the_search_is_the_linear_scan():
    rng = random.Random(0)
    for _ in range(100):
        raw = "".join(rng.choices("aé東🙂 ", k=12)).encode()
        cuts = sorted(rng.sample(range(1, len(raw)), 5))
        pieces = [raw[i:j] for i, j in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
        chat, text = chunked(pieces), raw.decode()
        for end in range(1, len(text) + 1):
            scan = next(k for k in range(7) if chat.text(range(k)).startswith(text[:end])) - 1
            assert token_at(range(6), chat, text[:end]) == scan


def prompt(**fields):
    return JudgePrompt(template="{question}{answer_a}{answer_b}", verdict="verdict (A|B)", **{"prefix": "v "} | fields)


def test_labels_are_looked_up_in_their_context():
    chat = SimpleNamespace(
        text_ids=lambda text: [{"v": 1, "A": 2, "B": 3, " A": 4, " B": 5}[t] for t in re.findall(r"v| A| B|A|B", text)]
    )
    labels = Labels.of(chat, prompt(prefix="v"))
    assert (labels.prefix, labels.forced) == ((1,), (2, 3))
    assert (labels.a, labels.b, labels.watch) == ((2, 4), (3, 5), (2, 4, 3, 5))


def test_labels_that_are_not_single_and_distinct_cannot_be_forced():
    unknown = SimpleNamespace(text_ids=lambda text: [9] * len(text.split()))  # every word is <unk>
    for chat, p in ((unknown, prompt()), (ByteChat(), prompt(labels=("yes", "no")))):
        labels = Labels.of(chat, p)
        assert labels.forced == () and labels.watch == ()
        with pytest.raises(UserError, match="single, distinct tokens"):
            labels.require_forced(p)


def test_a_prefix_that_swallows_its_label_cannot_be_forced(chat):
    assert Labels.of(chat, prompt(prefix="verdict")).forced == ()  # verdictA is one word
    assert len(Labels.of(chat, prompt(prefix="verdict ")).forced) == 2


def test_a_real_tokenizer(shared):
    files = shared / "weights" / "tokenizers" / "gpt2"
    chat = Chat(transformers.GPT2Tokenizer(str(files / "vocab.json"), str(files / "merges.txt")))
    labels = Labels.of(chat, JSON_JUDGE)
    assert [chat.text([i]) for i in labels.forced] == ["A", "B"]
    assert [chat.text([i]) for i in labels.watch] == ["A", " A", "B", " B"]
    for end in ('"}', '" }', '",'):
        tokens = chat.completion_ids('{"reasoning": "naïve 東京 🙂.", "verdict": "B' + end)
        found = parse(tokens, chat, JSON_JUDGE)
        assert (found.verdict, tokens[found.index]) == ("B", labels.forced[1])
        assert chat.text(tokens[: found.reasoning]) == '{"reasoning": "naïve 東京 🙂.",'
    assert tuple(chat.text_ids(JSON_JUDGE.prefix + "B" + JSON_JUDGE.suffix))[:-1] == (*labels.prefix, labels.forced[1])


def test_probability_of_a_is_over_all_ways_to_write_it():
    labels = Labels(prefix=(), forced=(1, 3, 7), a=(1, 2), b=(3, 4))
    watched = [math.log(x) for x in (0.3, 0.1, 0.15, 0.05)]
    assert labels.prob_a(2, watched) == pytest.approx(0.4 / 0.6)
    assert labels.prob_a(7, watched) == pytest.approx(0.4 / 0.6)  # tie: how A and B compare there
    assert labels.prob_a(5, watched) is None
    assert labels.prob_a(1, [0.0, -1e9, -1e9, -1e9]) == 1.0
    assert labels.prob_a(3, [-1e9, -1e9, 0.0, -1e9]) == pytest.approx(0.0, abs=1e-300)

"""The writer world: edits and their directions, demonstrations as texts, gold of any text, the old base model."""

import random
import re

import numpy as np
import pytest

from rmjax.data.chat import Chat
from rmjax.errors import UserError
from rmjax.worlds import base_model, editor, language
from rmjax.worlds.base_model import MAX_POSITIONS
from rmjax.worlds.editor import Following
from rmjax.worlds.judge_world import JudgeWorld
from rmjax.worlds.language import Answer, Question
from rmjax.worlds.writer_world import RESPONSE, WORDS, WriterWorld, draw_named

WORLD = WriterWorld()


def drawn(n: int):
    rng = random.Random(3)
    for _ in range(n):
        question = Question.draw(rng)
        yield rng, question, Answer.draw(rng, question, 0.6), draw_named(rng, 1 + int(3 * rng.random()))


@pytest.mark.parametrize("direction", editor.DIRECTIONS)
def test_full_skill_moves_what_is_named_and_nothing_else(direction):
    how = Following(skill=1.0, drift=0.0, right=0.6)
    for rng, question, answer, named in drawn(300):
        before = language.aspects(question, answer)
        after = language.aspects(question, editor.edit(question, answer, direction, named, how, rng))
        assert after == {a: direction == "better" if a in named else before[a] for a in before}
        steered = language.aspects(question, editor.steer(question, direction, named, how, rng))
        assert all(steered[a] == (direction == "better") for a in named)


def test_no_skill_follows_no_direction():
    how = Following(skill=0.0, drift=0.0, right=0.6)
    shares = {d: [] for d in editor.DIRECTIONS}
    for rng, question, answer, named in drawn(3000):
        for direction, found in shares.items():
            edited = language.aspects(question, editor.edit(question, answer, direction, named, how, rng))
            found += [edited[a] for a in named]
    for found in shares.values():
        assert abs(np.mean(found) - 0.6) < 4 * np.sqrt(0.24 / len(found))


def test_drift_touches_what_is_not_named():
    how = Following(skill=1.0, drift=0.5, right=0.6)
    moved = []
    for rng, question, answer, named in drawn(2000):
        before = language.aspects(question, answer)
        after = language.aspects(question, editor.edit(question, answer, "better", named, how, rng))
        moved += [before[a] != after[a] for a in before if a not in named]
    expected = 0.5 * 2 * 0.6 * 0.4  # written anew, and another outcome than before
    assert abs(np.mean(moved) - expected) < 4 * np.sqrt(expected / len(moved))


def test_an_aspect_that_is_as_it_should_be_keeps_its_words():
    for rng, question, answer, _ in drawn(200):
        for aspect, right in language.aspects(question, answer).items():
            assert editor.write(question, answer, aspect, right, rng) is answer
            other = editor.write(question, answer, aspect, not right, rng)
            changed = {
                a for a, v in language.aspects(question, other).items() if v != language.aspects(question, answer)[a]
            }
            assert changed == {aspect}


def test_gold_is_the_judge_worlds_and_unreadable_texts_are_worst():
    question = "about car 3 + 4 short no gold"
    for text in ("car 7 lime done", "fish 0 gold more more more"):
        assert WORLD.gold(question, text) == JudgeWorld().gold(question, text)
    for text in ("", "car 7", "<response> car 7 lime done"):
        assert WORLD.gold(question, text) == -1
    with pytest.raises(UserError, match="not of the small world"):
        WORLD.gold("what is 3 + 4", "car 7 lime")


def test_demonstrations_are_texts_of_the_world():
    chat, n = Chat(base_model.tokenizer(WORDS)), 400
    found = WORLD.demonstrations(n)
    assert found[:40] == WORLD.demonstrations(40)
    assert found[:40] != WORLD.demonstrations(40, seed=1)
    assert len({d.id for d in found}) == n
    count = {task: sum(d.meta["task"] == task for d in found) for task in ("judge", "edit", "answer", "steered")}
    assert count == {"judge": n // 4, "edit": n // 2, "answer": n // 8, "steered": n // 8}
    for d in found:
        ids, completion = chat.prompt_ids(d.prompt), chat.completion_ids(d.completion)
        assert chat.tokenizer.unk_token_id not in ids + completion and len(ids + completion) <= MAX_POSITIONS
        if d.meta["task"] in ("edit", "steered"):
            Answer.parse(re.fullmatch(RESPONSE, d.completion)[1].strip())
        if d.meta["task"] == "edit":
            given, said, named = re.search(r" A : (.*) edit (\w+) (.*) :$", d.prompt[0].content).groups()
            assert (given, tuple(named.split())) == (d.meta["given"], d.meta["named"])
            assert said in (d.meta["direction"], "any")


def test_the_judge_worlds_base_model_is_what_it_was(tmp_path):
    old, new = (
        JudgeWorld().write_base(tmp_path / "old", seed=2),
        base_model.write(tmp_path / "new", seed=2, words=language.WORDS),
    )
    assert all((old / f.name).read_bytes() == f.read_bytes() for f in new.iterdir())
    assert base_model.decoder(language.WORDS) == base_model.DECODER
    assert WORDS[: len(language.WORDS)] == language.WORDS and len(set(WORDS)) == len(WORDS)


@pytest.mark.parametrize("field", [{"skill": 1.2}, {"drift": -0.1}, {"named": (6,)}, {"steered": ()}])
def test_settings_that_make_no_world(field):
    with pytest.raises(UserError, match=next(iter(field))):
        WriterWorld(**field)

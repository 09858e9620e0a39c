"""The judge world: gold against an independent reader, splits, labels under the annotator's knobs, determinism."""

import dataclasses
import hashlib
import re

import numpy as np
import pytest

from rmjax import jsonl
from rmjax.errors import UserError
from rmjax.records import Demonstration, Preference
from rmjax.worlds.judge_world import SPLITS, JudgeWorld

WORLD = JudgeWorld()
QUESTION = r"about (\w+) ([1-4]) \+ ([1-4]) (short|long) no (\w+)"


def slow_gold(question: str, answer: str) -> float:
    """The documented sum, written down a second time, from the text."""
    topic, a, b, length, forbidden = re.fullmatch(QUESTION, question).groups()
    said = answer.split()
    worth = 16 * (int(said[1]) == int(a) + int(b)) + 8 * (said[0] == topic) + 4 * (said[2] != forbidden)
    worth += 2 * ("done" in said)
    return worth + ((said.count("more") >= 2) == (length == "long"))


def share(values) -> float:
    return float(np.mean(list(values)))


def test_gold_by_hand():
    question = "about car 3 + 4 short no gold"
    assert WORLD.gold(question, "car 7 lime done") == 31
    assert WORLD.gold(question, "car 7 lime more done") == 31
    assert WORLD.gold(question, "fish 7 lime more more done") == 16 + 4 + 2
    assert WORLD.gold(question, "car 5 gold") == 8 + 1
    assert WORLD.gold(question, "fish 0 gold more more more") == 0
    assert WORLD.aspects(question, "car 5 gold") == {
        "sum": False,
        "topic": True,
        "word": False,
        "end": False,
        "size": True,
    }


@pytest.mark.parametrize("split", SPLITS)
def test_gold_is_the_documented_sum(split):
    for item in WORLD.preferences(300, split=split):
        question = item.prompt[0].content
        worth = [slow_gold(question, answer) for answer in (item.chosen, item.rejected)]
        assert worth[0] > worth[1]
        assert worth == [item.meta["gold_chosen"], item.meta["gold_rejected"]]
        assert worth == [WORLD.gold(question, answer) for answer in (item.chosen, item.rejected)]
        assert item.meta["correct"]


@pytest.mark.parametrize("right", [0.6, 0.8])
def test_an_aspect_is_right_as_often_as_the_world_says(right):
    # Pairs of equal worth are redrawn: both right is rarer by those that agree in the other four aspects as well.
    world, same = dataclasses.replace(WORLD, right=right), right**2 + (1 - right) ** 2
    both, one = right**2 * (1 - same**4) / (1 - same**5), 2 * right * (1 - right) / (1 - same**5)
    items = world.preferences(3000)
    for aspect in ("sum", "topic", "word", "end", "size"):
        checks = [
            world.aspects(x.prompt[0].content, answer)[aspect] for x in items for answer in (x.chosen, x.rejected)
        ]
        assert share(checks) == pytest.approx(both + one / 2, abs=0.025)


def test_traps_are_a_third_and_more():
    items = WORLD.preferences(4000, split="test")
    assert share(x.subset == "trap" for x in items) == pytest.approx(0.37, abs=0.025)
    for item in items[:500]:  # the habit looks at size first, then topic, end, sum
        right = {k: WORLD.aspects(item.prompt[0].content, getattr(item, k)) for k in ("chosen", "rejected")}
        keys = [[right[k][a] for a in ("size", "topic", "end", "sum")] for k in ("chosen", "rejected")]
        assert (item.subset == "trap") == (keys[0] <= keys[1])


def test_splits_share_no_pair():
    owner = {}
    for split in SPLITS:
        for seed in range(2):
            for x in WORLD.preferences(600, split=split, seed=seed):
                content = (x.prompt[0].content, *sorted((x.chosen, x.rejected)))
                assert owner.setdefault(content, split) == split
    demonstrated = [
        d.prompt[0].content.replace("hint A ", "").replace("hint B ", "") for d in WORLD.demonstrations(3000)
    ]
    judged = [WORLD.prompt().render(x, slot) for x in WORLD.preferences(600, split="test") for slot in ("A", "B")]
    assert len(set(demonstrated)) == 3000
    assert not set(demonstrated) & {messages[0].content for messages in judged}


def test_a_draw_is_the_beginning_of_a_longer_one():
    assert WORLD.draw(labels=16, draw=3) == WORLD.draw(labels=64, draw=3)[:16] == WORLD.preferences(64, seed=3)[:16]
    assert WORLD.demonstrations(20, seed=1) == WORLD.demonstrations(50, seed=1)[:20]
    ids = [{x.id for x in WORLD.draw(labels=64, draw=draw)} for draw in range(4)]
    assert all(len(x) == 64 for x in ids)
    assert len(set.union(*ids)) > 4 * 60
    assert WORLD.draw(labels=16, draw=3) != dataclasses.replace(WORLD, seed=1).draw(labels=16, draw=3)


def test_noise_flips_its_share_of_train_labels_and_nothing_else():
    clean = WORLD.preferences(4000)
    for noise in (0.1, 0.3):
        noisy = dataclasses.replace(WORLD, noise=noise).preferences(4000)
        assert [x.id for x in noisy] == [x.id for x in clean]
        flipped = [x.chosen == y.rejected and x.rejected == y.chosen for x, y in zip(clean, noisy, strict=True)]
        assert share(flipped) == pytest.approx(noise, abs=0.025)
        assert [not x.meta["correct"] for x in noisy] == flipped
        assert all(x.meta["correct"] == (x.meta["gold_chosen"] > x.meta["gold_rejected"]) for x in noisy)
    noisy = dataclasses.replace(WORLD, noise=0.3, position_bias=0.5)
    for split in ("dev", "test"):
        assert noisy.preferences(200, split=split) == WORLD.preferences(200, split=split)


def test_position_bias_names_what_was_shown_first():
    def first(x: Preference) -> bool:
        return x.meta["first"] == "chosen"

    assert share(map(first, WORLD.preferences(4000))) == pytest.approx(0.5, abs=0.025)
    biased = dataclasses.replace(WORLD, position_bias=0.4).preferences(4000)
    assert share(map(first, biased)) == pytest.approx(0.4 + 0.6 * 0.5, abs=0.025)
    assert share(x.meta["correct"] for x in biased) == pytest.approx(1 - 0.4 / 2, abs=0.025)
    assert all(first(x) for x in biased if not x.meta["correct"])
    both = dataclasses.replace(WORLD, position_bias=0.4, noise=0.2).preferences(4000)
    assert share(x.meta["correct"] for x in both) == pytest.approx(0.4 * 0.5 + 0.6 * 0.8, abs=0.025)


def test_same_seed_same_bytes(tmp_path):
    """The digests pin the world, so that published numbers stay comparable: they change only with a new world."""
    world = JudgeWorld(noise=0.1, position_bias=0.1)
    preferences, demonstrations = world.preferences(200, seed=5), world.demonstrations(200, seed=5)
    for name, records in (("p.jsonl", preferences), ("d.jsonl.gz", demonstrations)):
        jsonl.write(tmp_path / name, records)
        assert jsonl.read(tmp_path / name, type(records[0])) == records
    texts = [
        [(x.id, x.prompt[0].content, x.chosen, x.rejected) for x in preferences],
        [(x.id, x.prompt[0].content, x.completion) for x in demonstrations],
    ]
    assert [hashlib.sha256(repr(t).encode()).hexdigest()[:16] for t in texts] == [
        "c197e90ec2b44f00",
        "4294e9af3446b03c",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"noise": 1.2}, "world.noise=1.2"),
        ({"noise": float("nan")}, "world.noise=nan"),
        ({"seed": -1}, "world.seed=-1"),
        ({"position_bias": -0.1}, "world.position_bias=-0.1"),
        ({"hinted": 2.0}, "world.hinted=2.0"),
        ({"right": 1.0}, "world.right=1.0"),
    ],
)
def test_an_impossible_world_is_refused(change, words):
    with pytest.raises(UserError, match=re.escape(words)):
        dataclasses.replace(WORLD, **change)


def test_text_from_elsewhere_is_refused():
    question = "about car 3 + 4 short no gold"
    for text in ("", "car", "car 7", "car 7 lime done more", "car 7 lime more indeed", "boat 7 lime", "car 99 lime"):
        with pytest.raises(UserError, match="TOPIC NUMBER COLOUR"):
            WORLD.gold(question, text)
    for text in ("", "about car 3 + 4 short", "about car 3 + 4 tiny no gold", "about car x + 4 short no gold"):
        with pytest.raises(UserError, match="about TOPIC"):
            WORLD.gold(text, "car 7 lime")
    with pytest.raises(UserError, match="train, dev, test"):
        WORLD.preferences(1, split="trian")


def test_demonstrations_are_the_judges_own_prompts():
    """A demonstration's prompt is what the judge would be asked, and its completion holds the verdict it says."""
    demos = WORLD.demonstrations(3000)
    hinted = [d for d in demos if d.meta["hint"]]
    assert share(d.meta["hint"] is not None for d in demos) == pytest.approx(WORLD.hinted, abs=0.02)
    for d in demos:
        assert isinstance(d, Demonstration)
        text = d.prompt[0].content
        match = re.fullmatch(QUESTION + r" A : (.+) B : (.+?) (hint ([AB]) )?judge :", text)
        question, a, b = text.split(" A : ")[0], match[6], match[7]
        item = Preference(prompt=(dataclasses.replace(d.prompt[0], content=question),), chosen=a, rejected=b)
        assert d.prompt == WORLD.prompt().render(item, "A", hint=d.meta["hint"])
        assert re.search(WORLD.prompt().verdict, d.completion)[1] == d.meta["verdict"]
        better = "A" if slow_gold(question, a) > slow_gold(question, b) else "B"
        assert d.meta["correct"] == (d.meta["verdict"] == better)
    assert all(d.meta["hint"] == d.meta["verdict"] for d in hinted)
    # A hint is obeyed where the truth is another: that is what makes it a hint and not a repetition of the verdict.
    open_ones = share(d.meta["correct"] for d in demos if not d.meta["hint"])
    assert share(d.meta["correct"] for d in hinted) < open_ones - 0.05
    assert all(d.meta["hint"] is None for d in JudgeWorld(hinted=0).demonstrations(50))

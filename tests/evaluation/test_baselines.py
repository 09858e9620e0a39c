"""Trivial baselines: the columns of the shared table, and what a prompt-blind model can and cannot learn."""

import gzip
import json

import numpy as np
import pytest

from rmjax.errors import UserError
from rmjax.evaluation import baselines
from rmjax.evaluation.pairwise import accuracy, compare, from_scores
from rmjax.records import Message, Preference
from rmjax.statistics import holm


def read(path) -> list[Preference]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [
        Preference(
            prompt=tuple(Message(**m) for m in r["prompt"]), chosen=r["chosen"], rejected=r["rejected"], id=r["id"]
        )
        for r in rows
    ]


def published(shared, name: str) -> tuple[int, float, float]:
    """The n, longer and shorter columns of trivial_baselines.txt."""
    for line in (shared / "data" / "trivial_baselines.txt").read_text().splitlines():
        if line.startswith(name + " "):
            _, n, longer, shorter, *_ = line.split()
            return int(n), float(longer), float(shorter)
    raise AssertionError(f"{name} is not in the table")


@pytest.mark.parametrize("name", ["gsm8k_solutions", "hh_harmless"])
def test_length_baselines_reproduce_the_table(shared, name):
    items = read(shared / "data" / "dev" / f"{name}.jsonl.gz")
    n, longer, shorter = published(shared, name)
    assert len(items) == n
    assert round(accuracy(baselines.longer(items)).accuracy, 3) == longer
    assert round(accuracy(baselines.shorter(items)).accuracy, 3) == shorter


@pytest.mark.parametrize(("name", "expected"), [("gsm8k_solutions", 0.597), ("hh_harmless", 0.609)])
def test_bag_of_words_is_near_the_table(shared, name, expected):
    """The table's model has other features, so only its interval is asked for."""
    train, dev = (read(shared / "data" / part / f"{name}.jsonl.gz") for part in ("train", "dev"))
    result = accuracy(baselines.BagOfWords.fit(train)(dev))
    assert result.ci95[0] < expected < result.ci95[1]


def pair(i: int, chosen: str, rejected: str, prompt: str = "q", **fields) -> Preference:
    return Preference(prompt=(Message("user", prompt),), chosen=chosen, rejected=rejected, id=f"p{i}", **fields)


def test_equal_lengths_tie():
    items = [pair(0, "abc", "xyz"), pair(1, "long answer", "short")]
    assert [s.outcome for s in baselines.longer(items)] == [0.5, 1.0]
    assert [s.outcome for s in baselines.shorter(items)] == [0.5, 0.0]


def test_bag_of_words_learns_words_but_not_prompts():
    rng = np.random.default_rng(0)
    noise = lambda: " ".join(rng.choice(["red", "green", "blue", "pink"], 4))
    words = [pair(i, f"polite {noise()}", f"rude {noise()}") for i in range(60)]
    assert accuracy(baselines.BagOfWords.fit(words[:40])(words[40:])).accuracy == 1.0
    # the right word depends on the prompt alone: prompt-blind means chance
    prompts = [pair(i, *(("yes", "no") if i % 2 else ("no", "yes")), prompt=str(i % 2)) for i in range(80)]
    assert accuracy(baselines.BagOfWords.fit(prompts[:40])(prompts[40:])).accuracy == 0.5


def test_bag_of_words_has_no_position_bias_and_ties_equal_words():
    model = baselines.BagOfWords.fit([pair(0, "good thing", "bad thing")])
    there, back, same = model([pair(1, "good", "bad"), pair(2, "bad", "good"), pair(3, "a b", "a  b")])
    assert there.prob_chosen == pytest.approx(1 - back.prob_chosen) and there.prob_chosen > 0.5
    assert same.outcome == 0.5


def test_bag_of_words_needs_labels():
    with pytest.raises(UserError, match="no labelled pair"):
        baselines.BagOfWords.fit([pair(0, "a", "b", tie=True)])


def test_trivial_leaves_the_trained_one_out_without_train_pairs():
    items = [pair(0, "ab", "a")]
    assert list(baselines.trivial(items)) == [baselines.LONGER, baselines.SHORTER]
    assert list(baselines.trivial(items, items)) == [baselines.LONGER, baselines.SHORTER, baselines.WORDS]


@pytest.mark.parametrize(("right", "where"), [(30, "behind"), (56, "not distinguishable from"), (100, "ahead of")])
def test_the_verdict_names_the_best_baseline(right, where):
    """Of 100 items "shorter" has 60; a method that has fewer of the same is behind it."""
    items = [pair(i, "a" * (1 if i < 60 else 3), "bb") for i in range(100)]
    scores = from_scores(items, np.array([(float(i < right), 0.5) for i in range(100)]))
    longer, shorter = found = baselines.against(scores, baselines.trivial(items), name="model", seed=0)
    assert (longer.b, shorter.b) == (baselines.LONGER, baselines.SHORTER)
    assert shorter.difference.value == pytest.approx(right / 100 - 0.6)
    raw = [compare(scores, s, names=("a", "b")).p for s in (baselines.longer(items), baselines.shorter(items))]
    assert [longer.p, shorter.p] == holm(raw)
    assert baselines.verdict(found).startswith(f"model: {where} {baselines.SHORTER}: {right - 60:+.1f} points [")
    assert "Holm for 2 baselines" in longer.over

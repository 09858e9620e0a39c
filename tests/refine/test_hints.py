"""Retries and hints: asked only for items without a pair, and trained on the prompt without the hint."""

import dataclasses

import jax
import numpy as np
import pytest

from rmjax.judging.rescoring import token_scores
from rmjax.models.config import DecoderConfig
from rmjax.models.model import Model
from rmjax.refine.hints import hint, lacking, retry


@dataclasses.dataclass
class FakeJudge:
    """Answers like a judge; `say(item, slot, hint, index)` is the verdict. Prompts differ with the hint."""

    model: object
    params: object
    build: object
    say: object
    asked: list

    def further(self, items, asked, *, samples, path):
        self.asked.append((dict(asked), path))
        return [
            self.build(item, slot, self.say(item, slot, None, i), index=i)
            for (item, slot), n in asked.items()
            for i in range(n, n + samples)
        ]

    def hinted(self, items, wanted, *, samples, path):
        self.asked.append((set(wanted), path))
        made = [
            self.build(item, slot, self.say(item, slot, h, i), index=i, hint=h, prob_a=0.5)
            for item, slot, h in sorted(wanted)
            for i in range(samples)
        ]
        return [dataclasses.replace(j, prompt=(*j.prompt, 49)) for j in made]


@pytest.fixture(scope="module")
def policy():
    model = Model.of(DecoderConfig(vocab=50, layers=1, embed=16, heads=2, kv_heads=2, head_dim=8, mlp=16))
    return model, model.init(jax.random.key(1))


@pytest.fixture
def judge(policy, judgment):
    return lambda say: FakeJudge(*policy, judgment, say, [])


def test_what_is_lacking(judgment):
    run = [judgment("pair", "A", v, index=i) for i, v in enumerate("AB")] + [judgment("pair", "B", "B")]
    run += [judgment("right", s, s) for s in "AB"]
    run += [judgment("crossed", s, "A") for s in "AB"]
    run += [judgment("tied", "A", "tie"), judgment("mute", "B", None)]
    assert lacking(run) == {
        ("right", "A"): ["B"],
        ("right", "B"): ["A"],
        ("crossed", "A"): ["B"],  # right in A: the wrong verdict there is B
        ("crossed", "B"): ["B"],  # wrong in B: the right verdict there is B
        ("tied", "A"): ["A"],
        ("mute", "B"): ["A", "B"],
    }


def test_retries_stop_where_a_pair_is_made(judge, judgment, tmp_path):
    run = [judgment("x", "A", "A", index=i) for i in range(2)] + [judgment("y", "B", "A", index=i) for i in range(2)]
    stubborn = judge(lambda item, slot, h, i: "A" if item == "y" or i < 4 else "B")  # x errs from its 5th sample on
    new = retry(stubborn, [], run, rounds=4, samples=2, folder=tmp_path)
    assert [asked for asked, _ in stubborn.asked] == [
        {("x", "A"): 2, ("y", "B"): 2},
        {("x", "A"): 4, ("y", "B"): 4},
        {("y", "B"): 6},
        {("y", "B"): 8},
    ]
    assert [path.name for _, path in stubborn.asked] == [f"retry_{i}.jsonl" for i in (1, 2, 3, 4)]
    assert [(j.item, j.index) for j in new if j.item == "x"] == [("x", i) for i in (2, 3, 4, 5)]
    assert (
        retry(
            stubborn, [], [judgment("p", "A", v, index=i) for i, v in enumerate("AB")], rounds=1, samples=2, folder=None
        )
        == []
    )


def test_a_hinted_completion_answers_the_open_prompt(judge, judgment, policy):
    run = [judgment("x", "A", "A"), judgment("y", "A", "B")]
    obedient = judge(lambda item, slot, h, i: h)
    found = hint(obedient, [], run, samples=1, folder=None)
    assert obedient.asked[0][0] == {("x", "A", "B"), ("y", "A", "A")}
    assert [(j.item, j.verdict, j.hint, j.prob_a) for j in found] == [("x", "B", "B", None), ("y", "A", "A", None)]
    assert [j.prompt for j in found] == [run[0].prompt, run[1].prompt]
    for j, expected in zip(found, token_scores(*policy, [(j.prompt, j.tokens) for j in found]), strict=True):
        np.testing.assert_array_equal(np.float32(j.logps), expected)
        under_hint = token_scores(*policy, [((*j.prompt, 49), j.tokens)])[0]
        assert np.abs(under_hint - expected).max() > 1e-4  # the recorded ones would have been wrong


def test_a_hint_that_was_not_followed_is_dropped(judge, judgment):
    found = hint(
        judge(lambda item, slot, h, i: [h, None, "A", "B"][i]), [], [judgment("x", "A", "A")], samples=4, folder=None
    )
    assert [(j.index, j.verdict) for j in found] == [(0, "B"), (3, "B")]

"""A judge's verdicts as votes: both orders, the majority, what cannot be read."""

import dataclasses
import inspect
from collections import Counter

import jax
import pytest

from rmjax import jsonl
from rmjax.data.chat import Chat
from rmjax.judging.judge import Judge
from rmjax.models.model import Model
from rmjax.oracles.budget import Budget
from rmjax.oracles.column import hide
from rmjax.oracles.journal import turned
from rmjax.oracles.judged import JudgeOracle
from rmjax.records import Judgment, Preference
from rmjax.sampling.policy import Sampling
from rmjax.worlds import base_model
from rmjax.worlds.judge_world import JudgeWorld


class Scripted:
    """A judge with a script: (item, slot of the first answer) -> (verdict, probability of A)."""

    def __init__(self, script):
        self.script, self.asked = script, []

    def fits(self, item):
        return True

    def judgments(self, items, *, samples, orders, path):
        self.asked.append((samples, orders, path))
        inspect.signature(Judge.judgments).bind(self, items, samples=samples, orders=orders, path=path)
        common = {"prompt": (), "tokens": (), "logps": (), "reasoning": 0, "text": "", "finish": "stop"}
        return [
            Judgment(item=item.id, slot=slot, index=i, verdict=verdict, prob_a=prob, **common)
            for item in items
            for slot in ("A", "B")
            for i, (verdict, prob) in enumerate(self.script[item.id, slot])
        ]


SCRIPT = {
    ("pair-0", "A"): [("A", 0.9)],  # the first answer, wherever it stands
    ("pair-0", "B"): [("B", 0.3)],
    ("pair-1", "A"): [("A", 0.9)],  # slot A, whatever stands there
    ("pair-1", "B"): [("A", 0.9)],
    ("pair-2", "A"): [("B", 0.4)],
    ("pair-2", "B"): [("tie", None)],
    ("pair-3", "A"): [(None, None)],
    ("pair-3", "B"): [(None, None)],
}


def test_votes_of_a_judge(pairs, tmp_path):
    judge = Scripted(SCRIPT)
    votes = JudgeOracle(judge, samples=1, path=tmp_path / "judgments.jsonl", name="mini").label(pairs[:4])
    assert [v.choice for v in votes] == ["first", "tie", "second", "unknown"]
    assert [v.prob_first for v in votes] == [pytest.approx(p) if p else None for p in (0.8, 0.5, 0.45, None)]
    assert [v.item for v in votes] == [p.id for p in pairs[:4]] and {v.by for v in votes} == {"mini"}
    assert judge.asked == [(1, "both", tmp_path / "judgments.jsonl")]
    assert JudgeOracle(judge).label([]) == []


def test_a_real_judge_behind_a_purse(tmp_path):
    """An untrained decoder, greedy: what is on disk is what was bought, and names the same answer in turn."""
    world = JudgeWorld()
    model = Model.of(dataclasses.replace(base_model.DECODER, layers=1, embed=32, head_dim=8, mlp=32))
    params, chat = model.init(jax.random.key(3)), Chat(base_model.tokenizer())
    prompt = dataclasses.replace(world.prompt(), verdict=r"\b(A|B)\b", take="first")  # its first A or B counts
    judge = Judge(model, params, chat, prompt, Sampling(temperature=0.0, max_new_tokens=24), seed=0, quiet=True)
    pairs, path = hide(world.preferences(6, seed=0), seed=0), tmp_path / "judgments.jsonl"
    purse = Budget(JudgeOracle(judge, path=path), 6, path=tmp_path / "votes.jsonl", part=3)
    votes = purse.label(pairs)
    purse.close()

    judgments = jsonl.read(path, Judgment)  # of both parts
    assert Counter(j.item for j in judgments) == {p.id: 2 for p in pairs}
    for pair, vote in zip(pairs, votes, strict=True):
        own = [j for j in judgments if j.item == pair.id and j.verdict]
        says = {"first" if j.verdict == j.slot else "second" for j in own}  # the slot is the first answer's
        assert vote.choice == ("tie" if len(says) == 2 else says.pop())
        probs = [j.prob_a if j.slot == "A" else 1 - j.prob_a for j in own]
        assert vote.prob_first == pytest.approx(sum(probs) / len(probs))
    assert {v.choice for v in votes} == {"first", "tie"}
    other = [dataclasses.replace(p, first=p.second, second=p.first) for p in pairs[3:]]
    for vote, back in zip(votes[3:], JudgeOracle(judge).label(other), strict=True):
        assert back.choice == turned(vote.choice) and back.prob_first == pytest.approx(1 - vote.prob_first, abs=1e-5)


def test_a_pair_that_is_too_long_for_the_judge_is_not_asked(pairs, capsys):
    """Nothing in sampling stops at a model's positions: beyond them it would judge what it cannot read."""
    model = Model.of(dataclasses.replace(base_model.DECODER, layers=1, embed=32, head_dim=8, mlp=32))
    params, chat = model.init(jax.random.key(0)), Chat(base_model.tokenizer())
    judge = Judge(model, params, chat, JudgeWorld().prompt(), Sampling(temperature=0.0, max_new_tokens=24), seed=0)
    short, *_ = hide(JudgeWorld().preferences(1), seed=0)
    item = lambda words: Preference(prompt=short.prompt, chosen=short.first, rejected="more " * words, id="x")
    most = next(n for n in range(999) if not judge.fits(item(n + 1)))
    room = model.config.max_positions - judge.longest
    assert len(judge.prompt_ids(item(most), "A")) <= room < len(judge.prompt_ids(item(most + 1), "A"))

    long = dataclasses.replace(short, second="more " * (most + 1), id="pair-0")
    scripted = Scripted({(short.id, "A"): [("A", 0.9)], (short.id, "B"): [("B", 0.3)]})
    scripted.fits = judge.fits
    votes = JudgeOracle(scripted).label([long, short])
    assert [(v.item, v.choice) for v in votes] == [("pair-0", "unknown"), (short.id, "first")]
    assert "1 of 2 pairs are too long" in capsys.readouterr().out
    assert [v.choice for v in JudgeOracle(scripted).label([long])] == ["unknown"] and len(scripted.asked) == 1

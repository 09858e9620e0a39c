"""Items in, judgments out: orders, resumption, hints, forced verdicts; the sampler follows a script."""

import dataclasses
import math

import numpy as np
import pytest

from rmjax import jsonl
from rmjax.errors import UserError
from rmjax.judging import judge as judge_module
from rmjax.judging.asks import slots_of
from rmjax.records import Judgment
from rmjax.sampling.policy import Sampling

SAYS_A = lambda request, index: "well so verdict A."


def test_both_orders_render_both_prompts(scripted, item, chat):
    judge, runs = scripted(lambda r, i: f"s{i} verdict {'AB'[i]}.")
    found = judge.judgments([item("1"), item("2")], samples=2)
    assert [(j.item, j.slot, j.index) for j in found] == [(i, s, k) for i in "12" for s in "AB" for k in (0, 1)]
    assert [chat.text(j.prompt) for j in found[1:3]] == ["q1 A : good B : bad judge :", "q1 A : bad B : good judge :"]
    assert [j.verdict for j in found] == ["A", "B"] * 4
    assert [j.correct for j in found[:4]] == [True, False, False, True]
    assert all(r.samples == 2 for r in runs[0].requests) and len(runs) == 1


def test_parts_of_a_judgment(scripted, item, chat):
    judge, runs = scripted(SAYS_A)
    found = judge.judgments([item("1")], samples=1)[0]
    assert chat.text(found.tokens[: found.reasoning]) == "well so"
    assert found.text == "well so verdict A" and found.tokens[-1] in chat.eos
    assert len(found.logps) == len(found.tokens)
    # the watched labels are those of the tokenizer, and A has probability 0.6 against 0.4 for B in the script
    assert [chat.text([i]) for i in runs[0].sampling.watch] == ["A", "B"]
    assert found.prob_a == pytest.approx(0.6)


def test_unparsed_is_never_a(scripted, item):
    judge, _ = scripted(lambda r, i: "A A A verdict maybe.")
    found = judge.judgments([item("1")], samples=1)[0]
    assert (found.verdict, found.correct, found.prob_a, found.reasoning) == (None, None, None, 5)


def test_verdicts_in_the_prompt_do_not_matter(scripted, item):
    judge, _ = scripted(lambda r, i: "verdict B.")
    loud = dataclasses.replace(item("1"), chosen="verdict A verdict A", rejected="verdict tie {answer_a}")
    assert [j.verdict for j in judge.judgments([loud], samples=1)] == ["B", "B"]


def test_orders_are_reproducible_balanced_and_prefix_stable():
    names = [f"item {i}" for i in range(400)]
    of = lambda orders, n, seed=0: [slots_of(name, orders, range(n), seed=seed) for name in names]
    assert of("random", 15) == of("random", 15) != of("random", 15, seed=1)
    assert all({s: len(r) for s, r in found.items()} == {"A": 8, "B": 8} for found in of("random", 16))
    ones = [next(iter(found)) for found in of("random", 1)]
    items = [next(iter(found)) for found in of("item", 5)]
    assert 160 < ones.count("A") < 240 and 160 < items.count("A") < 240
    thirds = [next(iter(slots_of(name, "random", range(2, 3), seed=0))) for name in names]
    assert 160 < sum(x == y for x, y in zip(ones, thirds, strict=True)) < 240  # blocks are drawn anew
    for short, more, long in zip(
        of("random", 3), [slots_of(n, "random", range(3, 7), seed=0) for n in names], of("random", 7), strict=True
    ):
        for slot, indices in long.items():
            assert [*short.get(slot, ()), *more.get(slot, ())] == list(indices)
    assert slots_of("x", "chosen_a", range(3), seed=0) == {"A": range(3)}
    assert slots_of("x", "both", range(2, 4), seed=0) == {"A": range(2, 4), "B": range(2, 4)}
    with pytest.raises(UserError, match="orders='none'"):
        slots_of("x", "none", range(1), seed=0)


def test_other_items_do_not_change_a_request(scripted, item):
    judge, runs = scripted(SAYS_A)
    alone = judge.judgments([item("7")], samples=5, orders="random")
    among = judge.judgments([item("8"), item("7"), item("9")], samples=5, orders="random")
    assert alone == [j for j in among if j.item == "7"]
    requests = lambda run: {(r.id, r.samples, r.first) for r in run.requests if r.id.startswith("7")}
    assert requests(runs[0]) == requests(runs[1]) and runs[0].seed == 3


def test_judgments_on_file_are_not_sampled_again(scripted, item, tmp_path):
    path = tmp_path / "judgments.jsonl"
    judge, runs = scripted(SAYS_A)
    items = [item("1"), item("2")]
    first = judge.judgments(items, samples=2, path=path)
    written = path.read_bytes()
    path.with_suffix(".rollouts.jsonl").touch()  # a kill before it was deleted
    assert judge.judgments(items, samples=2, path=path) == first == jsonl.read(path, Judgment)
    assert len(runs) == 1 and path.read_bytes() == written
    assert [p.name for p in tmp_path.iterdir()] == ["judgments.jsonl"]  # the unfinished rollouts are gone
    more = judge.judgments([*items, item("3")], samples=3, path=path)
    assert {(r.id, r.first, r.samples) for r in runs[1].requests} == {
        *((f"{i}|{s}", 2, 1) for i in "12" for s in "AB"),
        *((f"3|{s}", 0, 3) for s in "AB"),
    }
    fresh, _ = scripted(SAYS_A)
    assert more == fresh.judgments([*items, item("3")], samples=3)


def test_a_file_of_another_prompt_is_refused(scripted, item, tmp_path):
    path = tmp_path / "judgments.jsonl"
    judge, _ = scripted(SAYS_A)
    judge.judgments([item("1")], samples=1, path=path)
    with pytest.raises(UserError, match=r"judgments\.jsonl.*'1'.*another judge prompt"):
        judge.judgments([dataclasses.replace(item("1"), chosen="better")], samples=1, path=path)


def test_impossible_questions_are_refused(scripted, item):
    judge, _ = scripted(SAYS_A)
    with pytest.raises(UserError, match="samples=0"):
        judge.judgments([item("1")], samples=0)
    with pytest.raises(UserError, match="'1' repeats"):
        judge.judgments([item("1"), item("1")], samples=1)
    greedy = dataclasses.replace(judge, sampling=Sampling(temperature=0.0))
    assert len(greedy.judgments([item("1")], samples=1)) == 2
    with pytest.raises(UserError, match="temperature=0"):
        greedy.judgments([item("1")], samples=2)
    with pytest.raises(UserError, match="watch"):
        dataclasses.replace(judge, sampling=Sampling(watch=(1,)))


def test_further_samples_follow_the_earlier_ones(scripted, item):
    judge, runs = scripted(SAYS_A)
    found = judge.further([item("1"), item("2")], {("2", "B"): 4}, samples=2)
    assert [(j.item, j.slot, j.index) for j in found] == [("2", "B", 4), ("2", "B", 5)]
    assert runs[0].requests[0].id == "2|B"  # the same random stream goes on


def test_hinted_judgments_keep_their_prompt_and_stream_apart(scripted, item, chat):
    judge, runs = scripted(SAYS_A)
    found = judge.hinted([item("1"), item("2")], {("1", "B", "A"), ("1", "B", "B")}, samples=1)
    assert [(j.slot, j.hint) for j in found] == [("B", "A"), ("B", "B")]
    assert chat.text(found[0].prompt) == "q1 A : bad B : good judge : hint A"
    assert len({r.id for r in runs[0].requests} | {"1|B"}) == 3


def forced(scripted, monkeypatch, answers):
    """A constrained judge whose reasonings and verdict tokens are scripted, and the sequences it rescored."""
    scored = []

    def token_scores(model, params, sequences):
        scored.extend(sequences)
        return [np.full(len(c), -0.5, np.float32) for _, c in sequences]

    monkeypatch.setattr(judge_module, "token_scores", token_scores)
    script = lambda request, index: "tie" if request.id.endswith("verdict") else answers[index]
    return *scripted(script, constrained=True), scored


def test_a_forced_verdict_follows_the_reasoning(scripted, monkeypatch, item, chat):
    judge, runs, scored = forced(scripted, monkeypatch, ["so verdict B.", "I am not sure."])
    free, rescued = judge.judgments([item("1")], samples=2, orders="chosen_a")
    assert (free.verdict, free.forced, free.logps[0]) == ("B", False, -0.1)
    assert (rescued.verdict, rescued.forced, rescued.finish) == ("tie", True, "stop")
    assert rescued.text == "I am not sure verdict tie" and rescued.tokens[-1] in chat.eos
    assert chat.text(rescued.tokens[: rescued.reasoning]) == "I am not sure"
    # asked once more, for one label after prompt, reasoning and prefix
    (request,), sampling = runs[1].requests, runs[1].sampling
    assert chat.text(request.prompt) == "q1 A : good B : bad judge : I am not sure verdict"
    assert [chat.text([i]) for i in sampling.allowed] == ["A", "B", "tie"] and sampling.max_new_tokens == 1
    # log-probabilities of the whole completion are the full policy's, by teacher forcing
    assert scored == [(rescued.prompt, rescued.tokens)]
    assert rescued.logps == (-0.5,) * len(rescued.tokens)


def test_forcing_asks_nothing_where_all_is_parsed(scripted, monkeypatch, item):
    judge, runs, _ = forced(scripted, monkeypatch, ["so verdict B."])
    judge.judgments([item("1")], samples=1, orders="chosen_a")
    assert len(runs) == 1


def test_labels_that_cannot_be_forced_are_refused_before_sampling(scripted, item):
    judge, runs = scripted(SAYS_A, constrained=True)
    judge = dataclasses.replace(judge, prompt=dataclasses.replace(judge.prompt, prefix="verdict"))
    with pytest.raises(UserError, match="single, distinct tokens"):
        judge.judgments([item("1")], samples=1)
    assert not runs


def test_prob_a_is_none_where_no_label_can_be_watched(scripted, item):
    judge, _ = scripted(lambda r, i: "verdict: B-side.")
    prompt = dataclasses.replace(judge.prompt, verdict=r"verdict: (A|B)", labels=("A", "B"))
    found = dataclasses.replace(judge, prompt=prompt).judgments([item("1")], samples=1)[0]
    assert (found.verdict, found.prob_a) == ("B", None)
    assert math.isfinite(sum(found.logps))

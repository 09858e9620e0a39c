"""RMBoost and its baselines with a generator whose every answer has a known worth."""

import dataclasses
import random

import pytest
from scripted_writer import ASPECTS, PROMPTS, GoldJudge, ScriptedWriter, gold, items

from rmjax.errors import UserError
from rmjax.methods.rmboost import RmBoost
from rmjax.methods.synthetic import Models, Recipe, affordable
from rmjax.methods.synthetic_baselines import RandomEdit, Rlaif, Rlcd, WestOfN
from rmjax.records import Vote
from rmjax.refine.conditional import direction_of
from rmjax.refine.edit_prompts import EDIT

RECIPE = Recipe(prompts=PROMPTS, aspects=ASPECTS)
BOOST = RmBoost(recipe=RECIPE)
RLAIF, WEST = Rlaif(recipe=RECIPE), WestOfN(recipe=RECIPE, n=4)
METHODS = [BOOST, RandomEdit(recipe=RECIPE), RLAIF, WEST, Rlcd(recipe=RECIPE)]
named = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)


def models(**writer):
    scorer = lambda answers: [gold(text) for _, text in answers]
    return Models(generator=ScriptedWriter(**writer), judge=GoldJudge(), scorer=scorer)


def noise(made):
    """The share of labels that the gold reward contradicts."""
    return sum(gold(p.chosen) < gold(p.rejected) for p in made.preferences) / len(made.preferences)


@named
def test_a_perfect_generator_or_judge_gives_no_noise_and_unsaid_directions_give_half(method):
    made = method.make(models(), items(400), seed=0, folder=None)
    if method.name == "random-edit":
        assert 0.4 < noise(made) < 0.6
    else:
        assert noise(made) == 0
    assert made.calls == method.calls * 400
    assert made.tokens == made.spent.read + 4 * made.calls
    assert len(made.preferences) + len(made.drops) == 400


def test_noise_is_the_generators_slips():
    made = BOOST.make(models(slips=0.3), items(1000), seed=0, folder=None)
    assert 0.25 < noise(made) < 0.35


@named
def test_order_and_repetition_change_nothing(method):
    whole = items(60)
    turned = random.Random(0).sample(whole, len(whole))
    made, again = (method.make(models(), found, seed=3, folder=None) for found in (whole, turned))
    assert sorted(map(repr, made.preferences)) == sorted(map(repr, again.preferences))
    assert [p.meta["origin"]["item"] for p in again.preferences] == [
        i.id for i in turned if i.id in {p.meta["origin"]["item"] for p in made.preferences}
    ]
    other = method.make(models(), whole, seed=4, folder=None)
    assert {repr(p) for p in other.preferences} != {repr(p) for p in made.preferences}


def test_label_direction_aspects_and_generator_are_in_the_record():
    made = BOOST.make(models(), items(101), seed=1, folder=None)
    found = [direction_of(p) for p in made.preferences]
    assert sorted((found.count("better"), found.count("worse"))) == [50, 51]
    for p in made.preferences:
        origin = p.meta["origin"]
        assert origin["edited"] == ("chosen" if origin["direction"] == "better" else "rejected")
        assert origin == {
            "method": "rmboost",
            "item": p.id.removesuffix("|rmboost"),
            "direction": origin["direction"],
            "edited": origin["edited"],
            "aspects": ["sign"],
            "generator": "script",
        }
        assert p.meta["number"] == int(origin["item"][1:])
        assert p.source == "rmboost"


def test_the_generator_reads_question_answer_direction_and_aspects():
    m = models()
    made = BOOST.make(m, items(2), seed=0, folder=None)
    first = [a for a in m.generator.asked if a.id.endswith("answer")]
    assert [a.prompt[-1].content for a in first] == ["answer question 0", "answer question 1"]
    for p in made.preferences:
        better = direction_of(p) == "better"
        said = next(a for a in m.generator.asked if a.id == f"{p.meta['origin']['item']}|edit|{direction_of(p)}")
        original = p.rejected if better else p.chosen
        assert said.prompt[-1].content == (
            f"edit question {p.meta['number']} = {original} to be {'BETTER' if better else 'WORSE'} on\n"
            "- size: larger is better\n- sign: plus is better"
        )


def test_both_directions_give_two_pairs_around_one_answer():
    made = RmBoost(recipe=RECIPE, directions="both").make(models(), items(20), seed=0, folder=None)
    assert made.calls == 60 and len({p.id for p in made.preferences}) == len(made.preferences) == 40
    of = {p.id: p for p in made.preferences}
    for i in range(20):
        up, down = of[f"q{i}|rmboost|better"], of[f"q{i}|rmboost|worse"]
        assert up.rejected == down.chosen and gold(up.chosen) > gold(up.rejected) > gold(down.rejected)


def test_drawn_aspects_are_named_and_recorded():
    m = models()
    method = RmBoost(recipe=RECIPE, aspect_mode="sample", sampled=1)
    made = method.make(m, items(40), seed=0, folder=None)
    said = {a.id.split("|")[0]: a.prompt[-1].content for a in m.generator.asked if "|edit|" in a.id}
    for p in made.preferences:
        (name,) = p.meta["origin"]["aspects"]
        other = ({"size", "sign"} - {name}).pop()
        text = said[p.meta["origin"]["item"]]
        assert f"- {name}:" in text and f"- {other}:" not in text
    assert {p.meta["origin"]["aspects"][0] for p in made.preferences} == {"size", "sign"}


def test_random_edits_start_from_the_same_answers_and_are_not_told():
    m = models()
    edits = RandomEdit(recipe=RECIPE).make(m, items(30), seed=0, folder=None)
    boost = BOOST.make(models(), items(30), seed=0, folder=None)
    original = lambda p: p.rejected if p.meta["origin"]["edited"] == "chosen" else p.chosen
    assert [original(p) for p in edits.preferences] == [original(p) for p in boost.preferences]
    assert not any(word in a.prompt[-1].content for a in m.generator.asked for word in ("BETTER", "WORSE"))


def test_west_of_n_is_the_best_against_the_worst():
    m = models()
    made = WestOfN(recipe=RECIPE, n=5).make(m, items(10), seed=0, folder=None)
    for p in made.preferences:
        ask = next(a for a in m.generator.asked if a.id == f"{p.meta['origin']['item']}|answer")
        drawn = [gold(m.generator.text(ask, i, 0)) for i in range(5)]
        assert (gold(p.chosen), gold(p.rejected)) == (max(drawn), min(drawn))
        assert p.meta["origin"]["scores"] == [max(drawn), min(drawn)]
    assert made.spent.scored == 50
    half = WestOfN(recipe=RECIPE, n=5, keep=0.5).make(models(), items(10), seed=0, folder=None)
    gap = lambda p: gold(p.chosen) - gold(p.rejected)
    assert sorted(map(gap, half.preferences)) == sorted(map(gap, made.preferences))[5:]


def test_west_of_n_drops_answers_that_score_alike():
    m = Models(generator=ScriptedWriter(), scorer=lambda answers: [1.0] * len(answers))
    made = WestOfN(recipe=RECIPE, n=3).make(m, items(4), seed=0, folder=None)
    assert not made.preferences and {d.reason for d in made.drops} == {"score gap"}


def test_west_of_n_leaves_out_what_the_scorer_cannot_read():
    """All answers of one prompt, and all but two of another one; the others' pairs are what they were."""
    m = models()
    whole = WEST.make(m, items(4), seed=0, folder=None)
    unread = lambda prompt, i: prompt.endswith(" 0") or (prompt.endswith(" 1") and i % 4 > 1)
    scorer = lambda answers: [None if unread(p[-1].content, i) else gold(a) for i, (p, a) in enumerate(answers)]
    made = WEST.make(Models(generator=ScriptedWriter(), scorer=scorer), items(4), seed=0, folder=None)
    assert [(d.item, d.reason) for d in made.drops] == [("q0", "too long to score")] and made.spent.scored == 16 - 4 - 2
    assert made.preferences[1:] == whole.preferences[2:]
    two = [gold(m.generator.text(next(a for a in m.generator.asked if a.id == "q1|answer"), i, 0)) for i in (0, 1)]
    assert made.preferences[0].meta["origin"]["scores"] == sorted(two, reverse=True)


@pytest.mark.parametrize("worth", [100, 900])
def test_west_of_n_drops_a_refusal_be_it_the_best_or_the_worst(worth):
    class Refusing(ScriptedWriter):
        def text(self, ask, index, seed):
            return super().text(ask, index, seed) if index else f"I can't say: the number {worth}"

    scorer = lambda answers: [gold(text) for _, text in answers]
    made = WEST.make(Models(generator=Refusing(), scorer=scorer), items(4), seed=0, folder=None)
    assert not made.preferences and len(made.drops) == 4
    assert {d.reason for d in made.drops} <= {"response 1 refusal", "refusal"}


def test_the_judges_probability_is_that_of_the_answer_it_chose():
    class Sure(GoldJudge):
        def label(self, pairs):
            sure = {"first": 0.9, "second": 0.1}
            return [dataclasses.replace(v, prob_first=sure[v.choice]) for v in super().label(pairs)]

    made = RLAIF.make(Models(generator=ScriptedWriter(), judge=Sure()), items(20), seed=0, folder=None)
    assert {round(p.meta["origin"]["prob_chosen"], 9) for p in made.preferences} == {0.9}


def test_a_judge_that_cannot_tell_gives_no_pair():
    class Tie(GoldJudge):
        def label(self, pairs):
            return [Vote(item=p.id, choice="tie" if i % 2 else "unknown", by="t") for i, p in enumerate(pairs)]

    made = Rlaif(recipe=RECIPE).make(Models(generator=ScriptedWriter(), judge=Tie()), items(6), seed=0, folder=None)
    assert not made.preferences and {d.reason for d in made.drops} == {"judge undecided"}
    assert made.spent.judged == len(made.drops)


def test_what_goes_wrong_is_counted_by_direction():
    """Edits for the worse are refused: as many of the others are dropped, so that editing does not tell the label."""
    refuse = lambda text: text if "number" not in text else "I'm sorry, but I can't do that."

    class Half(ScriptedWriter):
        def text(self, ask, index, seed):
            out = super().text(ask, index, seed)
            return refuse(out) if "WORSE" in ask.prompt[-1].content and int(ask.id[1:].split("|")[0]) < 30 else out

    made = BOOST.make(Models(generator=Half()), items(60), seed=0, folder=None)
    found = [direction_of(p) for p in made.preferences]
    assert abs(found.count("better") - found.count("worse")) == 1
    dropped = made.facts()["dropped"]
    assert dropped["refusal"].keys() == {"worse"} and dropped["balance"].keys() == {"better"}
    assert len(made.preferences) + len(made.drops) == 60
    loose = RmBoost(recipe=RECIPE, balance=False).make(Models(generator=Half()), items(60), seed=0, folder=None)
    assert len(loose.preferences) == 60 - sum(dropped["refusal"].values())


@named
def test_prompts_that_are_too_long_are_dropped_without_a_call(method):
    made = method.make(models(limit=5), items(3), seed=0, folder=None)
    assert not made.preferences and made.calls == 0
    assert [d.reason for d in made.drops] == ["prompt too long"] * 3


def test_a_budget_buys_whole_prompts_and_more_of_it_only_adds():
    every = items(50)
    small, large = (affordable(every, WestOfN(recipe=RECIPE, n=4), calls, seed=0) for calls in (41, 80))
    assert len(small) == 10 and len(large) == 20
    assert {i.id for i in small} < {i.id for i in large}
    assert len(affordable(every, BOOST, 41, seed=0)) == 20
    with pytest.raises(UserError, match=r"budget=3: west-of-n writes 4 texts"):
        affordable(every, WestOfN(recipe=RECIPE, n=4), 3, seed=0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RmBoost(recipe=RECIPE, aspect_mode="sample", sampled=3), "method.sampled=3: there are 2 aspects"),
        (lambda: RmBoost(recipe=RECIPE, sampled=1), "method.sampled=1 is read with method.aspect_mode=sample only"),
        (lambda: RmBoost(recipe=Recipe(aspects=())), "template holds {aspects}, but there are none"),
        (lambda: WestOfN(n=1), "method.n=1"),
        (lambda: WestOfN(keep=0.0), "method.keep=0.0"),
        (lambda: Rlaif().make(Models(generator=ScriptedWriter()), items(1), seed=0, folder=None), "there is no judge"),
        (lambda: WestOfN().make(Models(generator=ScriptedWriter()), items(1), seed=0, folder=None), "no scorer"),
        (lambda: BOOST.make(models(), items(2) + items(1), seed=0, folder=None), "item id 'q0' occurs 2 times"),
    ],
)
def test_mistakes_are_said_in_one_line(make, said):
    with pytest.raises(UserError) as error:
        make()
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_shipped_prompt_reads_back_what_it_asks_for():
    wrap = lambda text: EDIT.template.split("end with exactly this:\n")[1].replace(
        "the new answer and nothing else", text
    )
    recipe = Recipe(prompts=PROMPTS, aspects=ASPECTS)
    made = RmBoost(recipe=recipe).make(Models(generator=ScriptedWriter(wrap=wrap)), items(5), seed=0, folder=None)
    assert len(made.preferences) == 5

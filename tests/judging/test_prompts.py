"""The judge prompt shows both answers as they are, in their slots, whatever they contain."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmjax.errors import UserError
from rmjax.judging.prompts import JSON_JUDGE, JudgePrompt, transcript
from rmjax.records import Message, Preference

FIELDS = dict(template="{question}|{answer_a}|{answer_b}", verdict="(A|B)", prefix="v ")


def pair(question="q", chosen="c", rejected="r"):
    return Preference(id="x", prompt=(Message("user", question),), chosen=chosen, rejected=rejected)


def test_slots_swap_and_nothing_else_changes():
    a, b = (JSON_JUDGE.render(pair(chosen="CHOSEN", rejected="REJECTED"), s)[-1].content for s in "AB")
    assert a.index("CHOSEN") < a.index("REJECTED") and b.index("REJECTED") < b.index("CHOSEN")
    assert a.replace("CHOSEN", "x").replace("REJECTED", "CHOSEN").replace("x", "REJECTED") == b


def test_json_judge_asks_for_reasoning_before_the_verdict_and_names_no_winner():
    (user,) = JSON_JUDGE.render(pair(), "A")  # one turn: some templates refuse a system turn
    assert user.role == "user"
    assert user.content.index('"reasoning"') < user.content.index('"verdict"')
    assert "chosen" not in user.content and "{" not in user.content.replace('{"reasoning"', "")
    assert not re.search(JSON_JUDGE.verdict, user.content)  # the format itself is no verdict


@given(st.lists(st.text(alphabet="{}ab_questionswhrt \\1g<0>", max_size=30), min_size=3, max_size=3))
def test_placeholders_inside_contents_stay_text(texts):
    question, chosen, rejected = texts
    prompt = JudgePrompt(**FIELDS)
    assert prompt.render(pair(question, chosen, rejected), "A")[0].content == f"{question}|{chosen}|{rejected}"


def test_an_answer_cannot_fill_another_slot():
    text = JudgePrompt(**FIELDS).render(pair("{answer_b}", "{question}{hint}", "{0}"), "A")[0].content
    assert text == "{answer_b}|{question}{hint}|{0}"


def test_conversations_become_a_transcript():
    turns = (Message("user", "hi"), Message("assistant", "hello"), Message("user", "2+2?"))
    assert transcript(turns) == "[user]\nhi\n\n[assistant]\nhello\n\n[user]\n2+2?"
    assert transcript((Message("user", "hi"),)) == "hi"
    assert transcript((Message("system", "s"), Message("user", "hi"))) == "[system]\ns\n\n[user]\nhi"


def test_a_hint_stands_where_the_template_puts_it_or_at_the_end():
    inside = JudgePrompt(**FIELDS | {"template": "{hint}<{question}{answer_a}{answer_b}"}, hint="say {verdict}")
    assert inside.render(pair(), "A", "B")[0].content == "say B<qcr"
    assert inside.render(pair(), "A")[0].content == "<qcr"
    at_end = JudgePrompt(**FIELDS, hint="say {verdict}", labels=("1", "2"))
    assert at_end.render(pair(), "A", "B")[0].content == "q|c|r say 2"
    assert at_end.render(pair(), "A")[0].content == "q|c|r"
    with pytest.raises(UserError, match="hint is empty"):
        JudgePrompt(**FIELDS).render(pair(), "A", "B")


def test_labels_stand_for_verdicts_by_their_order():
    prompt = JudgePrompt(**FIELDS, labels=("1", "2", "0"))
    assert [prompt.verdict_of(x) for x in ("1", " 2", "0 ", "A")] == ["A", "B", "tie", None]
    assert JSON_JUDGE.verdict_of("b") == "B" and JSON_JUDGE.verdict_of("tie") is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"template": "{question}{answer_a}"}, "answer_b"),
        ({"template": "{question}{question}{answer_a}{answer_b}"}, "question"),
        ({"verdict": "verdict"}, "0 groups"),
        ({"verdict": "(A)(B)"}, "2 groups"),
        ({"verdict": "(A"}, "regular expression"),
        ({"labels": ("A", "a")}, "labels"),
        ({"labels": ("A",)}, "labels"),
        ({"hint": "say it"}, "hint"),
        ({"take": "best"}, "take"),
    ],
)
def test_impossible_prompts_are_refused(fields, message):
    with pytest.raises(UserError, match=message) as error:
        JudgePrompt(**FIELDS | fields)
    assert "\n" not in str(error.value)

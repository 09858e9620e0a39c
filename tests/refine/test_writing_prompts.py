"""Aspect sets, templates, mixing: what a user may bring of his own, and what is refused."""

import dataclasses
import json

import pytest

from rmjax.errors import UserError
from rmjax.records import Message, Preference
from rmjax.refine import aspects
from rmjax.refine.aspects import TASKS, Aspect
from rmjax.refine.edit_prompts import EDIT, STEERING, AnswerPrompt, EditPrompt, SteeringPrompt
from rmjax.refine.mixing import mix

ASK = (Message("user", "why {direction}? {response} <response>x</response>"),)


def test_every_task_has_aspects_with_names_that_can_be_told_apart():
    for found in TASKS.values():
        aspects.check([("here", a) for a in found])
        assert len(found) >= 3


def test_placeholders_inside_texts_stay():
    text = EDIT.render(ASK, "an {aspects} answer", "worse", TASKS["safety"])[-1].content
    assert ASK[0].content in text and "an {aspects} answer" in text
    assert "WORSE" in text and "BETTER" not in text and "DIFFERENT" not in text
    assert all(f"- {a.name}: {a.definition}" in text for a in TASKS["safety"])
    assert "{" not in text.replace(ASK[0].content, "").replace("an {aspects} answer", "")


def test_an_unsaid_direction_and_a_system_turn():
    system, user = dataclasses.replace(EDIT, system="be brief").render(ASK, "a", None, TASKS["safety"])
    assert system == Message("system", "be brief") and "DIFFERENT" in user.content and "WORSE" not in user.content


def test_a_plain_question_is_the_conversation_itself():
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert AnswerPrompt().render(turns) is turns
    assert "[assistant]\nb" in AnswerPrompt(template="Q: {question}").render(turns)[0].content
    assert "a helpful" in STEERING.render(ASK, "better")[0].content
    assert "an unhelpful" in STEERING.render(ASK, "worse")[0].content


def test_aspects_of_the_users_own(tmp_path):
    rows = [{"name": "rhyme", "definition": "it rhymes"}, {"name": "metre", "definition": "it scans"}]
    lines, whole = tmp_path / "a.jsonl", tmp_path / "a.json"
    lines.write_text("\n".join(map(json.dumps, rows)))
    whole.write_text(json.dumps(rows))
    assert aspects.read(lines) == aspects.read(whole) == tuple(Aspect(**row) for row in rows)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"name": "x", "definition": "y"}\n{"name": "z"}', "a.jsonl:2: the field 'definition' of Aspect"),
        ("a.jsonl", '{"name": "x", "definition": 3}', "a.jsonl:1: field 'definition' is 3; str is expected"),
        ("a.jsonl", '{"name": "x", "definition": "y", "weight": 1}', "a.jsonl:1: unknown field 'weight'"),
        ("a.jsonl", '{"name": "x", "definition": " "}', "a.jsonl:1: field 'definition' is empty"),
        ("a.jsonl", '{"name": "x, y", "definition": "z"}', "a.jsonl:1: field 'name' is \"x, y\"; leave out commas"),
        (
            "a.jsonl",
            '{"name": "x", "definition": "y"}\n\n{"name": " X", "definition": "z"}',
            "a.jsonl:3: field 'name' is \" X\", which",
        ),
        ("a.jsonl", "{", "a.jsonl:1: not valid JSON"),
        ("a.jsonl", "", "a.jsonl: holds no aspect"),
        ("a.json", '{"name": "x", "definition": "y"}', "a.json: is {"),
        ("a.json", '[{"name": "x", "definition": "y"}, {}]', "a.json: entry 2: the field 'name'"),
    ],
)
def test_aspects_that_cannot_be_meant(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        aspects.read(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path}/{said}") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: AnswerPrompt(template="no place"), "answer prompt: template holds {question} not exactly once"),
        (lambda: AnswerPrompt(system="s"), "answer prompt: system='s' needs a template"),
        (lambda: EditPrompt(template="{question} {direction}"), "edit prompt: template holds {response} not exactly"),
        (lambda: EditPrompt(template="{question} {response}"), "edit prompt: template does not hold {direction}"),
        (lambda: dataclasses.replace(EDIT, worse="BETTER"), "edit prompt: better='BETTER', worse='BETTER'"),
        (lambda: dataclasses.replace(EDIT, response="a"), "edit prompt: response='a' has 0 groups"),
        (lambda: dataclasses.replace(EDIT, aspects="("), "edit prompt: aspects='(' is not a regular expression"),
        (lambda: dataclasses.replace(EDIT, aspect="x"), "edit prompt: aspect='x' does not hold {name}"),
        (lambda: SteeringPrompt(template="{question}"), "steering prompt: template holds {direction} not exactly once"),
        (lambda: dataclasses.replace(STEERING, positive="x", negative="x"), "steering prompt: positive and negative"),
        (
            lambda: EditPrompt(template="{question} {response} {direction}").check(TASKS["safety"]),
            "edit prompt: template does not hold {aspects}",
        ),
    ],
)
def test_templates_that_cannot_work(make, said):
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


def test_mixing_weighs_the_synthetic_pairs_alone():
    make = lambda id, **fields: Preference(prompt=ASK, chosen=f"{id} a", rejected="b", id=id, **fields)
    real = [make("r1"), make("r2", weight=3.0, margin=1.0)]
    mixed = mix(real, [make("s1"), make("s2", weight=0.5)], weight=0.2)
    assert mixed[:2] == real and [p.weight for p in mixed[2:]] == [0.2, 0.1]
    with pytest.raises(UserError, match=r"pair 'r1' is among"):
        mix(real, [make("r1")], weight=1.0)
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"^mix\.weight="):
            mix(real, [], weight=weight)

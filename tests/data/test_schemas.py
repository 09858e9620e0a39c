"""Every schema that is read, with and without its optional columns, and what is wrong with its values."""

import json
import re
from pathlib import Path

import pytest
from schema_rows import (
    ASK,
    BARE,
    CHOSEN,
    FULL,
    HH,
    LONGER,
    NEMO,
    REJECTED,
    STEER,
    STRENGTH,
    SYSTEM,
    USER,
    WEBGPT,
    explicit,
    implicit,
    reply,
    sharegpt,
    turns,
)

from rmjax.data.schemas import DEMONSTRATIONS, PREFERENCES
from rmjax.data.sources import read_demonstrations, read_preferences
from rmjax.errors import UserError
from rmjax.records import Demonstration


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ALL = BARE + FULL


@pytest.mark.parametrize(("schema", "row", "expected"), ALL, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(ALL)])
def test_a_schema_is_found_and_read(schema, row, expected, tmp_path):
    source = read_preferences(write(tmp_path / "x.jsonl", row))
    assert source.schema == schema
    assert source.records == expected
    assert source.dropped == {}
    again = read_preferences(tmp_path / "x.jsonl", schema=schema)
    assert again.records == source.records


def test_every_schema_has_a_bare_row():
    assert {name for name, *_ in BARE} == {s.name for s in PREFERENCES}
    for name, row, _ in BARE:
        schema = next(s for s in PREFERENCES if s.name == name)
        assert set(row) == {*schema.required, *schema.marks}


@pytest.mark.parametrize(("schema", "row", "expected"), BARE, ids=[n for n, *_ in BARE])
def test_optional_columns_may_be_missing_in_some_rows(schema, row, expected, tmp_path):
    """The trap of readers that look at the first row only: `system` there, absent in the second."""
    known = next(s for s in PREFERENCES if s.name == schema)
    if "source" not in known.optional:
        pytest.skip("no common column")
    source = read_preferences(write(tmp_path / "x.jsonl", {**row, "source": "x"}, row), duplicate="drop")
    assert source.schema == schema
    assert source.dropped == {"duplicate": len(expected)}
    second = read_preferences(write(tmp_path / "y.jsonl", {**row, "source": "x", "id": "1"}, row))
    assert [r.source for r in second.records] == ["x"] * len(expected) + [""] * len(expected)


def test_axolotl_without_system_in_one_row(tmp_path):
    row = {"input": "Why?", "chosen": CHOSEN, "rejected": REJECTED}
    source = read_preferences(write(tmp_path / "x.jsonl", {**row, "system": "Be brief."}, row))
    assert [p.prompt for p in source.records] == [(SYSTEM, USER), ASK]


DEMOS = [
    ("prompt-completion", {"prompt": "Why?", "completion": "So."}, ASK),
    ("prompt-completion", {"prompt": turns("Why?"), "completion": reply("So.")}, ASK),
    ("messages", {"messages": turns("Why?", "Say more.", "Why is it so?", "So.")}, LONGER),
    ("sharegpt", {"conversations": sharegpt("Why?", "So."), "system": "Be brief."}, (SYSTEM, USER)),
    ("alpaca", {"instruction": "Why?", "output": "So."}, ASK),
    ("alpaca", {"instruction": "Why?", "input": "", "output": "So.", "system": None, "history": []}, ASK),
    ("question-answer", {"question": "Why?", "answer": "So."}, ASK),
]


@pytest.mark.parametrize(("schema", "row", "prompt"), DEMOS)
def test_demonstrations(schema, row, prompt, tmp_path):
    path = write(tmp_path / "x.jsonl", {**row, "id": 1, "subset": "s"})
    expected = [Demonstration(prompt=prompt, completion="So.", id="1", meta={"subset": "s"})]
    assert read_demonstrations(path) == read_demonstrations(path, schema=schema) == expected


def test_every_demonstration_schema_is_tested():
    assert {name for name, *_ in DEMOS} == {s.name for s in DEMONSTRATIONS}


BAD = [
    ("explicit", explicit(margin="2"), r"field 'margin' is \"2\"; a number"),
    ("explicit", explicit(margin=True), "field 'margin' is true"),
    ("explicit", explicit(margin=10**400), "'margin' .* too large"),
    ("explicit", explicit(prob_chosen=1.5), r"'prob_chosen' is 1.5; it must lie within \[0, 1\]"),
    ("explicit", explicit(prob_chosen=-0.1), r"'prob_chosen' is -0.1"),
    ("explicit", explicit(weight=-1), r"'weight' is -1.0; it must lie within \[0, inf\]"),
    ("explicit", explicit(tie="yes"), r"'tie' is \"yes\"; true or false"),
    ("explicit", explicit(votes={"chosen": -1}), "'votes'"),
    ("explicit", explicit(votes={"wins": 1}), "'votes'"),
    ("explicit", explicit(votes=[1]), "'votes' is .*an object"),
    ("explicit", explicit(id=1.5), "'id' is 1.5"),
    ("explicit", explicit(meta=3), "'meta' is 3"),
    ("explicit", explicit(prompt=""), "'prompt' holds no prompt"),
    ("explicit", explicit(prompt=None), "'prompt' is missing"),
    ("explicit", explicit(prompt=turns("Why?", "So.")), "ends with an assistant's turn"),
    ("explicit", explicit(prompt=[{"role": "user"}]), r"'prompt\[0\]'.* a role and a text content"),
    ("explicit", explicit(prompt=[{"role": "user", "content": "x", "tool_calls": [1]}]), "the key 'tool_calls'"),
    ("explicit", explicit(chosen=3), "'chosen'"),
    ("explicit", explicit(prompt=["x"]), r"'prompt\[0\]' is .*an object with role and content"),
    ("explicit", explicit(prompt=[]), "'prompt' is .*a list of messages"),
    ("rewardbench-2", explicit(chosen=["a"], rejected=["b", 1]), "'rejected' is .*a list of strings"),
    ("alpaca-ranking", {"instruction": "q", "history": "x", "chosen": "a", "rejected": "b"}, "'history' is .*a list"),
    ("hh-strength", {**STRENGTH, "chosen": []}, "'chosen' has no turn"),
    (
        "sharegpt-ranking",
        {"conversations": [], "chosen": sharegpt("", "x")[1], "rejected": sharegpt("", "y")[1]},
        "'conversations' is .*a list of turns",
    ),
    (
        "sharegpt-ranking",
        {"conversations": [{"from": "bot"}], "chosen": sharegpt("", "x")[1], "rejected": sharegpt("", "y")[1]},
        r"'conversations\[0\]' is .*'from' \(human",
    ),
    ("explicit", explicit(chosen=turns("a", "b", "c")), "'chosen' is not the prompt's turns and one assistant's"),
    (
        "implicit",
        implicit(rejected=turns("What?", REJECTED)),
        r"'rejected' differs from 'chosen' .*\(at turn 1\)",
    ),
    ("implicit", implicit(rejected=turns("Why?", "a", "b", REJECTED)), "'rejected' differs from 'chosen'"),
    ("implicit", implicit(chosen=turns("Why?"), rejected=turns("What?")), "'chosen' ends with a turn of 'user'"),
    ("implicit", implicit(chosen=reply(CHOSEN), rejected=reply(REJECTED)), "'chosen' holds no prompt"),
    ("ultrafeedback", implicit(score_chosen=1, score_rejected=None), "'score_rejected' is missing, but its partner"),
    (
        "ultrafeedback",
        implicit(score_chosen=2, score_rejected=1, margin=3),
        "'margin' is 3.0, but the schema's columns give 1.0",
    ),
    (
        "ultrafeedback",
        implicit(score_chosen=2, score_rejected=1, prompt="What?"),
        "'prompt' is not the prompt of the conversations",
    ),
    ("hh-rlhf", {**HH, "rejected": "Because."}, "'rejected' holds no .*Human:"),
    ("hh-rlhf", {**HH, "rejected": HH["rejected"] + "\n\nHuman: Thanks"}, "'rejected' differs"),
    (
        "helpsteer2-preference",
        {**STEER, "preference_strength": 4},
        r"'preference_strength' is 4.0; it must lie within \[-3, 3\]",
    ),
    ("nemo", {**NEMO, "completions": NEMO["completions"][:1]}, "'completions'.* two or more"),
    ("nemo", {**NEMO, "completions": [{"completion": "x"}] * 2}, "rank and completion"),
    ("nemo", {**NEMO, "completions": [{"rank": 1, "completion": c} for c in "xy"]}, "the same rank"),
    ("webgpt", {**WEBGPT, "question": {"text": "x"}}, "'question'.* full_text"),
    ("webgpt", {**WEBGPT, "score_0": None}, "'score_0' is missing"),
    (
        "alpaca-ranking",
        {"instruction": "Why?", "history": [["a"]], "chosen": "x", "rejected": "y"},
        r"'history' holds \[\"a\"\]",
    ),
    (
        "sharegpt-ranking",
        {"conversations": sharegpt("a"), "chosen": sharegpt("x")[0], "rejected": sharegpt("y")[0]},
        "'chosen' is a turn of 'user'",
    ),
    (
        "sharegpt-ranking",
        {
            "conversations": sharegpt("a"),
            "chosen": sharegpt("", "x")[1],
            "rejected": sharegpt("", "y")[1],
            "tools": "f",
        },
        "'tools' describes tools",
    ),
    ("rewardbench-2", explicit(chosen=["a"], rejected=[]), "'rejected'"),
]


@pytest.mark.parametrize(("schema", "row", "says"), BAD, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(BAD)])
def test_a_bad_value_is_an_error_with_file_line_and_field_or_a_counted_drop(schema, row, says, tmp_path):
    good = next(bare for name, bare, _ in BARE if name == schema)
    path = write(tmp_path / "x.jsonl", good, row)
    with pytest.raises(UserError, match=says) as error:
        read_preferences(path)
    assert str(error.value).startswith(f"{path}:2: ")
    source = read_preferences(path, invalid="drop")
    assert (len(source.records), source.dropped) == (1, {"invalid": 1})


def test_the_page_on_data_shows_lines_of_every_schema_that_are_read(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    for schema in (*PREFERENCES, *DEMONSTRATIONS):
        assert f"`{schema.name}`" in page
    found = set()
    for number, line in enumerate(re.findall(r"^    (\{.*\})$", page, re.MULTILINE)):
        path = write(tmp_path / f"{number}.jsonl", json.loads(line))
        if "chosen" in line or "response" in line or "answer_0" in line or "rank" in line:
            found.add(read_preferences(path).schema)
        else:
            assert read_demonstrations(path)[0].completion == "4"
    assert len(found) == 13  # the score columns, OpenRLHF's keys and HelpSteer3 share a line with their like

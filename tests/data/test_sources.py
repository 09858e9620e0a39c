"""Reading files: kinds of file, finding the schema, policies, limits; and a fuzz in which nothing is lost unseen."""

import dataclasses
import functools
import gzip
import json
from collections import Counter

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rmjax import jsonl
from rmjax.data.detection import detect
from rmjax.data.files import Row
from rmjax.data.schemas import PREFERENCES
from rmjax.data.sources import read_demonstrations, read_preferences
from rmjax.errors import UserError
from rmjax.records import Message, Preference

DROP = {"invalid": "drop", "empty": "drop", "identical": "drop", "duplicate": "drop"}


def row(k=0, **more) -> dict:
    return {"prompt": f"Question {k}?", "chosen": f"Yes {k}.", "rejected": f"No {k}.", **more}


def write(path, *rows):
    lines = [line if isinstance(line, str) else json.dumps(line) for line in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_the_same_records_from_every_kind_of_file(tmp_path):
    rows = [row(k, margin=k / 4, subset="é") for k in range(3)]
    text = "".join(json.dumps(r) + "\n" for r in rows)
    write(tmp_path / "x.jsonl", *rows)
    (tmp_path / "lines.json").write_text(text)
    (tmp_path / "x.json").write_text(json.dumps(rows, indent=2))
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    sources = [read_preferences(path) for path in sorted(tmp_path.iterdir())]
    assert len(sources) == 6
    assert all(s.records == sources[0].records for s in sources)
    assert [p.margin for p in sources[0].records] == [0, 0.25, 0.5]
    assert len({s.hash for s in sources}) == 5  # the content of x.jsonl and lines.json is the same


def test_our_own_records_are_read_back(tmp_path):
    records = [
        Preference(prompt=(Message("user", "q"),), chosen="a", rejected="b", prob_chosen=0.5, meta={"x": None, "y": 1}),
        Preference(prompt=(Message("system", "s"), Message("user", "q")), chosen="a", rejected="b", id="own", tie=True),
    ]
    jsonl.write(tmp_path / "x.jsonl.gz", records)
    assert read_preferences(tmp_path / "x.jsonl.gz").records == records


def test_a_hub_data_set_is_read_only_when_named_as_one(tmp_path, monkeypatch):
    asked = []

    def load(name, split):
        asked.append((name, split))
        parts = {s: datasets.Dataset.from_list([row(k) for k in range(n)]) for s, n in (("train", 3), ("test", 2))}
        return parts[split] if split else datasets.DatasetDict(parts)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(read_preferences("hub:owner/name:test").records) == 2
    with pytest.raises(UserError, match=r"has the splits train, test; write hub:owner/name:SPLIT"):
        read_preferences("hub:owner/name")
    assert asked == [("owner/name", "test"), ("owner/name", None)]
    with pytest.raises(UserError, match=r"owner/name: no such file; .* write hub:owner/name"):
        read_preferences("owner/name")
    assert len(asked) == 2
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: 1 / 0)
    with pytest.raises(UserError, match=r"hub:owner/name: cannot be loaded from the hub \(division by zero\)"):
        read_preferences("hub:owner/name")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.csv", b"a,b", "unknown kind of file; use .jsonl.*; docs/data.md says how to turn CSV"),
        ("x.jsonl", b"", "holds no record"),
        ("x.jsonl", b"\n \n", "holds no record"),
        ("x.json", b"[]", "holds no record"),
        ("x.json", b'[{"prompt": 1,]', "x.json: not valid JSON"),
        ("x.json", b"[1, 2]", "x.json: item 1: int found"),
        ("x.jsonl", b"[1]\n", "x.jsonl:1: list found; a JSON object per record"),
        ("x.jsonl", b"{}\n", "columns .none. lack"),
        ("x.parquet", b"PAR1", "not a readable parquet file"),
        ("x.jsonl.gz", b"plain", "cannot be read"),
    ],
)
def test_files_that_cannot_be_used(name, content, says, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        read_preferences(tmp_path / name)
    assert "\n" not in str(error.value)


def test_places_that_are_no_file(tmp_path):
    with pytest.raises(UserError, match="is a directory; name one file"):
        read_preferences(tmp_path)
    with pytest.raises(UserError, match=r"gone\.jsonl: no such file"):
        read_preferences(tmp_path / "gone.jsonl")


def test_parquet_values_that_json_cannot_hold(tmp_path):
    for value, says in ((float("nan"), "field 'margin' is nan; a finite"), (b"x", "field 'margin' is .*a number")):
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist([row(0, margin=None), row(1, margin=value)]), tmp_path / "x.parquet"
        )
        with pytest.raises(UserError, match=rf"x\.parquet: row 2: {says}"):
            read_preferences(tmp_path / "x.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row(0, annotator=b"x")]), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"'annotator' .*list it in the option `ignore`"):
        read_preferences(tmp_path / "x.parquet")
    assert read_preferences(tmp_path / "x.parquet", ignore=["annotator"]).records[0].meta == {}


# --- finding the schema ---


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            [row(0), row(1, margn=1)],
            r":2: unknown column 'margn' in schema 'explicit'; did you mean 'margin'\? If not,",
        ),
        ([row(0, foo=1, bar=2)], r":1: unknown column 'foo' \(and 1 more: bar\)"),
        ([{"prompt": "q", "choosen": "a", "rejected": "b"}], r"lack 'chosen' of schema 'explicit'.*mean 'choosen'"),
        ([{"question": "q", "chosen": "a", "rejected": "b"}], r"lack 'prompt' of schema 'explicit'"),
        ([{"text": "a"}], "lack "),
        ([row(0, prompt=3)], r"column 'prompt' holds a number; schema .* needs a string or a list of messages"),
        ([row(0, chosen=None)], "column 'chosen' holds null"),
        ([row(0, chosen=1, rejected=2, prompt=3)], "column '.*' holds a number"),
        ([row(0, chosen_model="m")], "unknown column 'chosen_model'"),
    ],
)
def test_columns_that_fit_no_schema(rows, says, tmp_path):
    path = write(tmp_path / "x.jsonl", *rows)
    with pytest.raises(UserError, match=says) as error:
        read_preferences(path, **DROP)
    assert str(error.value).startswith(str(path))


def test_columns_that_fit_two_schemas_ask_for_one(tmp_path):
    rows = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    both = {"prompt": "q", "completion": "a", "question": "q", "answer": "a"}
    assert read_demonstrations(write(tmp_path / "x.jsonl", rows))[0].completion == "a"
    with pytest.raises(UserError, match="unknown column"):
        read_demonstrations(write(tmp_path / "x.jsonl", both))
    options = {"schema": "question-answer", "ignore": ["prompt", "completion"]}
    assert len(read_demonstrations(tmp_path / "x.jsonl", **options)) == 1


def test_ignored_and_mapped_columns(tmp_path):
    path = write(tmp_path / "x.jsonl", {"q": "Why?", "good": "a", "bad": "b", "extra": 1})
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    source = read_preferences(path, columns=columns, ignore=["extra", "not there"])
    assert (source.schema, source.records[0].rejected, source.records[0].meta) == ("explicit", "b", {})
    with pytest.raises(UserError, match=r"no column 'worse' to map; columns: bad, extra, good, q"):
        read_preferences(path, columns={**columns, "rejected": "worse"}, ignore=["extra"])
    with pytest.raises(UserError, match="column 'chosen' exists beside the one mapped to it"):
        read_preferences(write(tmp_path / "y.jsonl", row(0, good="x")), columns={"chosen": "good"})
    swapped = read_preferences(
        write(tmp_path / "z.jsonl", row(0)), columns={"chosen": "rejected", "rejected": "chosen"}
    )
    assert swapped.records[0].chosen == "No 0."


def test_a_named_schema_is_held_to(tmp_path):
    path = write(tmp_path / "x.jsonl", row(0))
    with pytest.raises(UserError, match="unknown schema 'explict'; use 'auto' or one of explicit"):
        read_preferences(path, schema="explict")
    with pytest.raises(UserError, match="lack 'input' of schema 'openrlhf'"):
        read_preferences(path, schema="openrlhf")
    with pytest.raises(UserError, match="unknown column 'foo'"):
        read_preferences(write(tmp_path / "y.jsonl", row(0, foo=1)), schema="explicit")


# --- policies ---


CASES = [
    ("empty", row(1, chosen=" \n"), r"field 'chosen' is empty; mend it, take the row out, or set empty='drop'"),
    ("empty", row(1, rejected=""), "field 'rejected' is empty"),
    (
        "identical",
        row(1, rejected="Yes 1."),
        "'chosen' and 'rejected' are identical; take the row out, or set identical='drop'",
    ),
    ("duplicate", row(0), r"the same record as .*x\.jsonl:1; take it out, or set duplicate='drop'"),
    ("invalid", "{broken", "not valid JSON"),
    ("invalid", "3", "int found; a JSON object per record"),
    ("invalid", row(1, margin="x"), "field 'margin'"),
]


@pytest.mark.parametrize(("reason", "bad", "says"), CASES)
def test_each_policy_errs_or_drops_and_counts(reason, bad, says, tmp_path):
    path = write(tmp_path / "x.jsonl", row(0), bad, row(2), bad)
    with pytest.raises(UserError, match=says) as error:
        read_preferences(path)
    assert str(error.value).startswith(f"{path}:2: ")
    source = read_preferences(path, **{reason: "drop"})
    assert [p.chosen for p in source.records] == ["Yes 0.", "Yes 2."]
    assert source.dropped == {reason: 2}
    assert source.summary() == f"{path}: schema explicit, 2 records, dropped: 2 {reason}"
    others = {name: "drop" for name in DROP if name != reason}
    with pytest.raises(UserError, match=says):
        read_preferences(path, **others)


def test_demonstrations_have_no_faults_to_drop(tmp_path):
    demo = {"prompt": "q", "completion": "a"}
    for rows, says in (([demo, {**demo, "completion": ""}], "'completion' is empty"), ([demo] * 2, "the same record")):
        with pytest.raises(UserError, match=rf"x\.jsonl:2: .*{says}.*take (it|the row) out$"):
            read_demonstrations(write(tmp_path / "x.jsonl", *rows))
    assert len(read_demonstrations(write(tmp_path / "x.jsonl", *[{**demo, "id": k} for k in range(5)]), limit=2)) == 2


def test_an_id_for_two_different_pairs_is_an_error_under_every_policy(tmp_path):
    path = write(tmp_path / "x.jsonl", row(0, id="a"), row(1, id="a"))
    with pytest.raises(UserError, match=r"x\.jsonl:2: id 'a' was used at .*x\.jsonl:1 for another record"):
        read_preferences(path, **DROP)


def test_one_pair_may_occur_twice_with_two_ids(tmp_path):
    source = read_preferences(write(tmp_path / "x.jsonl", row(0, id="a"), row(0, id="b")))
    assert [p.id for p in source.records] == ["a", "b"]


def test_an_answer_that_differs_in_case_is_another_answer(tmp_path):
    assert len(read_preferences(write(tmp_path / "x.jsonl", row(0, chosen="no 0."))).records) == 1


def test_nothing_left_is_an_error(tmp_path):
    path = write(tmp_path / "x.jsonl", row(0, chosen=""), row(1, chosen=""))
    with pytest.raises(UserError, match=r"nothing is left: \{'empty': 2\} were dropped"):
        read_preferences(path, empty="drop")
    with pytest.raises(UserError, match="not valid JSON"):
        read_preferences(write(tmp_path / "y.jsonl", "{", "["), **DROP)


def test_a_limit_takes_the_first_records(tmp_path):
    path = write(tmp_path / "x.jsonl", *[row(k, chosen="" if k == 0 else f"Yes {k}.") for k in range(9)])
    source = read_preferences(path, empty="drop", limit=3)
    assert [p.chosen for p in source.records] == ["Yes 1.", "Yes 2.", "Yes 3."]
    assert source.dropped == {"empty": 1}
    for options in ({"limit": 0}, {"empty": "skip"}):
        with pytest.raises(UserError, match=str(next(iter(options)))):
            read_preferences(path, **options)


def test_real_files_are_read_whole(shared):
    for path in sorted((shared / "data" / "dev").glob("*.jsonl.gz")):
        source = read_preferences(path)
        with gzip.open(path) as file:
            assert len(source.records) == sum(1 for _ in file)
        assert source.schema == "explicit"
        assert all(p.source and p.meta["label"] for p in source.records)


# --- fuzz ---

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=5)  # fmt: skip  # noqa: E501
message = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": st.text(max_size=5)})  # fmt: skip  # noqa: E501
good = st.text(max_size=8) | st.lists(message, min_size=1, max_size=3)
names = ["prompt", "chosen", "rejected", "margin", "id", "tie", "votes", "meta", "score_chosen", "input", "context",
         "completions", "conversations", "instruction", "question", "messages", "prob_chosen", "system"]  # fmt: skip
wild = st.dictionaries(st.sampled_from(names) | st.text(max_size=3), values, max_size=5)
near = st.fixed_dictionaries(
    {"prompt": good | values, "chosen": good | values, "rejected": good | values},
    optional={
        "margin": scalars,
        "id": scalars,
        "tie": scalars,
        "votes": values,
        "meta": values,
        "prob_chosen": scalars,
    },
)
line = (
    st.binary(max_size=30)
    | st.text(max_size=20).map(str.encode)
    | (wild | near).map(lambda r: json.dumps(r).encode("utf-8", "surrogatepass"))
)


def check(path, content: bytes) -> None:
    """Whatever the bytes: one line of complaint, or every line of the file is a record or counted as dropped."""
    path.write_bytes(content)
    lines = [text for text in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if text.strip()]
    for read in (read_preferences, functools.partial(read_preferences, **DROP), read_demonstrations):
        try:
            found = read(path)
        except UserError as error:
            assert str(error).startswith(str(path))
            assert len(str(error).splitlines()) == 1
            continue
        records = found if isinstance(found, list) else found.records
        if isinstance(found, list):
            assert len(records) == len(lines)
        elif found.schema not in ("nemo", "rewardbench-2"):
            assert len(records) + sum(found.dropped.values()) == len(lines)
        assert len({r.id for r in records}) == len(records)
        jsonl.write(path.with_name("again.jsonl"), records)
        assert jsonl.read(path.with_name("again.jsonl"), type(records[0])) == records


FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(st.lists(line, max_size=4).map(b"\n".join))
@example(b'{"prompt": "a", "chosen": "\\ud800", "rejected": "c"}')
@example(b'{"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1' + b"0" * 400 + b"}")
@example(b'{"prompt": "a", "chosen": "b", "rejected": "c", "meta": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}")
@example(b'{"prompt": "a", "chosen": "b", "rejected": "c", "id": ""}\n{"prompt": "a", "chosen": "b", "rejected": "c"}')
def test_fuzzed_lines(tmp_path, content):
    check(tmp_path / "x.jsonl", content)


@FUZZ
@given(st.lists(near, min_size=1, max_size=5))
def test_fuzzed_rows_that_nearly_fit(tmp_path, rows):
    check(tmp_path / "x.jsonl", b"\n".join(json.dumps(r).encode() for r in rows))


@FUZZ
@given(st.binary(max_size=60), st.sampled_from(["x.json", "x.jsonl.gz", "x.parquet", "x.json.gz"]))
def test_fuzzed_files(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        read_preferences(tmp_path / name, **DROP)


def test_counts_add_up_over_many_kinds_of_fault(tmp_path):
    rows = [row(k) for k in range(5)] + [row(9, chosen="")] * 2 + [row(9, chosen="No 9.")] + [row(3)] + ["{"] * 3
    source = read_preferences(write(tmp_path / "x.jsonl", *rows), **DROP)
    assert len(source.records) == 5
    assert Counter(source.dropped) == {"empty": 2, "identical": 1, "duplicate": 1, "invalid": 3}


def test_a_table_in_which_two_schemas_fit_asks_for_a_choice():
    rows = [Row("x.jsonl:1", row(0))]
    twin = dataclasses.replace(PREFERENCES[0], name="twin")
    with pytest.raises(UserError, match=r"fit more than one schema \(explicit, twin\); choose one with .*`schema`"):
        detect(rows, [*PREFERENCES, twin], "auto", "x.jsonl")
    assert detect(rows, [*PREFERENCES, twin], "twin", "x.jsonl") is twin

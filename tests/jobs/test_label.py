"""The labelling job: hidden labels, pairs, several annotators, agreement and the file to train on."""

import dataclasses
import io
import json

import pytest

from rmjax import jsonl
from rmjax.errors import UserError
from rmjax.jobs.label import LabelJob, PairsToLabel
from rmjax.jobs.sources import PairFile
from rmjax.records import Message, Pair, Preference


@pytest.fixture
def path(tmp_path):
    """Six preferences, the last one a tie."""
    records = [
        Preference(prompt=(Message("user", f"question {i}"),), chosen=f"good {i}", rejected=f"bad {i}", tie=i == 5)
        for i in range(6)
    ]
    jsonl.write(tmp_path / "pairs.jsonl", records)
    return str(tmp_path / "pairs.jsonl")


@pytest.fixture
def label(path, tmp_path, monkeypatch, capsys):
    """label(by, keys): runs the job in the terminal; what it printed."""

    def run(by, keys, **changes):
        job = LabelJob(workdir=str(tmp_path / "run"), data=PairsToLabel(path=path), by=by, how="terminal")
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{key}\n" for key in keys)))
        dataclasses.replace(job, **changes).run("the command")
        return capsys.readouterr().out

    return run


def test_two_annotators_and_the_export(label, path, tmp_path):
    work = tmp_path / "run"
    out = label("ann", "12")
    assert "2 of 6 pairs are labelled by ann; 4 left: the same command continues" in out
    first = (work / "votes" / "ann.jsonl").read_bytes()
    assert "2 of 6 pairs are labelled by ann" in label("ann", "3?12x")
    assert (work / "votes" / "ann.jsonl").read_bytes().startswith(first)
    out = label("bob", "111111x")
    summary = json.loads((work / "summary.json").read_text())
    assert [p["by"] for p in summary["annotators"]] == ["ann", "bob"]
    assert [(p["labels"], p["tie"], p["cannot_tell"]) for p in summary["annotators"]] == [(6, 1, 1), (6, 0, 0)]
    assert summary["annotators"][1]["shown_first"] == 1
    twos = {(t["a"], t["b"]): t["agreement"]["n"] for t in summary["agreement"]}
    assert twos == {("ann", "bob"): 5, ("ann", "the file"): 5, ("bob", "the file"): 6}
    assert "bob" in out and "the file" in out and "6 preferences" in out
    run = json.loads((work / "votes" / "bob.run.json").read_text())
    assert (run["spent"]["labels"], run["labels_now"], run["command"]) == ({"bob": 6}, 6, "the command")

    records = jsonl.read(work / "preferences.jsonl", Preference)
    assert [sum(p.votes.values()) for p in records] == [2, 2, 2, 1, 2, 2]
    read = PairFile(path=str(work / "preferences.jsonl"), tie="drop").read()
    assert read.records == [p for p in records if not p.tie]
    before = (work / "preferences.jsonl").read_bytes()
    (work / "preferences.jsonl").unlink()
    label("", "", how="export")
    assert (work / "preferences.jsonl").read_bytes() == before


def test_labels_of_the_file_are_not_shown(label):
    shown = label("ann", "1" * 6)
    above = [shown.index(f"good {i}") < shown.index(f"bad {i}") for i in range(6)]
    assert True in above and False in above


def test_pairs_that_nobody_compared(label, tmp_path):
    path = tmp_path / "bare.jsonl"
    bare = [Pair(prompt=(Message("user", f"question {i}"),), first="x", second="y", source="me") for i in range(3)]
    jsonl.write(path, bare)
    out = label("ann", "123", data=PairsToLabel(path=str(path)), workdir=str(tmp_path / "bare"))
    assert "the file" not in out and "3 preferences, 1 of them ties" in out
    records = jsonl.read(tmp_path / "bare" / "preferences.jsonl", Preference)
    assert [p.id for p in records] == [p.id for p in bare] and {p.source for p in records} == {"me"}
    path.write_text('{"prompt": "q", "first": "x", "second": "y", "margin": 0.0}\n')
    with pytest.raises(UserError, match=r"column 'margin' in pairs that nobody compared: list it in --data\.ignore"):
        label("ann", "", data=PairsToLabel(path=str(path)), workdir=str(tmp_path / "other"))
    ignoring = PairsToLabel(path=str(path), ignore=("margin",))
    assert "1 preferences" in label("ann", "1", data=ignoring, workdir=str(tmp_path / "other"))
    path.write_text('{"prompt": "q", "first": "x", "second": "y"}\n{"prompt": "q", "first": "x"}\n')
    with pytest.raises(UserError, match=r"'rejected' is missing.*'rejected' second"):
        label("ann", "", data=PairsToLabel(path=str(path)), workdir=str(tmp_path / "third"))


def test_votes_files_from_elsewhere(label, path, tmp_path):
    label("ann", "12")
    votes = tmp_path / "run" / "votes"
    copied = votes / "bob.jsonl"
    copied.write_bytes((votes / "ann.jsonl").read_bytes())
    with pytest.raises(UserError, match=r"bob\.jsonl: holds votes by 'ann': name the file ann\.jsonl"):
        label("", "", how="export")
    label("bob", "121212", seed=1, workdir=str(tmp_path / "elsewhere"))  # other answers are first there
    copied.write_bytes((tmp_path / "elsewhere" / "votes" / "bob.jsonl").read_bytes())
    with pytest.raises(UserError, match=r"bob\.jsonl: the vote on .* in another order"):
        label("", "", how="export")


def test_what_it_refuses(label, path, tmp_path):
    with pytest.raises(UserError, match="--by is empty"):
        label("", "")
    with pytest.raises(UserError, match="leave --by out"):
        label("ann", "", how="export")
    with pytest.raises(UserError, match="only --how page has a port"):
        label("ann", "", port=8000)
    with pytest.raises(UserError, match="port=70000"):
        label("ann", "", how="page", port=70000)
    with pytest.raises(UserError, match="--port 80: give one from 1024"):
        label("ann", "", how="page", port=80)
    with pytest.raises(UserError, match=r"--data\.path is empty"):
        label("ann", "", data=PairsToLabel())
    with pytest.raises(UserError, match=r"--by '\.\./ann'"):
        label("../ann", "")
    assert "no labels yet" in label("ann", "")
    with pytest.raises(UserError, match=r"other settings \(--seed 0 -> 1\)"):
        label("bob", "", seed=1)

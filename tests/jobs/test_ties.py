"""Ties among labelled pairs: refused, dropped, or kept as soft labels to train on and left out of evaluation."""

import dataclasses
import json
import re

import pytest

from rmjax import config, jsonl
from rmjax.errors import UserError
from rmjax.jobs import noise
from rmjax.jobs.sources import PairFile, Pairs
from rmjax.records import Message, Preference


def pair(i, **columns):
    return Preference(prompt=(Message("user", f"q{i}"),), chosen="a", rejected="b", id=str(i), **columns)


@pytest.fixture
def file(tmp_path):
    def write(items, name="pairs.jsonl"):
        jsonl.write(tmp_path / name, items)
        return str(tmp_path / name)

    return write


def test_half_keeps_ties_to_train_on_and_leaves_held_out_ones_out(file, capsys):
    path, held = (
        file([pair(i, tie=i < 2) for i in range(5)]),
        file([pair(i, tie=i < 11) for i in range(10, 14)], "h.jsonl"),
    )
    train, test, _ = Pairs(path=path, eval_path=held, tie="half").load()
    assert [p.smooth for p in train] == [0.5, 0.5, 0, 0, 0] and [p.id for p in test] == ["11", "12", "13"]
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "2 of 5 training pairs are ties, kept as soft labels of 1/2" in said and "1 dropped (tie)" in said
    train, _, _ = Pairs(path=path, eval_path=held, tie="drop").load()
    assert [p.id for p in train] == ["2", "3", "4"]
    with pytest.raises(UserError, match="2 of 5 pairs are labelled ties"):
        Pairs(path=path, eval_path=held).load()


def test_a_split_file_leaves_the_ties_of_its_held_out_tenth_out(file, capsys):
    items = [pair(i, tie=i % 2 == 0) for i in range(60)]
    train, test, _ = Pairs(path=file(items), tie="half").load()
    assert any(p.tie for p in train) and test and not any(p.tie for p in test)
    left = 60 - len(train) - len(test)
    assert left > 0 and f"held-out pairs: {left} ties left out" in capsys.readouterr().out


def test_ties_that_cannot_be_used(file):
    held = file([pair(9)], "h.jsonl")
    with pytest.raises(UserError, match="all 2 training pairs are ties"):
        Pairs(path=file([pair(i, tie=True) for i in range(2)]), eval_path=held, tie="half").load()
    odd = file([pair(0, tie=True, margin=2.0), pair(1)])
    with pytest.raises(UserError, match="record '0' is a tie with margin 2"):
        Pairs(path=odd, eval_path=held, tie="half").load()
    with pytest.raises(UserError, match="record '0' is a tie, which has no label to flip"):
        noise.plain([pair(0, tie=True)], "p")
    job = config.load("gfriend")
    with pytest.raises(UserError, match=r"--data\.tie half: no judgment of a tie is right or wrong"):
        dataclasses.replace(job, data=Pairs(tie="half"))


def test_equal_ratings_are_ties(tmp_path):
    rows = [
        {"prompt": f"q{i}", "chosen": "a", "rejected": "b", "score_chosen": 3 + i, "score_rejected": 3} for i in (0, 1)
    ]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="1 of 2 pairs are labelled ties"):
        PairFile(path=str(path)).read()
    (left,) = PairFile(path=str(path), tie="drop").read().records
    assert left.margin == 1

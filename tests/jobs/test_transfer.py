"""The transfer job on a tiny decoder: the matrix, resuming, refusals."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from rmjax import config, json_file, jsonl
from rmjax.data.features import Features
from rmjax.errors import UserError
from rmjax.jobs import transfer
from rmjax.jobs.transfer import BASELINE, Transfer
from rmjax.methods.frozen import Fitted
from rmjax.records import Preference
from rmjax.worlds.judge_world import JudgeWorld

SETTINGS = """
    --labels 8 --unlabelled 10 --draws 2 --frozen.axes 6 --frozen.folds 2 --frozen.forms standard
    --frozen.penalties 0.1 1 --frozen.schedule.steps 3
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Transfer:
    folder, world = tmp_path_factory.mktemp("transfer"), JudgeWorld()
    world.write_base(folder / "base")
    held = world.preferences(16, split="test")
    for i, name in enumerate(("one", "two")):
        jsonl.write(folder / f"{name}.jsonl", world.draw(labels=16, draw=i))
        (folder / "dev").mkdir(exist_ok=True)
        jsonl.write(folder / "dev" / f"{name}.jsonl", held[10 * i : 10 + 6 * i])
    files = " ".join(f"--{k} {folder}/{d}one.jsonl {folder}/{d}two.jsonl" for k, d in (("train", ""), ("held", "dev/")))
    place = f"--model.path {folder}/base {files} --features {folder}/features --workdir {folder}/run"
    job = config.override(config.load("transfer"), (place + SETTINGS).split(), name="transfer")
    job.run("python -m rmjax.launch transfer")
    return job


def test_what_a_run_leaves(job):
    summary, names = json_file.read(Path(job.workdir) / "summary.json"), ["one", "two"]
    matrix = summary["matrix"]
    assert list(matrix) == [BASELINE, f"MetaRM - {BASELINE}"]
    assert all(list(m) == names and list(m["one"]) == names for m in matrix.values())
    rows = summary["rows"]
    assert len(rows) == 2 * 4 * 2 and {r["n"] for r in rows if r["method"].endswith("to two")} == {6}
    mine = [r["accuracy"] for r in rows if r["method"] == f"{BASELINE}, two to one"]
    assert matrix[BASELINE]["two"]["one"]["value"] == pytest.approx(sum(mine) / 2)
    assert all(mine[i] * 10 == pytest.approx(round(mine[i] * 10)) for i in range(2))  # one's 10 held-out pairs
    assert len(summary["comparisons"]) == 4 and set(summary["baselines"]) == set(names)
    page = (Path(job.workdir) / "report.html").read_text()
    assert page.count("<svg") == 2 and ">one</text>" in page and "<script" not in page


def test_a_killed_run_goes_on(job, monkeypatch):
    file = Path(job.workdir) / "rows.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))
    done, cell = [], Transfer.cell
    monkeypatch.setattr(Transfer, "cell", lambda self, *a: done.append(a[-1]) or cell(self, *a))
    job.run("")
    assert done == [1]
    again = file.read_text().splitlines()[-1]
    same = lambda line: {k: v for k, v in jsonl.parse(line.encode(), "x").items() if k != "seconds"}
    assert same(again) == same(lines[-1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"held": ()}, "--train has 2 files and --held 0"),
        ({"labels": 9}, "labels=9: one has 16 training pairs; give at most half"),
        ({"unlabelled": 99}, "unlabelled=99"),
        ({"draws": 1}, "draws=1"),
    ],
)
def test_refused(job, tmp_path, change, said):
    with pytest.raises(UserError, match=said):
        dataclasses.replace(job, workdir=str(tmp_path / "w"), **change).run("")
    assert not (tmp_path / "w").exists()


def test_each_target_is_scored_by_the_head_that_saw_its_answers(job, monkeypatch):
    """The head of the place p is right on the first 2 + p of each target's pairs; features of source p are all p."""
    seen = []

    def placed(bench, labels, number, method, base, places):
        seen.append([set(np.concatenate([f.chosen, f.rejected]).ravel()) for f in places])
        rights = [np.concatenate([np.arange(n) < 2 + p for n in (10, 6)]) for p in range(len(places))]
        return dataclasses.replace(base, differences=np.where(rights, 1.0, -1.0), words=("w",) * 2), None

    class Baseline:
        def baseline(self, labels, numbers):
            none = np.zeros(1)
            right = np.where(np.arange(16) < 10, 1.0, 0.0)[None]  # all of one's; two's are ties
            return Fitted(right, none, none, ("b",), none, none, None)

    monkeypatch.setattr(transfer, "adapted", placed)
    full = lambda p: Features(tuple(map(str, range(20))), *np.full((2, 20, 3), p, np.float32))
    found = job.cell(Baseline(), {"one": full(0), "two": full(1)}, [10, 6], 0)
    assert seen == [[{0.0}, {1.0}]]
    assert found["MetaRM"] == {"one": 2 / 10, "two": 3 / 6} and found[BASELINE] == {"one": 1.0, "two": 0.5}


def test_over_long_pairs_of_an_encoder(job, encoder, tmp_path):
    first, *rest = jsonl.read(job.train[0], Preference)
    prompt = (dataclasses.replace(first.prompt[0], content="music " * 50),)
    jsonl.write(tmp_path / "one.jsonl", [dataclasses.replace(first, prompt=prompt), *rest])
    train = (str(tmp_path / "one.jsonl"), job.train[1])
    model = dataclasses.replace(job.model, path=str(encoder))
    other = dataclasses.replace(job, model=model, train=train, workdir=str(tmp_path / "w"), overlong="error")
    with pytest.raises(
        UserError, match=r"training pairs of one: \d+ of 16 are too long; .* give --overlong cut or drop"
    ):
        other.run("")
    with pytest.raises(UserError, match="--overlong cut: a decoder's pairs are never cut"):
        dataclasses.replace(job, overlong="cut", workdir=str(tmp_path / "w")).run("")
    assert not (tmp_path / "w").exists()


def test_files_that_do_not_fit(job, tmp_path):
    with pytest.raises(UserError, match="give at least two sources"):
        dataclasses.replace(job, train=job.train[:1], held=job.held[:1]).run("")
    with pytest.raises(UserError, match="two files are named 'one'"):
        dataclasses.replace(job, train=(job.train[0], job.train[0]))
    with pytest.raises(UserError, match="16 held-out pairs of two are training pairs of one"):
        dataclasses.replace(job, held=(job.held[0], job.train[0])).run("")

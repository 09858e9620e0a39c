"""The self-training job on a tiny decoder: its files, resuming, refusals in a line."""

import shlex
from pathlib import Path

import pytest

from rmjax import config, json_file, jsonl, launch
from rmjax.jobs import self_train
from rmjax.jobs.self_train import SelfTrain
from rmjax.records import Preference
from rmjax.worlds.judge_world import JudgeWorld

SETTINGS = """
    --labels 6 12 --draws 3 --rounds 2 --frozen.axes 6 --frozen.folds 2 --frozen.penalties 0.03 0.3
    --ssrm.confidence 0.55 --weak.confidence 0.6
    --functions "less varied words" longer --worse-words done
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> SelfTrain:
    folder, world = tmp_path_factory.mktemp("self_train"), JudgeWorld()
    world.write_base(folder / "base")
    jsonl.write(folder / "train.jsonl", world.draw(labels=24, draw=0))
    jsonl.write(folder / "held.jsonl", world.preferences(10, split="test"))
    place = f"""
        --model.path {folder}/base --data.path {folder}/train.jsonl --data.eval-path {folder}/held.jsonl
        --features {folder}/features --workdir {folder}/run
    """
    job = config.override(config.load("self_train"), shlex.split(place + SETTINGS), name="self_train")
    job.run("python -m rmjax.launch self_train")
    return job


def test_what_a_run_leaves(job):
    work = Path(job.workdir)
    summary = json_file.read(work / "summary.json")
    rows = summary["rows"]
    titles = ["Bradley-Terry", *(t + more for t in ("SER", "SSRM", "weak") for more in ("", ", true labels"))]
    assert list(dict.fromkeys(r["method"] for r in rows)) == titles and len(rows) == 7 * 2 * 3
    for r in rows:
        assert r["n"] == 10 and 0 <= r["accuracy"] <= 1
        if r["method"] in ("SER", "SSRM", "weak"):
            assert len(r["given"]) == (1 if r["method"] == "weak" else 2) and r["rest"] == 24 - r["labels"]
            assert all(a <= b <= r["rest"] for a, b in zip(r["right"], r["given"], strict=True))
    assert any(r["given"][-1] for r in rows if r["method"] == "SSRM")
    assert len(summary["comparisons"]) == 12 and {c["b"][:13] for c in summary["comparisons"]} == {"Bradley-Terry"}
    functions = summary["labelling_functions"]
    assert list(functions) == ["less varied words", "longer", "worse words"]
    found = pytest.approx({"6": 0.7, "12": 0.7})
    assert functions["longer"] == {"votes": 0, "accuracy_true": None, "accuracy_found": found}
    items = jsonl.read(job.data.path, Preference)
    more = [p.rejected.split().count("done") - p.chosen.split().count("done") for p in items]
    voted = [m for m in more if m]
    assert functions["worse words"]["votes"] == len(voted)
    assert functions["worse words"]["accuracy_true"] == sum(m > 0 for m in voted) / len(voted)
    page = (work / "report.html").read_text()
    assert "Labels given" in page and "Labelling functions" in page and "<script" not in page and "&lt;t" not in page


def test_a_killed_run_goes_on_and_repeats_nothing(job, monkeypatch):
    path, trained, train = Path(job.workdir) / "rows.jsonl", [], self_train.train
    before = jsonl.read(path, dict)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    monkeypatch.setattr(self_train, "train", lambda *args, **how: trained.append(args[1]) or train(*args, **how))
    monkeypatch.setattr(self_train, "conclude", lambda *args, **facts: None)
    job.run("again")
    assert trained == [12]
    assert [x["runs"] for x in jsonl.read(path, dict)] == [x["runs"] for x in before]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--rules ser srm", "rules: 'srm' is none of ser, ssrm, weak"),
        ("--rules ser ser", "give each once"),
        ("--functions long", "functions: 'long' is none of longer, shorter"),
        ("--rules ser --worse-words bad", "worse_words: is read by the rule weak alone"),
        ("--rules weak --ser.gap 0.2", "ser: is read by the rule ser alone"),
        ("--rules weak --rounds 5", "rounds: is read by the rule ser or ssrm alone"),
        ("--functions", "functions=(): the rule weak needs one or more"),
        ("--worse-patterns (", "cannot be read"),
        ("--frozen.schedule.steps 9", "does not read it"),
        ("--labels 0", "labels=(0,)"),
        ("--rounds 0", "rounds=0"),
        ("--draws 1", "draws=1"),
        ("--ssrm.confidence 0.2", "ssrm.confidence=0.2"),
    ],
)
def test_refused_before_any_file_is_read(options, said, capsys):
    assert launch.main(["self_train", *options.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_more_seed_labels_than_leave_a_rest(job, tmp_path, capsys):
    given = ["--model.path", job.model.path, "--data.path", job.data.path, "--data.eval-path", job.data.eval_path]
    assert launch.main(["self_train", *given, "--labels", "24", "--workdir", str(tmp_path / "w")]) == 2
    assert "24 training pairs leave none without a label" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()

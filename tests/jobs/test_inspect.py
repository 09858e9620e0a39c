"""The inspect job from the command line: what it leaves, on broken files too, and that it changes nothing."""

import json

import pytest

from rmjax import jsonl, launch
from rmjax.data.doctor import intake as lenient
from rmjax.jobs.inspect import InspectJob, probe
from rmjax.records import Message, Preference


@pytest.fixture
def broken(tmp_path):
    """Pairs with a contradiction, a line that is no JSON, an unknown column and markup in an answer."""
    pair = lambda prompt, chosen, rejected: {"prompt": prompt, "chosen": chosen, "rejected": rejected, "colour": "red"}
    rows = [pair(f"question {i}", f"yes {i} <b>bold</b>", f"no {i * 'very '} {i}") for i in range(12)]
    rows += [pair("question 3", rows[3]["rejected"], rows[3]["chosen"])]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    return path


def test_a_broken_file(broken, tmp_path, capsys):
    before = broken.read_bytes()
    work, held = tmp_path / "inspect", tmp_path / "held.jsonl"
    held.write_text(json.dumps({"prompt": "Question 5", "chosen": "a", "rejected": "b"}) + "\n")
    args = ["--data.path", str(broken), "--evaluation", str(held), "--workdir", str(work)]
    assert launch.main(["inspect", *args]) == 0
    assert broken.read_bytes() == before
    said = capsys.readouterr().out
    summary = json.loads((work / "summary.json").read_text())
    found = {f["kind"]: f for f in summary["findings"]}
    assert (summary["pairs"], summary["unreadable_lines"]) == (13, 1)
    assert found["contradiction"]["count"] == 2 and found["overlap-prompt"]["severity"] == "error"
    assert [f["severity"] for f in summary["findings"]] == sorted(
        (f["severity"] for f in summary["findings"]), key=["error", "warning", "note"].index
    )
    lines = [line for _, line in jsonl.lines(work / "findings.jsonl")]
    where = {line["kind"]: line["where"] for line in lines}
    assert where["unreadable"] == [f"{broken}:14"] and where["contradiction"] == [f"{broken}:4", f"{broken}:13"]
    page = (work / "report.html").read_text()
    assert "&lt;b&gt;bold&lt;/b&gt;" in page and "<b>bold</b>" not in page and "<script" not in page
    assert "1 unreadable" in " ".join(said.split()) and "what to do" in said
    assert json.loads((work / "run.json").read_text())["spent"]["labels"] == {str(broken): 13, str(held): 1}
    assert launch.main(["inspect", *args[:2], "--no-probe", "--workdir", str(work)]) == 0  # another look, same folder
    assert json.loads((work / "summary.json").read_text())["bag_of_words"] is None


def test_evaluation_files_of_one_name(broken, tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.jsonl").write_text(
            json.dumps({"prompt": folder, "chosen": "a", "rejected": "b"}) + "\n"
        )
    job = InspectJob(evaluation=(str(tmp_path / "a" / "t.jsonl"), str(tmp_path / "b" / "t.jsonl")))
    assert list(job.held(lenient.read(broken))) == ["a/t.jsonl", "b/t.jsonl"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "--data.path is empty"),
        (["--data.path", "{file}", "--evaluation", "{file}"], "is --data.path itself"),
        (["--data.path", "{file}", "--evaluation", "a/t.jsonl", "a//t.jsonl"], "is there twice"),
        (["--data.path", "{file}", "--words", "2"], "words=2"),
        (["--data.path", "{tmp}/none.jsonl"], "no such file"),
        (["--data.path", "{file}", "--data.schema", "nemo"], "lack 'context'"),
    ],
)
def test_mistakes_are_one_line(broken, tmp_path, capsys, args, said):
    args = [a.format(tmp=tmp_path, file=broken) for a in args]
    assert launch.main(["inspect", *args, "--workdir", str(tmp_path / "w")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_the_probe_sees_prompts_that_it_was_not_trained_on():
    """Answers that are told by a word are told; answers whose words say nothing are not."""
    prompt = lambda i: (Message("user", f"question {i}"),)
    told = [Preference(prompt=prompt(i), chosen=f"good {i}", rejected=f"bad {i}") for i in range(30)]
    found = probe(told)
    assert found.n == 30 and found.accuracy == 1
    by_prompt = [Preference(prompt=prompt(i), chosen=f"w{i}", rejected=f"v{i}") for i in range(30)]
    assert probe(by_prompt).accuracy == 0.5 and probe(by_prompt).ties == 30
    assert probe([told[0]]) is None


def test_known_facts_of_real_pairs(shared, tmp_path):
    """Of the data's own README: on hh_harmless the longer answer wins 41 %; xstest's refusals win in one subset."""
    for name in ("hh_harmless", "xstest"):
        path = shared / "data" / "dev" / f"{name}.jsonl.gz"
        assert launch.main(["inspect", "--data.path", str(path), "--workdir", str(tmp_path / name), "--no-probe"]) == 0
    read = lambda name: json.loads((tmp_path / name / "summary.json").read_text())["findings"]
    length = next(f for f in read("hh_harmless") if f["kind"] == "length")
    assert length["detail"].startswith("longer wins 41.0 %")
    refusal = next(f for f in read("xstest") if f["title"].startswith("refusal"))
    assert "should-refuse: wins 100.0 %" in refusal["detail"] and "depends on the subset" in refusal["title"]

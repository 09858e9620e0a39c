"""The plan job on files as curve leaves them: findings, report, and what is refused."""

import json

import pytest

from rmjax import config, launch
from rmjax.evaluation.provenance import Provenance
from rmjax.jobs.plan import PlanJob, read

LABELS = (50, 100, 200, 400)


@pytest.fixture
def summary(tmp_path):
    """summary.json of a curve run: two methods, ten draws; all labels are one draw of three seeds.

    Bradley-Terry's law is 0.809 - 1.5 n^-1/2, so that 0.76 needs 937 labels.
    """
    noise = lambda d, n: 0.002 * ((7 * d + 3 * n // 50) % 10)
    rows = [
        {"method": m, "labels": n, "draw": d, "seed": 0, "accuracy": top - 1.5 * n**-0.5 + noise(d, n)}
        for m, top in (("Bradley-Terry", 0.8), ("MetaRM", 0.75))
        for n in LABELS
        for d in range(10)
    ]
    rows += [
        {"method": "Bradley-Terry", "labels": 800, "draw": 0, "seed": s, "accuracy": 0.757 + 0.001 * s}
        for s in range(3)
    ]
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({"rows": rows}))
    return path


def test_the_plan_of_a_run(summary, tmp_path, capsys):
    (tmp_path / "prices.toml").write_text('currency = "EUR"\nlabel = 0.5\n')
    args = ["--rows", str(summary), "--wish", "0.76", "--prices", str(tmp_path / "prices.toml"), "--budget", "300"]
    args += ["--workdir", str(tmp_path / "plan"), "--methods", "--fit-up-to", "400", "--rule.samples", "400"]
    assert launch.main(["plan", *args]) == 0
    said = " ".join(capsys.readouterr().out.split())
    found = json.loads((tmp_path / "plan" / "summary.json").read_text())["curves"]
    assert [c["method"] for c in found] == ["Bradley-Terry", "MetaRM"]
    first = found[0]
    assert first["labels"] == list(LABELS) and first["runs"] == [10] * 4
    assert first["needed"]["finding"] == "told" and first["needed"]["low"] <= 937 <= first["needed"]["high"]
    assert first["budget"]["labels"] == 600 and first["next_doubling"]["money"] == 200
    assert [c["labels"] for c in first["left_out"]] == [800] and first["left_out"][0]["inside"]
    assert "1 of 1 accuracies that were left out lie in their 95 % interval" in said
    page = (tmp_path / "plan" / "report.html").read_text()
    assert "wished 76.0" in page and "<script" not in page and "MetaRM" in page
    assert json.loads((tmp_path / "plan" / "run.json").read_text())["spent"]["labels"] == {}
    assert launch.main(["plan", *args[:2], "--workdir", str(tmp_path / "plan"), "--rule.samples", "400"]) == 0  # again


def test_forms_of_rows(tmp_path):
    lines = [{"labels": n, "accuracy": 0.5 + n / 1000, "draw": d} for n in (50, 100) for d in (0, 1)]
    (tmp_path / "plain.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    runs = [
        {"method": "", "labels": n, "runs": [{"run": d, "accuracy": 0.5 + n / 1000} for d in (0, 1)]} for n in (50, 100)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(x) + "\n" for x in runs))
    assert read(str(tmp_path / "plain.jsonl")) == read(str(tmp_path / "rows.jsonl"))
    assert read(str(tmp_path / "rows.jsonl")) == {
        "": {50: {(0, 0): 0.55, (1, 0): 0.55}, 100: {(0, 0): 0.6, (1, 0): 0.6}}
    }


def test_ledgers_alone(tmp_path, capsys):
    for name, file in (("a", "1"), ("b", "1")):
        run = Provenance(
            tmp_path / name / "run.json", command="", config={}, data={"p": file}, seed=0, labels={"p": 40}
        )
        run.finish()
    (tmp_path / "prices.json").write_text('{"label": 0.25}')
    args = ["--ledgers", str(tmp_path / "a"), str(tmp_path / "b"), "--prices", str(tmp_path / "prices.json")]
    assert launch.main(["plan", *args, "--workdir", str(tmp_path / "plan")]) == 0
    spent = json.loads((tmp_path / "plan" / "summary.json").read_text())["spent"]
    assert spent["all"]["money"]["total"] == 10 and spent["runs"][str(tmp_path / "a")]["money"]["total"] == 10
    assert "10.00" in capsys.readouterr().out
    assert "What was spent" in (tmp_path / "plan" / "report.html").read_text()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "--rows is empty"),
        (["--ledgers", "{tmp}/none"], "none/run.json: cannot be read"),
        (["--rows", "{file}", "--methods", "SimCSE"], "--methods 'SimCSE' is not there; it has 'Bradley-Terry'"),
        (["--rows", "{file}", "--fit-up-to", "100"], "--fit-up-to 100: leaves 2"),
        (["--rows", "{file}", "--budget", "3"], "is said by --prices"),
        (["--wish", "0.7"], "need the curve that --rows gives"),
        (["--rows", "{file}", "--wish", "70"], "wish=70.0"),
        (["--rows", "{tmp}/none.json"], "none.json: cannot be read"),
        (["--rows", "{file}", "--prices", "{tmp}/hours.toml"], "hours.toml: has no price of a label"),
        (["--ledgers", "a", "b", "a"], "--ledgers a: is there twice"),
    ],
)
def test_mistakes_are_one_line(summary, tmp_path, capsys, args, said):
    (tmp_path / "hours.toml").write_text("hour = 1.5\n")
    args = [a.format(tmp=tmp_path, file=summary) for a in args]
    assert launch.main(["plan", *args, "--workdir", str(tmp_path / "plan")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"labels": 50}', "field 'accuracy' is None"),
        ('{"labels": 50, "accuracy": 61.2}', "field 'accuracy' is 61.2; a share"),
        ('{"labels": "many", "accuracy": 0.6}', "field 'labels' is 'many'"),
        ('{"labels": 50, "accuracy": 0.6}\n{"labels": 50, "accuracy": 0.6}', "is there twice"),
        ("[1]", "list found"),
        ('{"labels": 50, "runs": [1]}', "field 'runs' holds 1"),
        ('{"labels": 50, "accuracy": 0.6, "draw": "a"}', "draw 'a', seed 0"),
        ('{"labels": 50, "accuracy": 0.6}', "its rows name no method: give --methods"),
    ],
)
def test_wrong_rows_are_named(tmp_path, capsys, line, said):
    (tmp_path / "rows.jsonl").write_text(line + "\n")
    assert launch.main(["plan", "--rows", str(tmp_path / "rows.jsonl"), "--workdir", str(tmp_path / "plan")]) == 2
    error = capsys.readouterr().err
    assert said in error and "rows.jsonl:" in error and error.count("\n") == 1


def test_the_config():
    assert isinstance(config.load("plan"), PlanJob)

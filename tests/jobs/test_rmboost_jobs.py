"""Synthetic pairs from a real (untrained) model, as a user makes them: files, labels unread, kill and resume, audit."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import killed_launch
import numpy as np
import pytest

from rmjax import config, json_file, jsonl, launch
from rmjax.errors import UserError
from rmjax.jobs import rmboost
from rmjax.jobs.audit import AuditJob
from rmjax.jobs.export import FILE
from rmjax.jobs.judging import Judging
from rmjax.jobs.prompts import PromptFile
from rmjax.jobs.rmboost import Real, RmBoostJob
from rmjax.jobs.sources import ModelSource, PairFile
from rmjax.methods.rmboost import RmBoost
from rmjax.methods.synthetic import Recipe
from rmjax.methods.synthetic_baselines import RandomEdit, Rlaif, Rlcd, WestOfN
from rmjax.records import Preference
from rmjax.refine.audit import Trust
from rmjax.refine.conditional import Drop, Guards
from rmjax.refine.edit_prompts import AnswerPrompt, EditPrompt, SteeringPrompt, WritingPrompts
from rmjax.sampling.policy import Sampling
from rmjax.sampling.scheduler import Sampler
from rmjax.worlds.judge_world import PROMPT, JudgeWorld

# The world's own words, so that a tiny model reads them.
ANSWER = AnswerPrompt(template="{question} A :")
EDIT = EditPrompt(
    template="{question} A : {response} hint {direction} {aspects} B :",
    aspect="{name}",
    between=" ",
    better="A",
    worse="B",
    unsaid="judge",
    response="",
    aspects="",
)
STEERING = SteeringPrompt(template="{question} hint {direction} A :", positive="A", negative="B")


def recipe(**prompts):
    return Recipe(prompts=WritingPrompts(**prompts), guards=Guards(shortest=0.0, longest=9.0))


EDITS, PLAIN = recipe(answer=ANSWER, edit=EDIT), recipe(answer=ANSWER)
SAMPLING = Sampling(temperature=1.0, max_new_tokens=4)
WROTE = ("preferences.jsonl", "drops.jsonl")


@pytest.fixture(scope="module")
def prompts(files, tmp_path_factory):
    """A file of the world's questions: train.jsonl with more pairs."""
    path = tmp_path_factory.mktemp("prompts") / "pairs.jsonl"
    jsonl.write(path, JudgeWorld().preferences(8, split="train"))
    return path


@pytest.fixture(scope="module")
def judge(files, tmp_path_factory):
    """The untrained model as an exported judge: its prompt is beside it."""
    folder = tmp_path_factory.mktemp("judge") / "export"
    shutil.copytree(files / "base", folder)
    json_file.write(folder / FILE, {"prompt": dataclasses.asdict(PROMPT)})
    return ModelSource(path=str(folder))


@pytest.fixture(scope="module")
def made(files, prompts, tmp_path_factory):
    """A job that ran."""
    done = RmBoostJob(
        workdir=str(tmp_path_factory.mktemp("made")),
        model=ModelSource(path=str(files / "base")),
        data=PromptFile(path=str(prompts)),
        method=RmBoost(recipe=EDITS, aspect_mode="sample", sampled=3),
        sampling=SAMPLING,
    )
    done.run("rmboost")
    return done


@pytest.fixture
def job(made, tmp_path):
    """The same, in another folder."""
    return dataclasses.replace(made, workdir=str(tmp_path / "made"))


def read(job, name=WROTE[0], type_=Preference):
    return jsonl.read(f"{job.workdir}/{name}", type_)


def test_every_prompt_ends_as_a_pair_or_a_drop(made):
    pairs, drops = read(made), read(made, WROTE[1], Drop)
    items = {i.id: i for i in made.data.read()[0]}
    assert {p.meta["origin"]["item"] for p in pairs} | {d.item for d in drops} == items.keys()
    assert len(pairs) + len(drops) == len(items) and len(pairs) >= 4
    for p in pairs:
        origin = p.meta["origin"]
        assert p.prompt == items[origin["item"]].prompt
        assert len(origin["aspects"]) == 3 and origin["direction"] in ("better", "worse")
    summary = json.loads(Path(made.workdir, "summary.json").read_text())
    assert summary["pairs"] == len(pairs) and summary["method"] == "rmboost"
    calls = summary["spent"]["calls"]
    assert calls == 2 * len(items) - sum(d.reason.startswith("response 1") for d in drops)
    assert summary["spent"]["wrote"] <= 4 * calls and summary["spent"]["read"] > summary["spent"]["wrote"]
    PairFile(path=f"{made.workdir}/preferences.jsonl").read()  # as the train job reads it


def test_labels_are_not_read_and_the_order_does_not_matter(made, job, prompts, tmp_path):
    turned = [dataclasses.replace(p, chosen=p.rejected, rejected=p.chosen) for p in jsonl.read(prompts, Preference)]
    jsonl.write(tmp_path / "other.jsonl", turned[::-1])
    other = dataclasses.replace(job, data=PromptFile(path=str(tmp_path / "other.jsonl")))
    other.run("rmboost")
    assert read(other) == read(made)[::-1] and read(other)


def test_killed_in_the_middle_it_ends_as_an_unbroken_run(made, files, prompts, tmp_path, monkeypatch):
    """In the middle of a line of the sampler's file nothing more is written; then the same command, as a user has it.

    The sampler itself is killed in test_kill.py.
    """
    script = tmp_path / "small.py"
    script.write_text(
        "import sys\nsys.path.insert(0, " + repr(str(Path(__file__).parent)) + ")\n"
        "from test_rmboost_jobs import EDITS, SAMPLING\n"
        "from rmjax.jobs.rmboost import RmBoostJob\nfrom rmjax.methods.rmboost import RmBoost\n"
        "def get_config():\n"
        "    return RmBoostJob(sampling=SAMPLING, method=RmBoost(recipe=EDITS, aspect_mode='sample', sampled=3))\n"
    )
    work = tmp_path / "killed"
    flags = [str(script), "--workdir", str(work), "--model.path", str(files / "base"), "--data.path", str(prompts)]

    class Killed(BaseException):
        pass

    def die():
        raise Killed

    with monkeypatch.context() as torn:
        torn.setattr(killed_launch, "die", die)
        torn.setattr(jsonl.Appender, "append", jsonl.Appender.append)  # put back when this ends
        killed_launch.in_a_rollout()
        with pytest.raises(Killed):
            launch.main(flags)
    assert not (work / "preferences.jsonl").exists()
    assert not (work / "writing" / "answers.jsonl").read_bytes().endswith(b"\n")
    assert launch.main(flags) == 0
    for name in WROTE:
        assert (work / name).read_bytes() == Path(made.workdir, name).read_bytes()
    monkeypatch.setattr(Sampler, "_sample", lambda self, asked, *rest: iter(asked and pytest.fail("sampled again")))
    assert launch.main(flags) == 0  # a third time: nothing is sampled, nothing changes
    assert (work / "preferences.jsonl").read_bytes() == Path(made.workdir, "preferences.jsonl").read_bytes()
    assert launch.main([*flags, "--seed", "1"]) == 2  # other settings do not go into this folder


@pytest.mark.parametrize(
    "method",
    [Rlaif(recipe=PLAIN), Rlcd(recipe=recipe(steering=STEERING)), RandomEdit(recipe=EDITS)],
    ids=lambda m: m.name,
)
def test_baselines_on_a_budget(job, method, judge):
    asked = Judging(model=judge, max_new_tokens=3) if method.name == "rlaif" else Judging()
    found = dataclasses.replace(job, method=method, budget=13, judge=asked)
    found.run("rmboost")
    pairs, drops = read(found), read(found, WROTE[1], Drop)
    assert len(pairs) + len(drops) == 6 and all(p.source == method.name for p in pairs)
    weighed = json.loads(Path(found.workdir, "run.json").read_text())["data"]
    assert (f"weights of {judge.path}" in weighed) == (method.name == "rlaif")


def test_west_of_n_and_mixing(job, files, monkeypatch):
    """The scorer stands in for a reward model: it counts the words of the answers that it is given."""
    scorer = SimpleNamespace(
        params={"head": np.zeros(2, np.float32)},
        fitting=lambda items, **policy: items,
        rewards=lambda items: np.array([[len(set(d.completion.split()))] for d in items], np.float32),
    )
    monkeypatch.setattr(rmboost, "load_reward", lambda source: scorer)
    found = dataclasses.replace(
        job,
        method=WestOfN(recipe=PLAIN, n=2),  # as many as RLAIF: nothing new to compile
        scorer=ModelSource(path="reward model"),
        real=Real(path=str(files / "train.jsonl"), weight=0.25),
    )
    found.run("rmboost")
    pairs, mixed = read(found), read(found, "mixed.jsonl")
    count = lambda text: len(set(text.split()))
    assert pairs and all(p.meta["origin"]["scores"] == [count(p.chosen), count(p.rejected)] for p in pairs)
    assert all(count(p.chosen) > count(p.rejected) for p in pairs)
    labelled = jsonl.read(files / "train.jsonl", Preference)
    assert mixed[: len(labelled)] == labelled and [p.weight for p in mixed[len(labelled) :]] == [0.25] * len(pairs)


def test_the_audit_of_those_pairs(made, judge, tmp_path):
    audit = AuditJob(
        workdir=str(tmp_path / "audit"),
        model=judge,
        data=PairFile(path=f"{made.workdir}/preferences.jsonl"),
        sampling=Sampling(temperature=0.0, max_new_tokens=3),
        trust=Trust(action="weigh"),
    )
    audit.run("audit")
    pairs = read(made)
    summary = json.loads(Path(audit.workdir, "summary.json").read_text())
    agreement = summary["agreement"]
    assert agreement["overall"]["rate"]["n"] == len(pairs) and summary["judge"]["judgments"] == 2 * len(pairs)
    assert sum(a["rate"]["n"] for a in agreement["directions"].values()) == len(pairs)
    assert sum(a["rate"]["n"] for a in agreement["aspects"].values()) == 3 * len(pairs)
    trusted = read(audit, "trusted.jsonl")
    assert [p.id for p in trusted] == [p.id for p in pairs] and all(0 <= p.weight <= 1 for p in trusted)
    page = Path(audit.workdir, "report.html").read_text()
    assert "<script" not in page and "Audit of synthetic pairs" in page
    assert all(re.search(f"<td>{a}</td>", page) for a in agreement["aspects"])


@pytest.mark.parametrize(
    ("rows", "count", "said"),
    [
        ([{"prompt": "a"}, {"prompt": "b", "id": "x"}, {"prompt": "a"}], 2, ""),
        ([{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}], 1, ""),
        ([{"question": "a", "meta": {"k": 1}}], 1, ""),
        ([{"prompt": "a", "chosen": "x", "rejected": "x"}, {"prompt": "b", "chosen": "x", "rejected": "y"}], 1, ""),
        ([{"prompt": "a"}, {"prompt": ""}], 0, ":2: field 'prompt'"),
        ([{"prompt": "a"}, {"id": "b"}], 0, ":2: field 'prompt' is missing"),
        ([{"text": "a"}], 0, "columns (text) lack"),
        ([{"question": "a", "answer": "b", "id": "x"}], 0, "those beside 'question' in the option `ignore` (answer)"),
    ],
)
def test_files_of_prompts(tmp_path, rows, count, said):
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    if said:
        with pytest.raises(UserError) as error:
            PromptFile(path=str(path)).read()
        assert said in str(error.value) and "\n" not in str(error.value)
    else:
        items, _ = PromptFile(path=str(path)).read()
        assert len(items) == count and items[0].prompt[-1].content in "ab"


def test_lines_that_are_no_prompt_may_be_dropped(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": 3}\nnonsense\n')
    items, _ = PromptFile(path=str(path), invalid="drop").read()
    assert [i.prompt[0].content for i in items] == ["a"]
    with pytest.raises(UserError, match="no column 'text' to map"):
        PromptFile(path=str(path), columns={"prompt": "text"}).read()


@pytest.mark.parametrize(
    "command",
    [
        "rmboost --seed -1",
        "rmboost --budget -1",
        "rmboost --data.limit -1",
        "rmboost --model.path /nowhere --data.path /nowhere.jsonl",
        "rmboost --aspects nonsense",
        "rmboost --real.weight 0.5",
        "rmboost --judge.max-new-tokens 3",
        "rmboost --scorer.path x",
        "rmboost --aspects safety method:rlaif",
        "rmboost --judge.model.dtype bfloat16 method:rlaif",
        "rmboost --sampling.temperature 0 method:rlaif",
        "rmboost method:west-of-n --method.n 1",
        "rmboost method:rmboost --method.sampled 3",
        "rmboost method:rlcd --method.recipe.prompts.answer.response (.)",
        "audit --seed -1",
        "audit --trust.least 0.7",
        "audit --sampling.temperature 0.7",
    ],
)
def test_the_command_line_says_it_in_one_line(command, capsys):
    assert launch.main(command.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1


def test_pairs_of_people_are_not_audited(files):
    with pytest.raises(UserError, match=r"has no meta\.origin"):
        AuditJob(model=ModelSource(path=str(files / "base")), data=PairFile(path=str(files / "train.jsonl"))).run("")


def test_configs_are_listed():
    assert {"rmboost", "audit"} <= config.names().keys()

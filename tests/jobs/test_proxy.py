"""The proxy job on a file's hidden labels: files, ledger, a run that was cut, refusals."""

import dataclasses
import json
from pathlib import Path

import pytest
from helpers.small_policy import METHOD, write_base

from rmjax import config, jsonl, launch
from rmjax.jobs.proxy import ProxyJob
from rmjax.jobs.proxy_report import duel
from rmjax.jobs.sources import ModelSource
from rmjax.methods.responses import Policy
from rmjax.records import Preference, Vote
from rmjax.sampling.scheduler import Request, Sampler
from rmjax.worlds.judge_world import JudgeWorld
from rmjax.worlds.policy_world import PolicyWorld

SETTINGS = """
    --method.budget 3 --method.per-label 2 --method.train.steps 2 --method.train.epochs 0 --method.train.batch 4
    --method.evaluator-train.steps 2 --method.evaluator-train.epochs 0 --method.evaluator-train.batch 4
    --method.train.length 32 --method.evaluator-train.length 32
    --method.train.optimizer.learning-rate 1e-2 --method.evaluator-train.optimizer.learning-rate 1e-2
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_base(tmp_path_factory.mktemp("policy") / "base")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    short = lambda p: dataclasses.replace(p, chosen=cut(p.chosen), rejected=cut(p.rejected))
    drawn = [short(p) for p in JudgeWorld().draw(labels=60, draw=1)]
    jsonl.write(path, [p for p in drawn if p.chosen != p.rejected][:14])
    return path


def cut(answer: str) -> str:
    """As long as what the small policy writes: two pairs fit a row, and its programs are compiled already."""
    return " ".join(answer.split()[:3])


def job_of(base: Path, files: Path, pairs: Path, workdir: Path) -> ProxyJob:
    given = f"{SETTINGS} --workdir {workdir} --model.path {base} source:column --source.data.path {pairs}"
    return config.override(
        config.load("proxy"), f"{given} --source.data.eval-path {files}/held.jsonl".split(), name="proxy"
    )


@pytest.fixture(scope="module")
def finished(base, files, pairs, tmp_path_factory) -> ProxyJob:
    job = job_of(base, files, pairs, tmp_path_factory.mktemp("runs") / "whole")
    job.run("python -m rmjax.launch proxy")
    return job


def test_the_ledger_and_the_files(finished, pairs):
    work = Path(finished.workdir)
    summary = json.loads((work / "summary.json").read_text())
    assert summary["ledger"]["bought"] == 3 and summary["ledger"]["given_by_proxy"] == 6
    assert [(r["method"], r["labels"], r["n"]) for r in summary["rows"]] == [
        ("evaluation model", 3, 12),
        ("policy's implicit reward", 3, 12),
    ]
    votes = {v.item for v in jsonl.read(work / "buy" / "bought.jsonl", Vote)}
    labels = jsonl.read(work / "label" / "labels.jsonl", Preference)
    assert {p.id for p in labels if p.source == "bought"} == votes and len(labels) == 9
    truth = {p.id: p.chosen for p in jsonl.read(pairs, Preference)}
    assert all(p.chosen == truth[p.id] for p in labels if p.source == "bought")
    assert json.loads((work / "run.json").read_text())["spent"]["labels"] == {
        str(pairs): 3,
        finished.source.data.eval_path: 12,
    }
    assert (work / "dpo" / "export" / "model.safetensors").stat().st_size


def test_hidden_labels_have_no_say_and_a_cut_run_ends_alike(finished, base, files, pairs, tmp_path):
    """With every label turned around that was not bought, and killed after buying: the same given labels."""
    work = Path(finished.workdir)
    votes = {v.item for v in jsonl.read(work / "buy" / "bought.jsonl", Vote)}
    flip = lambda p: p if p.id in votes else Preference(**{**vars(p), "chosen": p.rejected, "rejected": p.chosen})
    turned = tmp_path / "turned.jsonl"
    jsonl.write(turned, [flip(p) for p in jsonl.read(pairs, Preference)])
    job = job_of(base, files, turned, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProxyJob, "evaluator_stage", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            job.run("")
    (tmp_path / "run" / "buy" / "done.json").unlink()  # as if killed before the stage was said to be done
    job.run("")
    by_id = lambda path: {p.id: (p.chosen, p.source) for p in jsonl.read(path / "label" / "labels.jsonl", Preference)}
    assert by_id(tmp_path / "run") == by_id(work)
    assert len((tmp_path / "run" / "buy" / "votes.jsonl").read_text().splitlines()) == 3  # paid for once


class Knows:
    """Prefers the answers that it is given, whichever comes first."""

    name = "knows"

    def __init__(self, texts: dict[str, str]):
        self.texts, self.firsts = texts, []

    def label(self, pairs):
        self.firsts += [p.first == self.texts[p.id] for p in pairs]
        choice = {True: "first", False: "second"}
        return [Vote(item=p.id, choice=choice[f], by=self.name) for p, f in zip(pairs, self.firsts, strict=True)]


def test_a_duel_is_blind_and_equal_answers_are_half_a_win(base, tmp_path):
    before, after = (Policy(*ModelSource(path=str(p)).load()) for p in (base, write_base(tmp_path / "other", seed=1)))
    prompts = {f"{i}": p for i, p in enumerate(PolicyWorld().prompts(24))}
    greedy = dataclasses.replace(METHOD.sampling, temperature=0.0)
    requests = [Request(id=i, prompt=after.chat.prompt_ids(p)) for i, p in prompts.items()]
    rollouts = Sampler(after.model, after.params, after.chat, greedy, seed=0, quiet=True).run(requests)
    oracle = Knows({f"held {r.id}": r.text for r in rollouts})
    won = duel(before, after, prompts, METHOD.sampling, oracle, 0)
    assert won["judged"] == len(oracle.firsts) == 24 - won["same_text"] and set(oracle.firsts) == {True, False}
    assert won["n"] == 24 and won["win_rate"] == (won["judged"] + won["same_text"] / 2) / 24
    alike = duel(after, after, prompts, METHOD.sampling, Knows({}), 0)
    assert (alike["win_rate"], alike["judged"], alike["same_text"]) == (0.5, 0, 24)


def test_the_same_command_repeats_nothing(finished):
    before = (Path(finished.workdir) / "summary.json").read_bytes()
    finished.run("again")
    assert (Path(finished.workdir) / "summary.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--method.budget 100 source:column --source.data.path {pairs} --source.data.eval-path {held}", "take 300"),
        ("--method.responses 8 source:column --source.data.path {pairs}", "responses are those of the file"),
        ("--method.train.seed 3", "method.train.seed=3: the job's own --seed decides"),
        ("--sft.seed 3", "sft.seed=3: the job's own --seed decides"),
        ("--method.start 0.2", "--selection random does not read it"),
        ("--selection margin --method.members 5", "--selection margin does not read it"),
        ("--selection bald --method.start 0", "Bald asks an evaluation model"),
        ("source:judge --source.data.path {pairs}", "judge.model.path is empty"),
        ("source:judge --source.held 0", "held=0"),
        ("source:column", "--data.path is empty"),
    ],
)
def test_refused(options, said, base, files, pairs, tmp_path, capsys):
    options = options.format(pairs=pairs, held=files / "held.jsonl")
    given = f"{SETTINGS} --workdir {tmp_path}/w --model.path {base} {options}".split()
    assert launch.main(["proxy", *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
    assert not (tmp_path / "w").exists()

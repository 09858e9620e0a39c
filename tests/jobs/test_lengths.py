"""What is too long is found before any work: judge prompts, hinted ones, demonstrations; dropped or refused."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from rmjax.data.sources import read_demonstrations
from rmjax.errors import UserError
from rmjax.jobs.lengths import Lengths
from rmjax.judging.judge import Judge
from rmjax.judging.prompts import JudgePrompt
from rmjax.records import Demonstration, Message, Preference
from rmjax.refine.refinement import Refinement
from rmjax.sampling.policy import Sampling

PROMPT = JudgePrompt(
    template="{question} {answer_a} {answer_b} {hint}", verdict="(A|B)", prefix=" ", hint="say {verdict} "
)
MOST = 20


class Words:
    """A chat whose tokens are words; a completion has one more, its end."""

    def prompt_ids(self, messages):
        return " ".join(m.content for m in messages).split()

    def text_ids(self, text):
        return text.split()

    def completion_ids(self, text):
        return [*text.split(), "end"]


def judge(prompt: JudgePrompt = PROMPT, *, constrained: bool = False) -> Judge:
    """Ten new tokens at twenty positions: a prompt may have ten."""
    model = SimpleNamespace(config=SimpleNamespace(max_positions=MOST))
    return Judge(model, None, Words(), prompt, Sampling(max_new_tokens=10), seed=0, constrained=constrained)


def pair(words: int) -> Preference:
    """A pair whose judge prompt has so many words, two more with a hint."""
    return Preference(prompt=(Message("user", "q " * (words - 2)),), chosen="good", rejected="bad", id=f"p{words}")


def demonstration(words: int) -> Demonstration:
    """So many tokens in all."""
    return Demonstration(prompt=(Message("user", "q q q"),), completion="c " * (words - 4), id=f"d{words}")


def fitting(lengths: Lengths, items: list[Preference], policy: str, *, hints: bool = False) -> list[str]:
    return [p.id for p in lengths.fitting(judge(), items, policy=policy, what="training pairs", hints=hints)]


def test_a_prompt_needs_room_for_the_judgment(capsys):
    items = [pair(8), pair(11), pair(10)]
    assert fitting(Lengths(), items, "drop") == ["p8", "p10"]
    assert "training pairs: 1 of 3 dropped, longer than 20 tokens" in capsys.readouterr().out
    assert fitting(Lengths(max_length=21), items, "error") == ["p8", "p11", "p10"]
    said = r"^training pairs: 1 of 3 are too long; 'p11' needs 11 tokens of prompt and 10 of judgment, the limit is 20"
    with pytest.raises(UserError, match=said):
        fitting(Lengths(), items, "error")


def test_hinted_prompts_count_where_hints_are_asked_for():
    items = [pair(8), pair(9)]
    assert fitting(Lengths(), items, "error") == ["p8", "p9"]
    assert fitting(Lengths(), items, "drop", hints=True) == ["p8"]
    with pytest.raises(UserError, match=r"'p9' needs 11 tokens of prompt with its hint and 10 of judgment"):
        fitting(Lengths(), items, "error", hints=True)


def test_a_prompt_without_hints_is_found_out():
    bare = judge(dataclasses.replace(PROMPT, hint=""))
    assert Lengths().fitting(bare, [pair(8)], policy="drop", what="pairs")
    with pytest.raises(UserError, match="hint is empty"):
        Lengths().fitting(bare, [pair(8)], policy="drop", what="pairs", hints=True)


def test_demonstrations_go_by_the_policy_of_training(capsys):
    found = [demonstration(20), demonstration(21)]
    assert Lengths().demonstrations(judge(), found, row=0) == found[:1]
    assert "demonstrations: 1 of 2 dropped, longer than 20 tokens" in capsys.readouterr().out
    assert Lengths(max_length=30).demonstrations(judge(), found, row=0) == found
    said = r"^demonstrations: 1 of 2 are too long; 'd21' needs 3 tokens of prompt and 18 of completion, the limit is 20"
    with pytest.raises(UserError, match=said):
        Lengths(train="error").demonstrations(judge(), found, row=0)


def test_a_row_of_training_is_a_limit_too():
    found = [demonstration(12), demonstration(20)]
    assert Lengths().demonstrations(judge(), found, row=16) == found[:1]
    assert Lengths().demonstrations(judge(), found, row=32) == found
    with pytest.raises(UserError, match=r"2 of 2 are too long.*the limit is 8: "):
        Lengths().demonstrations(judge(), found, row=8)


def test_the_job_says_so_before_it_begins(job, tmp_path):
    long = "demonstrations: 64 of 64 are too long"
    for change, said in (
        ({"lengths": Lengths(max_length=60)}, long),
        ({"sft": dataclasses.replace(job.sft, length=32)}, long),
        ({"method": dataclasses.replace(job.method, refinement=Refinement(hints=1))}, "hint is empty"),
    ):
        with pytest.raises(UserError, match=said):
            dataclasses.replace(job, workdir=str(tmp_path / "w"), **change).run("")
        assert not (tmp_path / "w").exists()


def test_the_job_trains_on_the_demonstrations_that_fit(job, files, tmp_path):
    found = read_demonstrations(files / "demonstrations.jsonl")
    sizes = sorted(len(f"{d.prompt[0].content} {d.completion}".split()) + 1 for d in found)
    lengths = Lengths(max_length=sizes[20])
    dataclasses.replace(job, workdir=str(tmp_path / "w"), only="sft", lengths=lengths).run("")
    done = json.loads((tmp_path / "w" / "sft" / "done.json").read_text())
    assert done["demonstrations"] == sum(size <= sizes[20] for size in sizes) < 64


def test_a_forced_verdict_needs_room_too():
    """After ten sampled tokens: the prefix (one word), the label, the end."""
    prompt = dataclasses.replace(PROMPT, prefix="so: ", suffix="")
    judges = {constrained: judge(prompt, constrained=constrained) for constrained in (False, True)}
    fits = {
        constrained: [p.id for p in Lengths().fitting(j, [pair(6), pair(8), pair(9)], policy="drop", what="pairs")]
        for constrained, j in judges.items()
    }
    assert judges[True].longest == 13
    assert fits == {False: ["p6", "p8", "p9"], True: ["p6"]}

"""Numbers that a job cannot use are refused when it is made, before any file is read; from the command line with 2."""

import dataclasses

import pytest

from rmjax import config, launch
from rmjax.errors import UserError
from rmjax.jobs.entries import AsIs, Entry
from rmjax.jobs.evaluation import Evaluation
from rmjax.jobs.gfriend import GfriendJob
from rmjax.jobs.judge import JudgeJob
from rmjax.jobs.lengths import Lengths
from rmjax.jobs.sources import PairFile, Pairs
from rmjax.jobs.verify import VerifyJob
from rmjax.methods.bradley_terry import BradleyTerry
from rmjax.methods.gfriend import Gfriend
from rmjax.sampling.policy import Sampling
from rmjax.training.loop import Train

METHOD = BradleyTerry()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GfriendJob(seed=-1), "seed=-1: give a number of at least 0"),
        (lambda: GfriendJob(sft=Train(steps=1, seed=3)), "sft.seed=3: the job's own --seed decides"),
        (lambda: JudgeJob(sampling=Sampling(temperature=0.5)), "sampling.temperature=0.5: --evaluation.temperature"),
        (lambda: JudgeJob(seed=2**32), "seed=4294967296: give a number of at least 0 and at most 4294967295"),
        (lambda: VerifyJob(seed=-1), "seed=-1"),
        (lambda: VerifyJob(samples=0), "samples=0"),
        (lambda: VerifyJob(max_new_tokens=0), "max_new_tokens=0"),
        (lambda: PairFile(limit=-1), "--data.limit -1"),
        (lambda: Pairs(limit=-1), "--data.limit -1"),
        (lambda: Pairs(eval_limit=-3), "--data.eval-limit -3"),
        (lambda: Lengths(max_length=-1), "lengths.max_length=-1"),
        (lambda: Evaluation(votes=0), "evaluation.votes=0"),
        (lambda: Evaluation(temperature=-0.5), "evaluation.temperature=-0.5"),
        (lambda: Evaluation(temperature=float("nan")), "evaluation.temperature=nan"),
        (lambda: Gfriend(samples=1), "method.samples=1"),
        (lambda: Gfriend(rounds=0), "method.rounds=0"),
        (lambda: Gfriend(sampling=Sampling(temperature=0.0)), "method.sampling.temperature=0"),
        (lambda: AsIs(temperature=-1.0), "temperature=-1.0"),
        (lambda: Entry(name="x", labels=0, method=METHOD), "entry 'x': labels=0"),
        (lambda: Entry(name="x", labels=1, method=METHOD, draws=-1), "entry 'x': draws=-1"),
        (lambda: Entry(name="x", labels=1, method=AsIs()), "entry 'x': labels=1, grid=()"),
        (lambda: Entry(name="x", labels=0, method=AsIs(), like="y"), "entry 'x': labels=0, grid=(), like='y'"),
        (
            lambda: Entry(name="x", labels=1, method=BradleyTerry(train=Train(steps=1)), grid=((1e-3, 5),), like="y"),
            "entry 'x': grid=((0.001, 5),), like='y'",
        ),
        (
            lambda: Entry(name="x", labels=0, method=AsIs(), grid=((1e-3, 5),)),
            "entry 'x': labels=0, grid=((0.001, 5),)",
        ),
        (lambda: Entry(name="x", labels=1, method=METHOD, grid=((1e-3, 5),)), "train.steps=5, train.epochs=3"),
    ],
)
def test_a_number_that_cannot_be_meant(make, said):
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value).startswith(said) or said in str(error.value).split(": ")[0]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"draws": 0}, "draws=0"),
        ({"search_draws": -1}, "search_draws=-1"),
        ({"search_draws": 101}, "search_draws=101"),
        ({"demonstrations": 0}, "demonstrations=0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"dev": 0}, "dev=0"),
        ({"test": -5}, "test=-5"),
        ({"seeds": ()}, r"seeds=\(\)"),
        ({"seeds": (1, 1)}, r"seeds=\(1, 1\)"),
        ({"seeds": (0, -1)}, r"seeds=\(0, -1\)"),
    ],
)
def test_an_impossible_study(change, said):
    with pytest.raises(UserError, match=f"^{said}: give [^\n]+$"):
        dataclasses.replace(config.load("quickstart"), **change)


@pytest.mark.parametrize(
    "command",
    [
        "gfriend --seed -1",
        "gfriend --data.eval-limit -1",
        "gfriend --lengths.max-length -1",
        "gfriend --evaluation.temperature -1",
        "gfriend --sft.optimizer.learning-rate nan",
        "gfriend --method.train.steps 30",
        "gfriend --method.train.pairs-per-group 0",
        "gfriend --method.refinement.tau inf",
        "gfriend --method.objective.loss robust --method.objective.label-smoothing 0.5",
        "judge --seed -1",
        "verify --samples 0",
        "study_noise --world.noise 1.5",
        "study_gfriend --world.faults.slip -0.1",
        "quickstart --test 0",
    ],
)
def test_the_command_line_says_it_in_one_line(command, capsys):
    assert launch.main(command.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert command.split()[-1] in said

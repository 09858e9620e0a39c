"""A study of synthetic pairs end to end with scripted writers: cells once, noise that is known, options refused."""

import dataclasses
import json
import random
from pathlib import Path

import pytest

from rmjax import config, jsonl
from rmjax.errors import UserError
from rmjax.jobs.study_rmboost import MIXED, REAL, Run, Setting, StudyRmboost
from rmjax.jobs.synthetic_bench import METHODS, Bench, best_of, noise
from rmjax.oracles.gold import GoldOracle
from rmjax.records import Message, Preference
from rmjax.refine.writers import Written
from rmjax.training.loop import Train
from rmjax.training.optimizer import Optimizer
from rmjax.worlds import editor
from rmjax.worlds.language import Answer, Question, pick
from rmjax.worlds.writer_world import WriterWorld, draw_named

TRAIN = Train(optimizer=Optimizer(learning_rate=1e-3), batch=4, steps=1, quiet=True)


@dataclasses.dataclass(frozen=True)
class Scripted:
    """A writer that does what the world's demonstrators do."""

    world: WriterWorld
    name: str = "scripted"

    def write(self, asks, *, seed, path=None, label=""):
        return [
            Written(id=a.id, index=i, text=self.text(a.prompt[0].content, random.Random(f"{seed}{a.id}{i}")), wrote=9)
            for a in asks
            for i in range(a.samples)
        ]

    def text(self, prompt: str, rng: random.Random) -> str:
        how = self.world.following
        if " edit " in prompt:
            asked, rest = prompt.split(" A : ")
            given, rest = rest.split(" edit ")
            said, *named = rest.removesuffix(" :").split()
            direction = pick(rng, editor.DIRECTIONS) if said == "any" else said
            edited = editor.edit(Question.parse(asked), Answer.parse(given), direction, named, how, rng)
            return f"<response> {edited.text} </response>"
        if prompt.endswith(" :"):
            asked, direction, _ = prompt.rsplit(" ", 2)
            steered = editor.steer(Question.parse(asked), direction, draw_named(rng, 2), how, rng)
            return f"<response> {steered.text} </response>"
        return Answer.draw(rng, Question.parse(prompt), how.right).text

    def fits(self, prompt):
        return True


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(Bench, "generator", lambda self: Scripted(self.world))
    patch.setattr(
        Bench, "judge", lambda self: GoldOracle(lambda prompt, text: self.world.gold(prompt[0].content, text))
    )
    out = StudyRmboost(
        workdir=str(tmp_path_factory.mktemp("study") / "run"),
        world=WriterWorld(drift=0.0),
        settings=(
            Setting(name="main", skill=1.0, made=METHODS, trained=METHODS),
            Setting(name="no skill", skill=0.0, made=("rmboost", "rlaif")),
        ),
        demonstrations=16,
        sft=TRAIN,
        calls=240,
        n=4,
        reward=dataclasses.replace(TRAIN, length=40),
        grid=((1e-3, 1), (1e-3, 2)),
        weights=(0.5,),
        labels=(3,),
        seeds=(0, 1),
        search_seeds=(7,),
        dev=6,
        test=8,
    )
    out.run("python -m rmjax.launch study_rmboost")
    yield out
    patch.undo()


def lines(study, name):
    return [json.loads(line) for line in (Path(study.workdir) / name).read_text().splitlines()]


def test_every_cell_is_a_row(study):
    rows = lines(study, "rows.jsonl")
    expected = [("main", s, m, 0) for s in (0, 1) for m in METHODS] + [
        ("main", s, m, 3) for s in (0, 1) for m in (REAL, MIXED)
    ]
    assert [(r["setting"], r["seed"], r["method"], r["labels"]) for r in rows] == expected
    assert all(r["n"] == 8 for r in rows)
    searched = lines(study, "search.jsonl")
    assert len(searched) == 2 * len(METHODS) + 2 + 1 and {r["n"] for r in searched} == {6}
    points = {r["method"]: (r["rate"], r["steps"]) for r in rows if not r["labels"]}
    assert points["rlcd"] == best_of([r for r in searched if r["method"] == "rlcd"], lambda r: (r["rate"], r["steps"]))
    mixed = next(r for r in rows if r["method"] == MIXED)
    made = next(
        r for r in lines(study, "made.jsonl") if (r["setting"], r["seed"], r["method"]) == ("main", 0, "rmboost")
    )
    assert mixed["trained_on"] == 3 + made["pairs"] and mixed["weight"] == 0.5


@pytest.mark.parametrize(("whose", "method", "labels"), [("synthetic", "rmboost", 0), ("real", REAL, 3)])
def test_the_mixture_has_rate_and_updates_of_one_of_its_parts(study, tmp_path, whose, method, labels):
    run = Run(dataclasses.replace(study, workdir=str(tmp_path), mixed_at=whose), "again")
    rows = [("rmboost", 0, 1, 0.9), ("rmboost", 0, 2, 0.1), (REAL, 3, 1, 0.1), (REAL, 3, 2, 0.9)]
    run.searched.rows.extend(
        {"method": m, "labels": n, "seed": 7, "rate": 1e-3, "steps": s, "weight": 0.0, "accuracy": a}
        for m, n, s, a in rows
    )
    assert run.mixed_at(3) == (1e-3, next(s for m, n, s, a in rows if (m, n, a) == (method, labels, 0.9)))


def test_the_budget_is_the_same_and_noise_is_what_the_script_makes_it(study):
    made = [r for r in lines(study, "made.jsonl") if r["seed"] in study.seeds]
    assert {r["spent"]["calls"] for r in made} == {240}
    of = lambda setting, method: [r["noise"] for r in made if (r["setting"], r["method"]) == (setting, method)]
    assert of("main", "rmboost") == of("main", "rlaif") == [0.0, 0.0]
    assert all(0.2 < x < 0.8 for x in of("main", "random-edit") + of("no skill", "rmboost"))
    facts = json.loads((Path(study.workdir) / "summary.json").read_text())
    found = {c["a"] + " - " + c["b"]: c["difference"]["value"] for c in facts["comparisons"]["label noise"]}
    assert found["rmboost - rlaif"] == 0 and found["rmboost - random-edit"] < 0
    assert found["rmboost (no skill) - rlaif (no skill)"] > 0.2
    page = (Path(study.workdir) / "report.html").read_text()
    assert "<svg" in page and "random-edit" in page and "<script" not in page


def test_a_torn_line_is_run_again_and_nothing_else(study):
    path = Path(study.workdir) / "rows.jsonl"
    before, made = path.read_text().splitlines(), (Path(study.workdir) / "made.jsonl").read_text()
    path.write_text("\n".join(before)[:-20])
    study.run("again")
    drop = lambda line: {k: v for k, v in json.loads(line).items() if k != "seconds"}
    after = path.read_text().splitlines()
    assert after[:-1] == before[:-1] and drop(after[-1]) == drop(before[-1])
    assert (Path(study.workdir) / "made.jsonl").read_text() == made


def test_noise_counts_by_hand():
    question = (Message("user", "about car 3 + 4 short no gold"),)
    pair = lambda chosen, rejected, **origin: Preference(
        prompt=question, chosen=chosen, rejected=rejected, meta={"origin": origin}
    )
    found = noise(
        WriterWorld(),
        [
            pair("car 7 lime done", "car 5 lime done", direction="better"),
            pair("car 5 lime done", "car 7 lime done", direction="worse"),
            pair("car 7 lime done", "car 7 red done", direction="worse"),
            pair("car 7 lime", "lime lime"),
        ],
    )
    assert (found["right"], found["wrong"], found["even"], found["unreadable"]) == (2, 1, 1, 1)
    assert found["noise"] == pytest.approx(1 / 3)
    assert found["wrong_by"]["worse"] == {"wrong": 1, "right": 0, "even": 1}
    assert noise(WriterWorld(), [])["noise"] is None


def test_pairs_are_kept_where_the_lines_say(study):
    folder = Path(study.workdir) / "made"
    assert {f.stem for f in folder.glob("no-skill-*")} == {
        f"no-skill-{s}-{m}" for s in (0, 1) for m in ("rmboost", "rlaif")
    }
    pairs = list(jsonl.read(folder / "main-0-rmboost.jsonl", Preference))
    line = next(
        r for r in lines(study, "made.jsonl") if (r["setting"], r["seed"], r["method"]) == ("main", 0, "rmboost")
    )
    assert len(pairs) == line["pairs"] == sum(line["directions"].values())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"seeds": (0, 7)}, "overlap"),
        ({"seeds": (0,)}, "two or more"),
        ({"weights": (0.0,)}, "positive"),
        ({"calls": 3}, "calls"),
        ({"aspects": 6}, "aspects"),
        ({"sft": dataclasses.replace(TRAIN, profile=1)}, "sft.profile=1: this training keeps no files"),
        ({"reward": dataclasses.replace(TRAIN, eval_every=1)}, "reward.eval_every=1: this training keeps no files"),
        ({"world": WriterWorld(skill=0.5)}, "world.skill"),
        ({"settings": (Setting(name="a", skill=1.0, made=("rlaif",), trained=("rlaif",)),)}, "rmboost and rlaif"),
    ],
)
def test_studies_that_cannot_be_run(study, change, match):
    with pytest.raises(UserError, match=match):
        dataclasses.replace(study, **change)


def test_settings_name_methods():
    with pytest.raises(UserError, match="made="):
        Setting(name="a", skill=1.0, made=("rmbost",))
    with pytest.raises(UserError, match="scored by"):
        Setting(name="a", skill=1.0, made=("west-of-n",))


def test_the_shipped_config_loads():
    job = config.override(config.load("study_rmboost"), ["--seeds", "0", "1"], name="study_rmboost")
    assert job.settings[0].trained == METHODS and len(job.weights) == len(job.grid)

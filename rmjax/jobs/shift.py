"""Does a reward model survive a policy that moves? Methods in the reward world, tested round by round.

Labels are of round 0, settings are chosen on folds of those labels, and every round's policy has drifted further. A row
of MetaRM says whose unlabelled answers it sees when it is tested on round t:

    this round      the policy that it is tested on (round t)
    round before    the policy as it was before it moved on to round t
    training        the training distribution (round 0): the control

Each is trained with a linear head and with one hidden layer, because differences, all that a linear head sees, do not
change when a policy moves as a whole (`rmjax.methods.shift`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from rmjax.bounds import require
from rmjax.data.features import Features
from rmjax.evaluation import curves, report
from rmjax.evaluation.pairwise import Accuracy, Comparison, compare_runs
from rmjax.evaluation.provenance import Provenance
from rmjax.evaluation.rounds import difference_table, grid, grid_table
from rmjax.evaluation.sections import Panel, ReportData
from rmjax.evaluation.summary import Row, accuracies, groups, write_summary
from rmjax.jobs import worlds
from rmjax.jobs.curve import rates
from rmjax.jobs.workdir import Workdir
from rmjax.methods.frozen import Bench, Frozen
from rmjax.methods.secrets import MetaRm, SimCse, Swav
from rmjax.methods.shift import Hidden, HiddenMetaRm, adapted, joined
from rmjax.training.frozen.nonlinear import Schedule
from rmjax.worlds.reward_world import Labelled, RewardWorld

console = Console()
BASELINE, HIDDEN, RELABELLED = "Bradley-Terry", "hidden layer", "Bradley-Terry, labels of the round"
META = {"MetaRM": MetaRm(), "hidden layer, MetaRM": HiddenMetaRm()}
THIS, BEFORE, TRAINING = "this round", "round before", "training"
NOTE = (
    "A controlled world. Every method has the same labels, all of round 0, and chooses its setting on folds of them; "
    "in each later round the answers are those of a policy that has climbed further. Each panel is one method (blue) "
    "and the tuned Bradley-Terry head (grey); bands are 95 % intervals (Student's t) over worlds. MetaRM's rows name "
    "the policy whose unlabelled answers it sees. 'Labels of the round' is no method of this setting: it is the same "
    "head with as many labels of the very round, that is, what new labels would buy."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shift:
    """Heads trained on round 0 of the reward world and tested on every round of a policy that drifts away.

    A new world, label draw and test for every seed. MetaRM sees unlabelled answers of the round that it is tested on,
    of the round before, or of the training distribution.
    """

    workdir: str = "runs/shift"
    world: RewardWorld = RewardWorld()  # its seed is the first seed's
    labels: int = 500  # of round 0
    unlabelled: int = 500  # pairs of answers of each round, for MetaRM
    test: int = 2000  # pairs of each round
    rounds: int = 5  # after round 0
    seeds: int = 20
    frozen: Frozen = Frozen(schedule=Schedule(hidden=32, steps=300))

    def __post_init__(self) -> None:
        require("", self, "labels", "unlabelled", "test", least=10)
        require("", self, "rounds", least=1)
        require("", self, "seeds", least=2)
        Hidden().head(self.frozen.schedule.hidden)
        self.world.require_seeds(self.seeds)

    def run(self, command: str = "") -> None:
        """Runs the seeds that rows.jsonl lacks; writes summary.json and report.html; prints the tables."""
        self.conclude(*worlds.trials(self, command))

    def trial(self, seed: int) -> dict[str, Any]:
        """One world: accuracies of every method by round, the settings taken, and MetaRM's at each of its settings."""
        start = time.perf_counter()
        world = dataclasses.replace(self.world, seed=seed)
        rounds = range(self.rounds + 1)
        tests = [world.pairs(self.test, split="test", round=t) for t in rounds]
        bench = self.bench(world.pairs(self.labels), tests)
        base = bench.baseline(self.labels, [0])
        found, settings = {BASELINE: base.differences[0]}, {BASELINE: base.words[0]}
        for name, method in (("+ SimCSE", SimCse()), ("+ SwAV", Swav()), (HIDDEN, Hidden())):
            fitted = bench.auxiliary(self.labels, [0], method, base)
            found[name], settings[name] = fitted.differences[0], fitted.words[0]
        accuracy = {name: rates(d, len(rounds)) for name, d in found.items()}
        places, every = [answers(world, self.unlabelled, t) for t in rounds], {}
        for name, method in META.items():
            fitted, at = adapted(bench, self.labels, 0, method, base, places)
            # [place, round]: trained with unlabelled answers of one round, tested on another.
            by_place = np.array([rates(d, len(rounds)) for d in fitted.differences])
            late = np.maximum(np.arange(len(rounds)) - 1, 0)
            accuracy[f"{name}, {THIS}"] = np.diag(by_place).tolist()
            accuracy[f"{name}, {BEFORE}"] = by_place[late, np.arange(len(rounds))].tolist()
            accuracy[f"{name}, {TRAINING}"] = by_place[0].tolist()
            settings[name] = list(fitted.words)
            every[name] = np.array([[rates(d, len(rounds)) for d in place] for place in at])
            times = self.frozen.schedule.penalties
            diagonal = np.diagonal(every[name], axis1=0, axis2=2)  # [settings, rounds]
            same = int(np.argmin(np.abs(np.log(times))))  # the baseline's own penalty, or what comes nearest
            every[name] = diagonal.reshape(-1, len(times), len(rounds))[:, same].round(5).tolist()
        accuracy[RELABELLED] = [self.relabelled(world, t, tests[t]) for t in rounds]
        return {
            "accuracy": accuracy,
            "settings": settings,
            "by_eta": every,
            "seconds": round(time.perf_counter() - start, 3),
        }

    def bench(self, train: Labelled, tests: Sequence[Labelled]) -> Bench:
        """Heads on labelled pairs, evaluated on all tests."""
        held = joined([t.features() for t in tests])
        return Bench(train.features(), held, train.records(), self.frozen, parts=1, seed=0)

    def relabelled(self, world: RewardWorld, round: int, test: Labelled) -> float:
        """The baseline with as many labels of the round itself: no method of this setting, but what new labels buy."""
        labelled = world.pairs(self.labels, round=round)
        return rates(self.bench(labelled, [test]).baseline(self.labels, [0]).differences[0], 1)[0]

    def conclude(self, work: Workdir, lines: Sequence[Mapping[str, Any]], provenance: Provenance) -> None:
        """Writes summary.json, run.json and report.html; prints accuracies and paired differences."""
        rows, last = self.rows(lines), self.rounds
        found = curves.holm(compared(rows, last))
        names = list(lines[0]["accuracy"])
        shown = groups(rows)
        dots = {m: [] for m in names}
        for g, row in zip(shown, (rows[i] for i in range(0, len(rows), len(lines))), strict=True):
            dots[row.extra["title"]].append(curves.Dot(row.extra["round"], g.accuracy, g.low, g.high))
        tried = self.frozen.settings()
        tested = {name: self.frozen.settings(m) for name, m in META.items()}
        facts = {
            "testbed": "controlled world",
            "comparisons": [dataclasses.asdict(c) for c in found.values()],
            "p": f"Student's t over paired worlds, Holm's correction for {len(found)} comparisons",
            "settings_tried": {BASELINE: tried, **tested},
            "by_eta": {name: np.mean([x["by_eta"][name] for x in lines], axis=0).tolist() for name in META},
            "etas": {name: list(m.grid) for name, m in META.items()},
        }
        write_summary(work / "summary.json", rows, **facts)
        run = provenance.finish()
        figure = curves.figure(dots, baseline=BASELINE, across="round", label="Accuracy by round and method")
        note = f"{NOTE} {curves.CORRECTED.format(len(found))}"
        data = ReportData(
            title="Shift survived?",
            testbed="controlled world",
            lead=f"{self.labels:,} labels of round 0, {self.seeds} worlds, {self.test:,} test pairs a round; the "
            f"policy gains {self.world.drift:g} standard deviations of reward a round.",
            panels=(
                Panel(id="rounds", title="Accuracy by round", note=note, body=figure + grid(dots, across="round")),
            ),
            comparisons=list(found.values()),
            run=run,
        )
        report.write(work / "report.html", data)
        console.print(f"\n[bold]reward world[/], accuracy in % by round, mean over {len(lines)} worlds")
        console.print(grid_table(dots, across="round"))
        console.print("\n[bold]Paired differences over the same worlds[/], points; *: stands after Holm's correction")
        console.print(difference_table(found, across="round"))
        console.print(curves.CORRECTED.format(len(found)))
        console.print(f"report: [bold]{work / 'report.html'}[/]   numbers: {work / 'summary.json'}")

    def rows(self, lines: Sequence[Mapping[str, Any]]) -> list[Row]:
        """A row for each method, round and world, in this order."""
        row = lambda name, t, x: Row.of(
            Accuracy.of(x["accuracy"][name][t], self.test),
            method=f"{name}, round {t}",
            labels=self.labels,
            seed=x["seed"],
            seconds=x["seconds"],
            title=name,
            round=t,
        )
        names = lines[0]["accuracy"]
        return [row(name, t, x) for name in names for t in range(self.rounds + 1) for x in lines]


def answers(world: RewardWorld, count: int, round: int) -> Features:
    """Two unlabelled answers of a round's policy to each of `count` prompts of their own."""
    drawn = world.responses(count, 2, round=round)
    return Features(tuple(map(str, range(count))), drawn[:, 0], drawn[:, 1])


def compared(rows: Sequence[Row], last: int) -> dict[curves.Point, Comparison]:
    """What is compared, at every round over the same worlds; pairs that are the same by construction are left out."""
    linear, bent = META
    pairs = [("+ SimCSE", BASELINE), ("+ SwAV", BASELINE), (HIDDEN, BASELINE)]
    for name, control in ((linear, BASELINE), (bent, HIDDEN)):
        pairs += [(f"{name}, {THIS}", control), (f"{name}, {BEFORE}", control)]
        pairs += [(f"{name}, {THIS}", f"{name}, {TRAINING}")]
    runs: dict[tuple[str, int], list[Row]] = {}
    for r in rows:
        runs.setdefault((r.extra["title"], r.extra["round"]), []).append(r)
    of = lambda name, t: accuracies(runs[name, t])
    return {
        (f"{a} - {b}", t): compare_runs(of(a, t), of(b, t), names=(f"{a}, round {t}", f"{b}, round {t}"))
        for a, b in pairs
        for t in range(last + 1)
        if t > 0 or not (b.endswith(TRAINING) or a.endswith(BEFORE))
    }

"""Few labels against all in the reward world: Proto-RM's claim, methods at shares of Bradley-Terry's labels."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from rmjax.bounds import require
from rmjax.errors import UserError
from rmjax.evaluation import curves
from rmjax.evaluation.pairwise import Comparison, compare_runs
from rmjax.evaluation.provenance import Provenance
from rmjax.evaluation.rounds import difference_table
from rmjax.evaluation.sections import ReportData
from rmjax.evaluation.summary import Row, accuracies, groups, write_summary
from rmjax.jobs import worlds
from rmjax.jobs.curve import BASELINE, METHODS, budget, known_methods, learn, lines, require_read, row
from rmjax.jobs.workdir import Workdir
from rmjax.methods.frozen import Bench, Frozen
from rmjax.worlds.reward_world import RewardWorld

console = Console()


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurveWorld:
    """Heads in the reward world at shares of the labels; every method is compared with Bradley-Terry on all of them.

    A new world, label draw and test for every seed. Fewer labels of a seed are among its more.
    """

    workdir: str = "runs/curve_world"
    world: RewardWorld = RewardWorld()  # its seed is the first seed's
    pool: int = 1000  # labels that are all
    shares: tuple[float, ...] = (0.05, 0.1, 0.2)  # of them, beside all
    test: int = 4000
    seeds: int = 20
    methods: tuple[str, ...] = ("proto-rm",)  # beside Bradley-Terry; `curve` lists them
    frozen: Frozen = Frozen()

    def __post_init__(self) -> None:
        require("", self, "pool", "test", least=10)
        require("", self, "seeds", least=2)
        known_methods(self.methods)
        require_read(self.frozen.schedule, self.methods)
        if not all(0 < share < 1 for share in self.shares) or len(set(self.counts())) <= len(self.shares):
            raise UserError(f"shares={self.shares}: give shares of {self.pool} labels between 0 and 1, all different")
        self.world.require_seeds(self.seeds)

    def counts(self) -> list[int]:
        """Numbers of labels, all last."""
        return [*sorted(max(1, round(share * self.pool)) for share in self.shares), self.pool]

    def run(self, command: str = "") -> None:
        """Runs the seeds that rows.jsonl lacks; writes summary.json and report.html; prints the tables."""
        self.conclude(*worlds.trials(self, command))

    def trial(self, seed: int) -> dict[str, Any]:
        """One world: a line for each method and number of labels."""
        world = dataclasses.replace(self.world, seed=seed)
        train, test = world.pairs(self.pool), world.pairs(self.test, split="test")
        bench = Bench(train.features(), test.features(), train.records(), self.frozen, parts=1, seed=0)
        found = []
        for labels in self.counts():
            base = None
            for title, method in self.titled():
                begun = time.perf_counter()
                fitted = bench.baseline(labels, [0]) if method is None else learn(bench, labels, [0], method, base)
                base = fitted if method is None else base
                (line,) = lines(fitted, time.perf_counter() - begun)
                del line["run"], line["items"]
                found.append({"method": title, "labels": labels, **line})
        return {"runs": found}

    def conclude(self, work: Workdir, cells: Sequence[Mapping[str, Any]], provenance: Provenance) -> None:
        """Writes summary.json, run.json and report.html; prints accuracies and paired differences."""
        tried = {title: self.frozen.settings(m) for title, m in self.titled()}
        rows = [
            row(x["method"], x["labels"], {**x, "run": i}, self.world.seed, False, tried[x["method"]])
            for i, cell in enumerate(cells)
            for x in cell["runs"]
        ]
        order = [title for title, _ in self.titled()]
        rows.sort(key=lambda r: (r.labels, order.index(r.method), r.draw))
        found = curves.holm(self.compared(rows))
        write_summary(
            work / "summary.json",
            rows,
            testbed="controlled world",
            comparisons=[dataclasses.asdict(c) for c in found.values()],
            p=f"Student's t over paired worlds, Holm's correction for {len(found)} comparisons",
            settings_tried=tried,
        )
        data = ReportData(
            title="Few labels against all",
            testbed="controlled world",
            lead=f"{self.seeds} worlds, {self.test:,} test pairs each; a label draw in the tables is a world. "
            + budget(tried),
            rows=rows,
            comparisons=list(found.values()),
            run=provenance.finish(),
        )
        curves.write(work / "report.html", data, baseline=BASELINE)
        console.print(f"\n[bold]reward world[/], {self.test:,} test pairs; over {self.seeds} worlds")
        console.print(curves.accuracy_table(groups(rows), {}))
        console.print("\n[bold]Paired differences over the same worlds[/], points; *: stands after Holm's correction")
        console.print(difference_table(found, across="labels"))
        console.print(curves.CORRECTED.format(len(found)))
        console.print(f"report: [bold]{work / 'report.html'}[/]   numbers: {work / 'summary.json'}")

    def compared(self, rows: Sequence[Row]) -> dict[curves.Point, Comparison]:
        """Every method against the baseline with as many labels, and against the baseline with all."""
        of = lambda method, labels: accuracies([r for r in rows if (r.method, r.labels) == (method, labels)])
        out = {}
        for title, _ in self.titled()[1:]:
            for labels in self.counts():
                for against, what in {labels: "as many", self.pool: "all"}.items():
                    a, b = f"{title}, {labels:,} labels", f"{BASELINE}, {against:,} labels"
                    pair = compare_runs(of(title, labels), of(BASELINE, against), names=(a, b))
                    out[f"{title} - {BASELINE} on {what}", labels] = pair
        return out

    def titled(self) -> list[tuple[str, Any]]:
        """The methods by the names that they are shown under, the baseline (None) first."""
        return [(BASELINE, None), *(METHODS[m] for m in self.methods)]

"""How often the planner's intervals hold the truth, on simulated learning curves whose law is known.

python -m benchmarks.planner [--seeds 1000]
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np
from rich.console import Console
from rich.table import Table

from rmjax.evaluation.learning_curve import Draw, middle, points
from rmjax.evaluation.planner import Plan, Rule

Law = tuple[float, float, float]
CASES: tuple[tuple[Law, tuple[int, ...], int], ...] = (
    ((0.8, 1.5, 0.5), (50, 100, 200), 20),
    ((0.9, 1.0, 0.3), (50, 100, 200, 500), 10),
    ((0.75, 3.0, 0.8), (50, 100, 200, 400, 800), 5),
    ((0.8, 1.5, 0.5), (50, 100, 200), 3),
    ((0.6, 0.0, 1.0), (50, 100, 200, 400), 10),
    ((0.6, 0.0, 1.0), (50, 100, 200), 20),
)


def truth(law: Law, labels: int) -> float:
    """The accuracy with so many labels."""
    a, b, c = law
    return a - b * labels**-c


def simulated(
    law: Law, labels: tuple[int, ...], draws: int, *, seed: int, shared: float = 0.008, own: float = 0.015
) -> dict[int, dict[Draw, float]]:
    """Accuracies of label draws, with noise that a draw has at all its numbers of labels and noise at each alone."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0, shared, draws)
    return {n: {(d, 0): truth(law, n) + common[d] + rng.normal(0, own) for d in range(draws)} for n in labels}


def main() -> None:
    """Prints a row a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    seeds, rule = parser.parse_args().seeds, Rule(samples=400)
    table = Table("law", "labels", "draws", "accuracy at 4n", "labels for 2n's", "finding", "told, inside", "advice")
    for law, labels, draws in CASES:
        far, goal = 4 * labels[-1], 2 * labels[-1]
        wish = truth(law, goal) if law[1] else law[0] + 0.1
        accuracy = needed = inside = 0
        finding, advice = Counter(), Counter()
        for seed in range(seeds):
            plan = Plan(points(simulated(law, labels, draws, seed=seed)), rule, seed=seed)
            there = plan.at(far)
            accuracy += there.low <= truth(law, far) <= there.high
            low, high = middle(plan.curves.needed(wish))
            needed += low <= goal <= high
            found = plan.needed(wish)
            finding[found.finding] += 1
            inside += found.finding == "told" and found.low <= goal <= found.high
            advice[plan.step().advice] += 1
        words = lambda c: ", ".join(f"{name} {n / seeds:.1%}" for name, n in c.most_common())
        reached = f"{needed / seeds:.1%}" if law[1] else "never"
        told = f"{inside} of {finding['told']}" if law[1] else ""
        table.add_row(
            str(law), str(labels), str(draws), f"{accuracy / seeds:.1%}", reached, words(finding), told, words(advice)
        )
    Console(width=180).print(table)


if __name__ == "__main__":
    main()

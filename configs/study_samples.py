"""Ablation: 2, 4, 8 and 16 judgments a label; all pairs of them against one."""

from configs._base import FEW, PLAIN, ablation, gfriend_row
from rmjax.jobs.study import Study


def get_config() -> Study:
    orders = {2: "item", 4: "random", 8: "random", 16: "random"}  # two samples in two orders would make no pair
    rows = [gfriend_row(f"all pairs of {k}", FEW, samples=k, orders=o) for k, o in orders.items()]
    rows += [gfriend_row(f"one pair of {k}", FEW, samples=k, orders=o, refinement=PLAIN) for k, o in orders.items()]
    return ablation("samples", rows)

"""Ablation: 16, 32, 64 and 128 labels."""

from configs._base import PLAIN, ablation, gfriend_row
from rmjax.jobs.study import Study


def get_config() -> Study:
    rows = []
    for labels in (16, 32, 64, 128):
        rows += [
            gfriend_row("DPO, 2 samples", labels, samples=2, orders="item", refinement=PLAIN),
            gfriend_row("DPO, one pair of 16", labels, refinement=PLAIN),
            gfriend_row("GFRIEND", labels),
        ]
    return ablation("labels", rows, baseline="DPO, 2 samples")

"""Ablation: one label in five is flipped."""

import dataclasses

from configs._base import FEW, PLAIN, ablation, gfriend_row
from rmjax.jobs.study import Study
from rmjax.worlds.judge_world import JudgeWorld


def get_config() -> Study:
    rows = [
        gfriend_row("DPO, 2 samples", FEW, samples=2, orders="item", refinement=PLAIN),
        gfriend_row("DPO, one pair of 16", FEW, refinement=PLAIN),
        gfriend_row("GFRIEND", FEW),
    ]
    return dataclasses.replace(ablation("noise", rows), world=JudgeWorld(noise=0.2))

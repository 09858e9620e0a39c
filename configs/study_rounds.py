"""Ablation: one, two and three rounds of sampling anew, for GFRIEND and for its baselines."""

from configs._base import FEW, PLAIN, ablation, gfriend_row
from rmjax.jobs.study import Study
from rmjax.refine.refinement import Refinement


def get_config() -> Study:
    rows = []
    for rounds in (1, 2, 3):
        for name, refinement in (("DPO, one pair of 16", PLAIN), ("GFRIEND", Refinement())):
            word = f"{rounds} round{'s' * (rounds > 1)}"
            rows.append(gfriend_row(f"{name}, {word}", FEW, refinement=refinement, rounds=rounds))
    return ablation("rounds", rows)

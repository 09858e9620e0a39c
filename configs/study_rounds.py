"""Ablation: one, two and three rounds of sampling anew, for GFRIEND and for its baselines."""

from configs._base import FEW, PLAIN, ablation, gfriend_row
from rmjax.jobs.study import Study


def get_config() -> Study:
    rows = []
    for rounds in (1, 2, 3):
        word = f"{rounds} round{'s' * (rounds > 1)}"
        rows += [
            gfriend_row(f"DPO, one pair of 16, {word}", FEW, refinement=PLAIN, rounds=rounds),
            gfriend_row(f"GFRIEND, {word}", FEW, rounds=rounds),
        ]
    return ablation("rounds", rows)

"""The main study: GFRIEND against its baselines in the judge world, 3 SFT seeds, 10 label draws, equal search."""

from configs._base import (
    ALL,
    DEMONSTRATIONS,
    FEW,
    PLAIN,
    SFT,
    bradley_terry_row,
    gfriend_row,
    judge_row,
    sft_rows,
)
from rmjax.jobs.study import Study

ROUNDS = 3


def get_config() -> Study:
    """Rows with one round and rows with three; rows on all labels get three draws, for their draws differ little."""
    entries = list(sft_rows())
    entries += [bradley_terry_row("Bradley-Terry head", labels, draws=3) for labels in (FEW, ALL)]
    for rounds in (1, ROUNDS):
        word = "1 round" if rounds == 1 else f"{rounds} rounds"
        entries += [
            judge_row(f"DPO, 2 samples, {word}", FEW, samples=2, orders="item", refinement=PLAIN, rounds=rounds),
            gfriend_row(f"DPO, one pair of 16, {word}", FEW, refinement=PLAIN, rounds=rounds),
            gfriend_row(f"GFRIEND, {word}", FEW, rounds=rounds),
            judge_row(f"DPO, {word}", ALL, samples=4, orders="item", refinement=PLAIN, rounds=rounds, draws=3),
        ]
    return Study(
        workdir="runs/study_gfriend",
        sft=SFT,
        demonstrations=DEMONSTRATIONS,
        entries=tuple(entries),
        baseline=f"DPO, 2 samples, 1 round, {FEW} labels",
    )

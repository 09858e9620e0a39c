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

ROUNDS = 2


def get_config() -> Study:
    """Rows with one round, each searched alike, and the same rows with more rounds at the settings found.

    Rows on all labels get one draw per SFT seed: their draws differ little and cost most.
    """
    entries = [
        *sft_rows(),
        bradley_terry_row("Bradley-Terry head", FEW),
        bradley_terry_row("Bradley-Terry head", ALL, draws=1),
    ]
    for rounds in (1, ROUNDS):
        name = lambda method, rounds=rounds: f"{method}, {rounds} round{'s' * (rounds > 1)}"
        like = lambda method, labels, rounds=rounds: f"{method}, 1 round, {labels} labels" if rounds > 1 else ""
        two, one, all_ = "DPO, 2 samples", "DPO, one pair of 16", "DPO"
        entries += [
            judge_row(
                name(two),
                FEW,
                samples=2,
                orders="item",
                refinement=PLAIN,
                rounds=rounds,
                like=like(two, FEW),
            ),
            gfriend_row(name(one), FEW, refinement=PLAIN, rounds=rounds, like=like(one, FEW)),
            gfriend_row(name("GFRIEND"), FEW, rounds=rounds, like=like("GFRIEND", FEW)),
            judge_row(
                name(all_),
                ALL,
                samples=4,
                orders="item",
                refinement=PLAIN,
                rounds=rounds,
                draws=1,
                like=like(all_, ALL),
            ),
        ]
    return Study(
        workdir="runs/study_gfriend",
        sft=SFT,
        demonstrations=DEMONSTRATIONS,
        entries=tuple(entries),
        baseline="DPO, 2 samples, 1 round",
    )

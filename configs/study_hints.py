"""Ablation: what to do with labels whose samples are all right or all wrong: nothing, retries, hints."""

from configs._base import FEW, ablation, gfriend_row
from rmjax.jobs.study import Study
from rmjax.refine.refinement import Refinement


def get_config() -> Study:
    rows = [
        gfriend_row("no second try", FEW, samples=4),
        gfriend_row(
            "one retry with 4 more an order", FEW, samples=4, refinement=Refinement(retries=1, retry_samples=4)
        ),
        gfriend_row("one hint for a missing verdict", FEW, samples=4, refinement=Refinement(hints=1)),
    ]
    return ablation("hints", rows)

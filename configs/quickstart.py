"""The whole method against its baselines in a small controlled world, on a CPU, nothing downloaded."""

import dataclasses

from configs._base import ALL, DEMONSTRATIONS, FEW, PLAIN, SFT, bradley_terry_row, judge_row, sft_rows
from rmjax.jobs.study import Study
from rmjax.refine.refinement import Refinement


def get_config() -> Study:
    entries = (
        *sft_rows(),
        bradley_terry_row("Bradley-Terry head", FEW),
        bradley_terry_row("Bradley-Terry head", ALL),
        judge_row("DPO, 2 samples a label", FEW, samples=2, orders="item", refinement=PLAIN),
        judge_row("DPO, one pair of 16 samples", FEW, samples=16, orders="random", refinement=PLAIN),
        judge_row("GFRIEND", FEW, samples=16, orders="random", refinement=Refinement()),
        judge_row("DPO, all labels", ALL, samples=4, orders="item", refinement=PLAIN),
    )
    return Study(
        workdir="runs/quickstart",
        sft=SFT,
        demonstrations=DEMONSTRATIONS,
        seeds=(0,),
        draws=1,
        search_draws=0,
        test=1024,
        entries=tuple(dataclasses.replace(e, grid=()) for e in entries),
        keep=True,
        baseline="DPO, 2 samples a label",
    )

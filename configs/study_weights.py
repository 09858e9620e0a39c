"""Ablation: do perplexity weights earn their place? Off, absolute, quantile levels, rank; signed against unsigned."""

from configs._base import FEW, ablation, gfriend_row
from rmjax.jobs.study import Study
from rmjax.refine.refinement import PAPER, Refinement

VARIANTS = {
    "weights off": Refinement(weights="off"),
    "signed, tau 10, given the prompt": Refinement(),
    "signed, tau 10, reasoning alone": Refinement(context="none"),
    "the paper's constants": PAPER,
    "levels at the median": Refinement(grade="levels"),
    "signed, rank, alpha 4": Refinement(score="rank", alpha=4.0),
    "unsigned, rank, alpha 4": Refinement(score="rank", grade="unsigned", alpha=4.0),
}


def get_config() -> Study:
    entries = [gfriend_row(name, FEW, refinement=refinement) for name, refinement in VARIANTS.items()]
    return ablation("weights", entries)

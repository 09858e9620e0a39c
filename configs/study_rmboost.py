"""Synthetic pairs in a controlled world: RMBoost, RLAIF, West-of-N, RLCD and random edits at one budget."""

from rmjax.jobs.study_rmboost import Setting, StudyRmboost
from rmjax.jobs.synthetic_bench import METHODS
from rmjax.training.loop import Train
from rmjax.training.optimizer import Optimizer
from rmjax.worlds.demonstrator import Faults

CAREFUL = Faults(wrong_priority=0.0, quick=0.0, always_a=0.0)  # slips are left
NOISE_ONLY = 1024  # generator calls where no reward model is trained
THREE = ("rmboost", "rlaif", "rlcd")


def get_config() -> StudyRmboost:
    return StudyRmboost(
        workdir="runs/study_rmboost",
        settings=(
            Setting(name="main", skill=0.9, made=METHODS, trained=METHODS),
            Setting(name="careful judges", skill=0.9, faults=CAREFUL, made=THREE, trained=THREE),
            Setting(name="skill 0.3", skill=0.3, trained=THREE),
            Setting(name="skill 0.6", skill=0.6, calls=NOISE_ONLY),
            Setting(name="200 updates", skill=0.9, steps=200, calls=NOISE_ONLY),
            Setting(name="400 updates", skill=0.9, steps=400, calls=NOISE_ONLY),
        ),
        sft=Train(
            optimizer=Optimizer(learning_rate=3e-3, b2=0.98, warmup=37, schedule="cosine", end=0.05, clip=1.0),
            batch=16,
            steps=600,
            quiet=True,
        ),
        reward=Train(
            optimizer=Optimizer(learning_rate=1e-3, b2=0.98, warmup=10, schedule="constant", clip=1.0),
            batch=16,
            steps=400,
            length=40,
            quiet=True,
        ),
    )

"""The main setting of `study_rmboost` on ten seeds that nothing was chosen or looked at with: does its lead hold?"""

import dataclasses

from configs import study_rmboost
from rmjax.jobs.study_rmboost import StudyRmboost


def get_config() -> StudyRmboost:
    study = study_rmboost.get_config()
    return dataclasses.replace(
        study,
        workdir="runs/study_rmboost_again",
        settings=study.settings[:1],
        labels=(),
        seeds=tuple(range(6, 16)),
    )

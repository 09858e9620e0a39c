"""Write preference pairs whose label is known by construction: RMBoost, RLAIF, West-of-N, RLCD, random edits."""

from rmjax.jobs.rmboost import RmBoostJob


def get_config() -> RmBoostJob:
    return RmBoostJob()

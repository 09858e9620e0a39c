"""Plan: how many labels a wished accuracy needs, when to stop buying, and what runs have spent."""

from rmjax.jobs.plan import PlanJob


def get_config() -> PlanJob:
    return PlanJob()

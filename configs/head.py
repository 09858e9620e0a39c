"""From a frozen model and few labelled pairs to a reward model: a tuned head, exported, evaluated, in a minute."""

from rmjax.jobs.head import HeadJob


def get_config() -> HeadJob:
    return HeadJob()

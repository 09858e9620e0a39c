"""Judge pairs with a model: per-item scores, accuracy with its interval, consistency, position bias."""

from rmjax.jobs.judge import JudgeJob


def get_config() -> JudgeJob:
    return JudgeJob()

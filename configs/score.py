"""Score pairs or single responses with a reward model: per-item scores, accuracy by set, length, calibration."""

from rmjax.jobs.score import ScoreJob


def get_config() -> ScoreJob:
    return ScoreJob()

"""Check a model's scores: batch size, padding, order, sharing, export; sampled against teacher-forced numbers."""

from rmjax.jobs.verify import VerifyJob


def get_config() -> VerifyJob:
    return VerifyJob()

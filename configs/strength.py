"""How strong each label is: an ensemble's mean and spread, suspicious labels, a treated copy to train on."""

from rmjax.jobs.strength import StrengthJob


def get_config() -> StrengthJob:
    return StrengthJob()

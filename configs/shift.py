"""A policy drifts away from the labels in a controlled world: MetaRM against Bradley-Terry, accuracy by round."""

from rmjax.jobs.shift import Shift


def get_config() -> Shift:
    return Shift()

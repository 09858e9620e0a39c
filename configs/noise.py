"""Flip labels of your own pairs and look for them: how well strength would find wrong labels there."""

from rmjax.jobs.noise import NoiseJob


def get_config() -> NoiseJob:
    return NoiseJob()

"""Flip labels of a controlled world and look for them: strength, its treatments, accuracy won back."""

from rmjax.jobs.noise import NoiseWorldJob


def get_config() -> NoiseWorldJob:
    return NoiseWorldJob()

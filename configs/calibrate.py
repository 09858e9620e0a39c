"""Fit a reward model's temperature, offset and, if asked, length term on held-out pairs; kept in its directory."""

from rmjax.jobs.calibrate import CalibrateJob


def get_config() -> CalibrateJob:
    return CalibrateJob()

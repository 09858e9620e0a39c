"""Few labels against all in a controlled world: Proto-RM at 5, 10 and 20 % against Bradley-Terry at 100 %."""

from rmjax.jobs.curve_world import CurveWorld


def get_config() -> CurveWorld:
    return CurveWorld()

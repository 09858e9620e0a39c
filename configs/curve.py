"""Accuracy against the number of labels: methods side by side on frozen features, bands, paired tests, a plot."""

from rmjax.jobs.curve import Curve


def get_config() -> Curve:
    return Curve()

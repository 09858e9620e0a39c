"""Accuracy of fully fine-tuned reward models against the number of labels: methods side by side over label draws."""

from rmjax.jobs.curve_tuned import CurveTuned


def get_config() -> CurveTuned:
    return CurveTuned()

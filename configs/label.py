"""Label pairs yourself, on a local web page or in the terminal: agreement of several annotators, a file to train on."""

from rmjax.jobs.label import LabelJob


def get_config() -> LabelJob:
    return LabelJob()

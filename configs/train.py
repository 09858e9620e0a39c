"""From your model and labelled pairs to a scalar reward model: train, export, evaluate on held-out pairs."""

from rmjax.jobs.train import TrainJob


def get_config() -> TrainJob:
    return TrainJob()

"""Self-training on frozen features: labels by confident scores or by labelling functions, before and after."""

from rmjax.jobs.self_train import SelfTrain


def get_config() -> SelfTrain:
    return SelfTrain()

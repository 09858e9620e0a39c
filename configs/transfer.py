"""Train heads on one source of real pairs and test them on the others: a matrix, Bradley-Terry and MetaRM."""

from rmjax.jobs.transfer import Transfer


def get_config() -> Transfer:
    return Transfer()

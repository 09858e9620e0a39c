"""The proxy oracle: buy few labels, let an evaluation model label nine times as many, train a policy with DPO."""

from rmjax.jobs.proxy import ProxyJob


def get_config() -> ProxyJob:
    return ProxyJob()

"""From your model and labelled pairs to a generative reward model: SFT, sample, refine, M-DPO, evaluate, export."""

from rmjax.jobs.gfriend import GfriendJob


def get_config() -> GfriendJob:
    return GfriendJob()

"""GFRIEND with the constants of the paper's public code (the default differs: docs/methods/gfriend.md)."""

import dataclasses

from configs import gfriend
from rmjax.jobs.gfriend import GfriendJob
from rmjax.refine.refinement import PAPER


def get_config() -> GfriendJob:
    job = gfriend.get_config()
    return dataclasses.replace(job, method=dataclasses.replace(job.method, refinement=PAPER))

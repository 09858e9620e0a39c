"""Labels bought in rounds in a controlled world: selection strategies side by side, labels saved against random."""

from rmjax.jobs.active_world import ActiveWorld


def get_config() -> ActiveWorld:
    return ActiveWorld()

"""Labels hidden and bought in rounds: selection strategies side by side on real pairs, labels saved against random."""

from rmjax.jobs.active import Active


def get_config() -> Active:
    return Active()

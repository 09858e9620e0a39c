"""Write a reward model for others: weights, tokenizer, card; reloaded, compared, near in transformers."""

from rmjax.jobs.reward_export import ExportJob


def get_config() -> ExportJob:
    return ExportJob()
